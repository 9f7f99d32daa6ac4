"""The own format: the same bits back, and one clear error for files that are damaged, altered, newer or foreign."""

import errno
import json
import math
import random
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem.base import files
from monosem.base.errors import ArgumentError, CheckpointError, OutputError
from monosem.base.tensors import UncheckedWarning
from monosem.core.activations import ACTIVATIONS, Activation, TopK
from monosem.core.io import (
    FORMAT,
    activation_from_text,
    activation_to_text,
    cast_parameters,
    layout_from_plain,
    layout_to_plain,
    load_config,
    load_model,
    load_outline,
    model_tensors,
    save_model,
)
from monosem.core.model import SDL
from monosem.core.pairs import PAIRINGS, SAE, Crosscoder, Layout
from monosem.core.rownorm import RowNorm, RowNormSDL

EXAMPLES = {name: kind(k=2) if "k" in signature(kind).parameters else kind()
            for name, kind in ACTIVATIONS.items()}  # fmt: skip
WIDTHS = {
    "sae": (6,),
    "transcoder": (6,),
    "skip_transcoder": (6,),
    "crosscoder": (6, 4),
    "cross_layer": (6, 4),
    "weakly_causal": (6, 4),
}


def _layouts() -> dict[str, Layout]:
    layouts = {name: pairing.layout(12, WIDTHS[name], WIDTHS[name]) for name, pairing in PAIRINGS.items()}
    return layouts | {"private": Crosscoder(private=0.25).layout(12, (6, 4), (6, 4))}


def _model(activation: Activation, layout: Layout, dtype: torch.dtype = torch.float32, pre_bias: Any = "free") -> SDL:
    model = cast_parameters(SDL(layout, activation, pre_bias), dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for state in model.activation_state().values():
            state.fill_(1 / 3)
    return model


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("pairing", _layouts())
def test_the_same_bits_come_back(name: str, pairing: str, tmp_path: Path) -> None:
    model = _model(EXAMPLES[name], _layouts()[pairing])
    save_model(model, tmp_path, {"note": [1, "two"]})
    again = load_model(tmp_path)
    assert not again.training
    assert (again.activation, again.layout, again.pre_bias) == (model.activation, model.layout, model.pre_bias)
    before, after = model_tensors(model), model_tensors(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert load_config(tmp_path).metadata == {"note": [1, "two"]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_come_back_and_a_threshold_stays_float64(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(_model(EXAMPLES["batch_topk"], _layouts()["sae"], dtype), tmp_path)
    again = load_model(tmp_path)
    assert again.b_E.dtype == again.encoder.weights[0].dtype == dtype
    assert again.activation_state()["threshold"] == torch.tensor(1 / 3, dtype=torch.float64)


def test_row_norms_and_tied_weights_come_back(tmp_path: Path) -> None:
    model = RowNormSDL(SAE().layout(12, (6,), (6,)), TopK(2), "tied", RowNorm("rms", 0.5, False))
    model.encoder.weights = model.decoder.weights
    with torch.no_grad():
        model.decoder.weights[0].normal_()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, RowNormSDL)
    assert again.norm == model.norm
    x = torch.randn(7, 6)
    assert torch.equal(again(x).x_r_hat, model(x).x_r_hat)


@pytest.mark.parametrize("name", EXAMPLES)
def test_activations_and_layouts_read_back_from_text(name: str) -> None:
    assert activation_from_text(activation_to_text(EXAMPLES[name])) == EXAMPLES[name]
    for layout in _layouts().values():
        assert layout_from_plain(json.loads(json.dumps(layout_to_plain(layout)))) == layout


@pytest.mark.parametrize("text", ["topk", "topk(k=2, j=3)", "topk(k='2')", "__import__('os')", "topk(k=2"])
def test_activation_texts_that_are_none(text: str) -> None:
    with pytest.raises(ArgumentError):
        activation_from_text(text)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(_model(EXAMPLES["jumprelu"], _layouts()["sae"]), tmp_path / "model")


def _change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        inner, _, key = name.rpartition("__")
        (config[inner] if inner else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"format": "monosem.model/2"}, r"monosem\.model/2.*this version reads.*update monosem"),
    ({"format": "other/1"}, r"not 'monosem\.model/1'.*interop\.load"),
    ({"format": None}, "not 'monosem"),
    ({"activation": "nothing()"}, "unknown activation"),
    ({"activation": 3}, "activation is 3, not a text"),
    ({"activation": "relu()"}, r"unexpected \['act\.theta'\]"),
    ({"pre_bias": "loose"}, "pre_bias is 'loose', not one of 'none', 'free', 'tied'"),
    ({"dtype": "int8"}, "dtype is 'int8', not one of"),
    ({"layout": None}, "layout is None, not an object"),
    ({"layout__n_q": 10**15}, "lies outside|its config says"),
    ({"layout__n_q": -1}, "layout.n_q is -1, not 1 or more"),
    ({"layout__n_q": 12.5}, "layout.n_q is 12.5, not a whole number"),
    ({"layout__n_q": True}, "layout.n_q is True, not a whole number"),
    ({"layout__p_widths": []}, "lies outside"),
    ({"layout__encoder": [[0, 12, 0, 600]]}, "lies outside"),
    ({"layout__encoder": [[0, 12, 0]]}, r"layout.encoder\[0\] is .*, not a list of 4"),
    ({"layout__decoder": []}, "lies outside"),
    ({"row_norm": {"kind": "layer_norm", "scale": 2}}, "row_norm.scale is 2, not a field that is known"),
    ({"row_norm": 7}, "row_norm is 7, not an object or null"),
    ({"metadata": []}, r"metadata is \[\], not an object"),
    ({"sha257": "0"}, "sha257 is '0', not a field that is known"),
    ({"activation": "jumprelu()"}, "do not belong together"),
]


@pytest.mark.parametrize(("changes", "reason"), CHANGES, ids=[str(c) for c, _ in CHANGES])
def test_altered_config_is_one_clear_error(changes: dict[str, Any], reason: str, saved: Path) -> None:
    _change(saved, **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unclosed_layout_of_many_latents_is_refused_before_memory_is_asked_for(saved: Path) -> None:
    many = 10**13
    _change(saved, layout__n_q=many, layout__encoder=[[0, many, 0, 6]], layout__decoder=[[0, many, 0, 6]])
    with pytest.raises(CheckpointError, match=r"b_E has shape \(12,\), its config says \(10000000000000,\)"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_tensors(keep: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read.*truncated or altered"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0, 10, -3])
def test_truncated_config(keep: int, saved: Path) -> None:
    path = saved / "config.json"
    path.write_text(path.read_text()[:keep])
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load_model(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_model(saved)


def _refused(folder: Path, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_model(folder)


def test_altered_tensors(saved: Path) -> None:
    path = saved / "model.safetensors"
    whole = load_file(path)
    for altered, reason in [
        ({k: v for k, v in whole.items() if k != "b_in"}, r"missing \['b_in'\]"),
        (whole | {"more": torch.zeros(2)}, r"unexpected \['more'\]"),
        (whole | {"b_E": torch.zeros(3)}, r"b_E has shape \(3,\)"),
        (whole | {"act.theta": torch.zeros(12, 1)}, r"act\.theta is torch\.float32 of shape \(12, 1\)"),
        (whole | {"b_in": torch.zeros(6, dtype=torch.int64)}, "b_in is torch.int64"),
        ({k: v for k, v in whole.items() if k != "encoder.0"}, "encoder.0 has shape None"),
    ]:
        save_file(altered, path, {"format": FORMAT})  # without a checksum, as an older version would
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncheckedWarning)
            _refused(saved, reason)


def test_every_flipped_bit_is_seen(saved: Path) -> None:
    """800 bits of both files, anywhere: an altered model never loads without a word."""
    chance = random.Random(0)
    for name in ("model.safetensors", "config.json"):
        path, whole = saved / name, (saved / name).read_bytes()
        for bit in chance.sample(range(len(whole) * 8), 400):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(CheckpointError):
                load_model(saved)
        path.write_bytes(whole)
    load_model(saved)


def test_a_model_of_an_older_version_loads_with_a_word(saved: Path) -> None:
    path = saved / "model.safetensors"
    save_file(load_file(path), path, {"format": FORMAT})
    with pytest.warns(UncheckedWarning, match="an older version wrote it"):
        load_model(saved)
    save_file(load_file(path), path, {"format": FORMAT, "sha257": "0"})  # a flipped bit in the checksum's name
    _refused(saved, r"unknown \['sha257'\]")


def test_weights_that_are_not_finite_are_refused_unless_asked_for(saved: Path) -> None:
    for name, value in (("encoder.0", math.nan), ("b_D", math.inf), ("act.theta", -math.inf)):
        model = load_model(saved)
        dict(model_tensors(model))[name].view(-1)[0] = value
        save_model(model, saved.parent / "bad")
        _refused(saved.parent / "bad", f"{name} holds NaN or infinity.*unchecked=True")
        again = load_model(saved.parent / "bad", unchecked=True)
        assert not torch.isfinite(model_tensors(again)[name]).all()
    model = load_model(saved)
    model_tensors(model)["act.theta"][0] = math.inf  # a latent that never fires
    save_model(model, saved.parent / "bad")
    load_model(saved.parent / "bad")


def test_a_config_of_another_run_is_refused(saved: Path) -> None:
    other = save_model(_model(EXAMPLES["jumprelu"], _layouts()["sae"]), saved.parent / "other", {"note": 1})
    (other / "config.json").replace(saved / "config.json")
    _refused(saved, "config.json and model.safetensors do not belong together")
    assert load_model(saved, unchecked=True).n_q == 12


def test_a_full_disk_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two files fails: the first is not renamed either."""
    before, fill = {path.name: path.read_bytes() for path in saved.iterdir()}, files._fill

    def full(part: Path, write: Any) -> None:
        if "config.json" in part.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fill(part, write)

    monkeypatch.setattr(files, "_fill", full)
    with pytest.raises(OutputError, match=r"config.json cannot be written \(No space left on device\)"):
        save_model(_model(EXAMPLES["relu"], _layouts()["sae"]), saved)
    assert before == {path.name: path.read_bytes() for path in saved.iterdir()}


def test_device_and_dtype(saved: Path) -> None:
    model = load_model(saved, dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.W_D, load_model(saved).W_D.bfloat16())


def test_an_outline_has_shapes_and_no_numbers(saved: Path) -> None:
    whole, outline = model_tensors(load_model(saved)), model_tensors(load_outline(saved))
    assert all(outline[name].is_meta and outline[name].shape == whole[name].shape for name in whole)


def test_json_that_breaks_parsers_is_damage(saved: Path) -> None:
    for text in ("[" * 100_000, "1" * 5000, "\x00", "[]"):
        (saved / "config.json").write_text(text)
        with pytest.raises(CheckpointError):
            load_model(saved)

"""Every format without its peer: the same function after a round trip, formulas from the notes, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem import interop
from monosem.base.errors import CheckpointError, MonosemError, RefusedError
from monosem.core.activations import AbsTopK, ReLU, TopK
from monosem.core.pairs import SAE, Transcoder
from monosem.interop.build import kind_of
from tests.interop.models import (
    LAYERS,
    SAE_LAYOUT,
    D,
    F,
    inputs,
    ours,
    random_model,
    values,
)
from tests.interop.notes import write_notes
from tests.interop.rows import ROWS

WRITABLE = [name for name, format in interop.FORMATS.items() if format.write and name != "monosem"]
OURS = [(format, case) for format in WRITABLE for case in ours(format)]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {folder.name: folder for _, folder in write_notes(tmp_path_factory.mktemp("notes"))}


@pytest.mark.parametrize(("format", "case"), OURS)
def test_written_and_read_again_is_the_same_function(format: str, case: str, tmp_path: Path) -> None:
    model, metadata = ours(format)[case]
    assert interop.recognise(interop.save(model, tmp_path, format, metadata)) == format
    loaded = interop.read(tmp_path)
    x = inputs(model.layout.n_p)
    for found, expected in zip(values(loaded.model, x), values(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert kind_of(loaded.model) == kind_of(model)
    expected_names = {} if format == "sparsify" else {"model_name": "toy", "hook_name": "blocks.0.hook_resid_post"}
    assert {name: loaded.metadata.get(name) for name in expected_names} == expected_names
    again = tmp_path / "again"
    interop.save(loaded.model, again, format, loaded.metadata)
    for path in sorted(tmp_path.glob("*.safetensors")):
        before, after = load_file(path), load_file(again / path.name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), path.name


def test_every_row_of_the_table_has_its_case(notes: dict[str, Path]) -> None:
    for row in ROWS:
        if row.which == "notes":
            assert row.case in notes, row
        if row.which == "ours":
            assert row.case in ours(row.format), row
    for format in WRITABLE:
        assert {row.case for row in ROWS if (row.format, row.which) == (format, "ours")} == set(ours(format))


def _close(found: tuple[Tensor, Tensor], latents: Tensor, x_hat: Tensor) -> None:
    for name, a, b in (("latents", found[0], latents), ("x_hat", found[1], x_hat)):
        assert float(b.abs().max()) > 0.1, name
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_openai_topk_normalises_every_row_in_and_out(notes: dict[str, Path]) -> None:
    s = torch.load(notes["openai-topk"] / "0.pt", weights_only=True)
    x = inputs(D).double()
    mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    z = ((x - mean) / (std + 1e-5) - s["pre_bias"]) @ s["encoder.weight"].double().T + s["latent_bias"]
    top = z.topk(5, dim=1)
    latents = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    x_hat = (latents @ s["decoder.weight"].double().T + s["pre_bias"]) * std + mean
    loaded = interop.read(notes["openai-topk"])
    _close(values(loaded.model, x.float()), latents, x_hat)
    assert loaded.dead == pytest.approx(1 / F)


def test_openai_relu_may_be_tied_and_normalises_nothing(notes: dict[str, Path]) -> None:
    s = torch.load(notes["openai-relu-tied"] / "0.pt", weights_only=True)
    x = inputs(D).double()
    latents = ((x - s["pre_bias"]) @ s["encoder.weight"].double().T + s["latent_bias"]).relu()
    x_hat = latents @ s["encoder.weight"].double() + s["pre_bias"]
    _close(values(interop.load(notes["openai-relu-tied"]), x.float()), latents, x_hat)


@pytest.mark.parametrize("case", [row.case for row in ROWS if row.format == "crosscoder"])
def test_crosscoder_follows_its_formula(case: str, notes: dict[str, Path]) -> None:
    s = {k: v.double() if v.is_floating_point() else v for k, v in load_file(notes[case] / "model.safetensors").items()}
    x = inputs(D * LAYERS).double()
    rows = x.reshape(-1, LAYERS, D)
    standard = not bool(s["activation_mean"].isnan().any())
    scale = s["activation_global_scale"][:, None]
    inward = (rows - s["activation_mean"]) * scale if standard else rows
    f = (torch.einsum("bld,ldf->bf", inward, s["encoder.weight"]) + s["encoder.bias"]).relu()
    W = s["decoder.weight"]
    sae, summed = W.pow(2).sum((0, 2)).sqrt(), W.norm(dim=2).sum(0)
    norm = {1: summed, 2: sae, 3: sae + 0.1 * summed, 4: torch.ones(F).double()}[int(s["code_normalization_id"])]
    if "threshold" in s:
        f = f * (f * norm > s["threshold"])
    x_hat = torch.einsum("bf,lfd->bld", f, W) + s["decoder.bias"]
    if standard:
        x_hat = x_hat / (scale + 1e-8) + s["activation_mean"]
    loaded = interop.read(notes[case])
    assert kind_of(loaded.model) == "crosscoder"
    _close(values(loaded.model, x.float()), f, x_hat.flatten(1))


def test_crosscoder_from_an_older_pt_file_of_a_compiled_model(notes: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(notes["crosscoder-relu"] / "model.safetensors")
    wanted = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "code_normalization_id")
    torch.save({f"_orig_mod.{name}": tensors[name] for name in wanted}, tmp_path / "ae.pt")
    x = inputs(D * LAYERS)
    _close(values(interop.load(tmp_path), x), *values(interop.load(notes["crosscoder-relu"]), x))


def test_gemma_scope_formulas(notes: dict[str, Path]) -> None:
    s = {name: torch.from_numpy(v).double() for name, v in np.load(notes["gemma_scope_1"] / "params.npz").items()}
    x = inputs(D).double()
    z = x @ s["W_enc"] + s["b_enc"]
    latents = z.relu() * (z > s["threshold"])
    _close(values(interop.load(notes["gemma_scope_1"]), x.float()), latents, latents @ s["W_dec"] + s["b_dec"])
    path = notes["gemma_scope_2-transcoder-skip"] / "params.safetensors"
    s = {name: value.double() for name, value in load_file(path).items()}
    z = x @ s["w_enc"] + s["b_enc"]
    latents = z.relu() * (z > s["threshold"])
    x_hat = latents @ s["w_dec"] + s["b_dec"] + x @ s["affine_skip_connection"]
    assert interop.recognise(path) == "gemma_scope_2"
    _close(values(interop.load(path), x.float()), latents, x_hat)


def test_gemma_scope_embedding_asks_for_its_scale(notes: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "embedding" / "width_4k"
    folder.mkdir(parents=True)
    (folder / "params.npz").write_bytes((notes["gemma_scope_1"] / "params.npz").read_bytes())
    with pytest.raises(RefusedError, match=r"sqrt\(n_p\).*input_scale"):
        interop.load(folder)
    x = inputs(D)
    scaled = interop.load(folder, input_scale=0.5)
    plain = interop.load(notes["gemma_scope_1"])
    latents, x_hat = values(plain, 0.5 * x)
    _close(values(scaled, x), latents, x_hat / 0.5)


def test_gemma_scope_cross_layer_needs_every_layer_and_no_way_back(notes: dict[str, Path], tmp_path: Path) -> None:
    files = sorted(notes["gemma_scope_2-cross"].glob("*.safetensors"))
    with pytest.raises(RefusedError, match=r"1 file.*3 layers"):
        interop.load(files[0])
    tensors = load_file(files[2])
    tensors["w_dec"][:, 0] = 1.0
    for file in files[:2]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(tensors, tmp_path / files[2].name)
    with pytest.raises(RefusedError, match="before its own"):
        interop.load(tmp_path)


def test_dictionary_learning_backup_is_unwrapped_and_its_biases_scaled(tmp_path: Path) -> None:
    model, metadata = ours("dictionary_learning")["BatchTopKSAE"]
    interop.save(model, tmp_path / "final", "dictionary_learning", metadata)
    state = torch.load(tmp_path / "final" / "ae.pt", weights_only=True)
    factor = 3.0
    backup = {"step": 7, "ae": state, "optimizer": {}, "config": {}, "norm_factor": factor}
    folder = tmp_path / "backup"
    folder.mkdir()
    torch.save(backup, folder / "ae.pt")
    (folder / "config.json").write_text((tmp_path / "final" / "config.json").read_text())
    x = inputs(D)
    latents, x_hat = values(model, x / factor)  # training saw x / factor
    _close(values(interop.load(folder), x), latents * factor, x_hat * factor)


def test_dictionary_learning_twins_need_their_config(tmp_path: Path) -> None:
    model, _ = ours("dictionary_learning")["BatchTopKSAE"]
    interop.save(model, tmp_path, "dictionary_learning")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"AutoEncoderTopK and BatchTopKSAE look alike.*config\.json"):
        interop.load(tmp_path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save(
        {"pre_bias": Evil(), "latent_bias": torch.zeros(2), "encoder.weight": torch.zeros(2, 2)}, tmp_path / "0.pt"
    )
    with pytest.raises(CheckpointError, match=r"0\.pt cannot be read: .*need its code to be run"):
        interop.load(tmp_path / "0.pt")
    assert not (tmp_path / "was_here").exists()


def test_llamascopium_pt_files_hold_the_same_under_a_key(notes: dict[str, Path], tmp_path: Path) -> None:
    whole = notes["llamascopium"]
    torch.save({"sae": load_file(whole / "sae_weights.safetensors"), "version": "2"}, tmp_path / "sae_weights.pt")
    (tmp_path / "config.json").write_text((whole / "config.json").read_text())
    x = inputs(D)
    _close(values(interop.load(tmp_path), x), *values(interop.load(whole), x))


def test_settings_that_are_no_json_survive_as_text(notes: dict[str, Path], tmp_path: Path) -> None:
    for path in notes["old-standard"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "cfg.json").read_text()) | {"l1": float("nan")}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    loaded = interop.read(tmp_path)
    assert loaded.metadata["source"]["config"]["l1"] == "nan"
    interop.save(loaded.model, tmp_path / "own", metadata=loaded.metadata)
    assert interop.read(tmp_path / "own").metadata == loaded.metadata


def test_sparsify_old_signed_is_abs_topk(tmp_path: Path) -> None:
    model, _ = ours("sparsify")["topk"]
    interop.save(model, tmp_path, "sparsify")
    config = json.loads((tmp_path / "cfg.json").read_text()) | {"signed": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert interop.load(tmp_path).activation == AbsTopK(5)


def test_saelens_scale_that_the_file_does_not_hold_is_asked_for(notes: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((notes["old-standard"] / "cfg.json").read_text()) | {"normalize_activations": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = "sae_weights.safetensors"
    (tmp_path / weights).write_bytes((notes["old-standard"] / weights).read_bytes())
    with pytest.raises(RefusedError, match=r"average norm.*pass input_scale"):
        interop.load(tmp_path)
    x = inputs(D)
    _close(values(interop.load(tmp_path, 1.0), x), *values(interop.load(notes["old-standard"]), x))


def test_saelens_records_dead_latents(notes: dict[str, Path], tmp_path: Path) -> None:
    for path in notes["old-standard"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rates = torch.full((F,), -2.0)
    rates[:4] = -10.0
    save_file({"sparsity": rates}, tmp_path / "sparsity.safetensors")
    assert interop.read(tmp_path).dead == pytest.approx(0.1)


def test_a_tensor_too_many_is_not_dropped(tmp_path: Path) -> None:
    interop.save(random_model(ReLU(), SAE_LAYOUT), tmp_path, "saelens")
    path = tmp_path / "sae_weights.safetensors"
    save_file(load_file(path) | {"surprise": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"\['surprise'\] are unknown"):
        interop.load(tmp_path)


def test_a_file_stands_for_its_folder(tmp_path: Path) -> None:
    interop.save(random_model(TopK(5), SAE().layout(F, (D,), (D,))), tmp_path, "sparsify")
    assert interop.recognise(tmp_path / "sae.safetensors") == "sparsify"
    interop.save(random_model(ReLU(), Transcoder().layout(F, (D,), (D,))), tmp_path / "set", "circuit_tracer")
    assert kind_of(interop.load(tmp_path / "set" / "layer_0.safetensors")) == "transcoder"
    with pytest.raises(MonosemError):
        interop.load(tmp_path / "cfg.json" / "no")

"""What cannot be expressed is refused, with the reason, in both directions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem import interop
from monosem.base.errors import CheckpointError, RefusedError, UnknownNameError
from monosem.core.activations import AbsTopK, BatchTopK, Binary, Gated, GroupMax, JumpReLU, ReLU, TopK
from monosem.core.pairs import Crosscoder
from monosem.core.rownorm import RowNorm
from tests.interop.models import ACROSS, CROSS, SAE_LAYOUT, SET, SQUARE, D, F, random_model
from tests.interop.notes import write_notes


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {folder.name: folder for _, folder in write_notes(tmp_path_factory.mktemp("notes"))}


REFUSED_READING: list[tuple[str, dict[str, Any], str]] = [
    ("llamascopium", {"use_glu_encoder": True}, "gated linear unit"),
    ("llamascopium", {"norm_activation": "batch-wise"}, "more than its own input row"),
    ("llamascopium", {"act_fn": "batchtopk"}, "depends on the batch"),
    ("llamascopium", {"sae_type": "lorsa"}, "no sparse dictionary of one encoder"),
    ("crosscoder-batchtopk", {"code_normalization": "DECOUPLED"}, "decoupled codes"),
    ("old-standard", {"architecture": "temporal"}, "other tokens through attention"),
]


@pytest.mark.parametrize(("case", "changes", "reason"), REFUSED_READING, ids=[r for *_, r in REFUSED_READING])
def test_what_sdl_cannot_express_is_refused_with_the_reason(
    case: str, changes: dict[str, Any], reason: str, notes: dict[str, Path], tmp_path: Path
) -> None:
    for path in notes[case].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if case.startswith("crosscoder"):
        tensors = load_file(tmp_path / "model.safetensors")
        save_file(tensors | {"code_normalization_id": torch.tensor(5)}, tmp_path / "model.safetensors")
    name = "cfg.json" if case.startswith("old") else "config.json"
    (tmp_path / name).write_text(json.dumps(json.loads((tmp_path / name).read_text()) | changes))
    with pytest.raises(RefusedError, match=reason):
        interop.load(tmp_path)


NORMED = RowNorm(eps=1e-3)
REFUSALS: list[tuple[str, Any, str]] = [
    ("saelens", random_model(GroupMax(8), SAE_LAYOUT), "GroupMax: it has no such activation"),
    ("saelens", random_model(Binary(), SAE_LAYOUT), "Binary"),
    ("saelens", random_model(TopK(5, rank_by_norm=True), SAE_LAYOUT), "fold_decoder_norm"),
    ("saelens", random_model(TopK(5), ACROSS), "a transcoder with TopK"),
    ("saelens", random_model(ReLU(), CROSS), r"this model \(cross_layer\)"),
    ("saelens", random_model(ReLU(), Crosscoder().layout(F, (D, D), (D, D))), "a crosscoder"),
    ("saelens", random_model(ReLU(), SAE_LAYOUT, norm=NORMED), "eps=0.001"),
    ("dictionary_learning", random_model(ReLU(), ACROSS), "a transcoder: it has autoencoders only"),
    ("dictionary_learning", random_model(AbsTopK(5), SAE_LAYOUT), "AbsTopK"),
    ("dictionary_learning", random_model(BatchTopK(4.5), SAE_LAYOUT), "k=4.5: its k is a whole number"),
    ("dictionary_learning", random_model(ReLU(), SAE_LAYOUT, norm=RowNorm()), "layer_norm"),
    ("sparsify", random_model(ReLU(), SAE_LAYOUT), "ReLU: its activations are TopK and GroupMax"),
    ("sparsify", random_model(BatchTopK(5), SAE_LAYOUT), "BatchTopK"),
    ("sparsify", random_model(TopK(5), ACROSS), "one width"),
    ("circuit_tracer", random_model(ReLU(), SAE_LAYOUT), "a sae: it has transcoders"),
    ("circuit_tracer", random_model(TopK(5), SQUARE), "its files hold ReLU or thresholds"),
    ("circuit_tracer", random_model(Gated(), SQUARE), "Gated"),
    ("circuit_tracer", random_model(ReLU(), ACROSS), "the model's width"),
    ("circuit_tracer", random_model(ReLU(), SQUARE, norm=RowNorm("rms", 0.0)), "per-row normalisation"),
    ("openai", random_model(ReLU(), SAE_LAYOUT), "reads OpenAI.*does not write"),
]


@pytest.mark.parametrize(("format", "model", "reason"), REFUSALS, ids=[f"{f}-{r[:24]}" for f, _, r in REFUSALS])
def test_what_a_format_cannot_express_is_refused_with_the_reason(
    format: str, model: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=reason):
        interop.save(model, tmp_path / "out", format)
    assert not (tmp_path / "out").exists(), "a refusal leaves nothing behind"


def test_a_skip_across_layers_is_refused_by_circuit_tracer(tmp_path: Path) -> None:
    for layout, reason in ((SET, "W_skip crosses layers"), (CROSS, "no place for it")):
        with pytest.raises(RefusedError, match=reason):
            interop.save(random_model(ReLU(), replace(layout, skip=True)), tmp_path, "circuit_tracer")


def test_negative_thresholds_are_refused_where_relu_comes_with_them(tmp_path: Path) -> None:
    model = random_model(JumpReLU(), SAE_LAYOUT)
    with torch.no_grad():
        model.act["theta"][3] = -0.1
    with pytest.raises(RefusedError, match="1 thresholds are negative"):
        interop.save(model, tmp_path, "saelens")


def test_a_saelens_architecture_that_no_encoder_expresses_is_refused(notes: dict[str, Path], tmp_path: Path) -> None:
    config = {"architecture": "temporal", "metadata": {"sae_lens_version": "6.1.0"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    weights = "sae_weights.safetensors"
    (tmp_path / weights).write_bytes((notes["old-standard"] / weights).read_bytes())
    with pytest.raises(RefusedError, match="temporal"):
        interop.load(tmp_path)


def test_unknown_paths_contents_and_formats_say_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        interop.load(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"readme\.txt.*saelens: cfg\.json"):
        interop.load(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'saelens'"):
        interop.save(random_model(ReLU(), SAE_LAYOUT), tmp_path, "sealens")

"""What is known of a network survives every format that has a place for it, and nothing is invented."""

import json
from pathlib import Path

import pytest

from monosem import interop
from monosem.interop.build import NAMED
from tests.interop.models import ours

KNOWN = {
    "model_name": "toy",
    "hook_name": "blocks.3.hook_mlp_in",
    "hook_name_out": "blocks.3.hook_mlp_out",
    "layer": 3,
    "dataset_path": "some/texts",
    "context_size": 128,
}
ROUTES = {
    "saelens": ("transcoder", set(NAMED)),
    "dictionary_learning": ("AutoEncoderNew", {"model_name", "hook_name", "layer", "context_size"}),
    "circuit_tracer": ("one-relu", {"model_name", "hook_name", "hook_name_out"}),
    "sparsify": ("topk", set()),
    "monosem": ("transcoder", set(NAMED)),
}


def _saved(folder: Path, format: str, metadata: dict[str, object]) -> Path:
    model, _ = ours("saelens" if format == "monosem" else format)[ROUTES[format][0]]
    return interop.save(model, folder, format, metadata)


def _read(folder: Path) -> dict[str, object]:
    return {name: value for name, value in interop.read(folder).metadata.items() if name in NAMED}


@pytest.mark.parametrize("format", ROUTES)
def test_what_is_known_survives(format: str, tmp_path: Path) -> None:
    assert _read(_saved(tmp_path / "once", format, KNOWN)) == {name: KNOWN[name] for name in ROUTES[format][1]}
    again = interop.read(tmp_path / "once")
    interop.save(again.model, tmp_path / "own", "monosem", again.metadata)
    whole = interop.read(tmp_path / "own")
    interop.save(whole.model, tmp_path / "twice", format, whole.metadata)
    assert _read(tmp_path / "twice") == _read(tmp_path / "once")


@pytest.mark.parametrize("format", ROUTES)
def test_nothing_is_invented(format: str, tmp_path: Path) -> None:
    assert _read(_saved(tmp_path / "layers.5.mlp", format, {})) == {}


def test_a_file_for_saelens_names_a_version_that_reads_it(tmp_path: Path) -> None:
    cfg = _saved(tmp_path / "a", "saelens", {}) / "cfg.json"
    assert json.loads(cfg.read_text())["metadata"]["sae_lens_version"] == "6.37.7"
    config = json.loads(cfg.read_text())
    config["metadata"] |= {"sae_lens_version": "6.54.12", "neuronpedia_id": "x"}
    cfg.write_text(json.dumps(config))
    loaded = interop.read(tmp_path / "a")
    interop.save(loaded.model, tmp_path / "b", "saelens", loaded.metadata)
    kept = json.loads((tmp_path / "b/cfg.json").read_text())["metadata"]
    assert (kept["sae_lens_version"], kept["neuronpedia_id"]) == ("6.54.12", "x")

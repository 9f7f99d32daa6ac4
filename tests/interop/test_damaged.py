"""Damaged files: whatever happens to a file, it loads or there is one clear error that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from monosem import interop
from monosem.base.errors import CheckpointError, RefusedError
from monosem.core.model import SDL
from tests.interop.models import ours
from tests.interop.notes import write_notes

CASES = {
    "saelens": "jumprelu",
    "dictionary_learning": "BatchTopKSAE",
    "sparsify": "skip_transcoder",
    "circuit_tracer": "cross-jumprelu",
    "monosem": "topk",
    "gemma_scope": "gemma_scope_1",
    "gemma_scope_2": "gemma_scope_2-cross",
    "llama_scope": "llama_scope",
    "llamascopium": "llamascopium",
    "openai": "openai-topk",
    "crosscoder": "crosscoder-standardised",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    folders = {folder.name: folder for _, folder in write_notes(root / "notes")}
    made = {format: folders[case] for format, case in CASES.items() if case in folders}
    for format, case in CASES.items():
        if format not in made:
            kind = "saelens" if format == "monosem" else format
            model, metadata = ours(kind)[case]
            made[format] = interop.save(model, root / format, format, metadata)
    return made


def test_every_format_is_damaged_here() -> None:
    assert set(CASES) == set(interop.FORMATS)


@pytest.mark.parametrize("format", CASES)
def test_whole_files_load(format: str, whole: dict[str, Path]) -> None:
    assert interop.recognise(whole[format]) == format
    assert isinstance(interop.load(whole[format]), SDL)


def _loads_or_says_why(folder: Path) -> None:
    try:
        assert isinstance(interop.load(folder), SDL)
    except (CheckpointError, RefusedError) as error:
        message = str(error)
        assert str(folder) in message
        assert "\n" not in message, message
        assert len(message) < 1500, message


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(allow_nan=False), st.text(max_size=8))


VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=4), SCALARS, max_size=2))


@st.composite
def _damage(draw: st.DrawFn) -> tuple[str, Callable[[Path], None]]:
    """What to do to a file, and its name; which file is drawn by position."""
    kind = draw(st.sampled_from(["cut", "flip", "empty", "remove", "noise", "config", "drop", "shape"]))
    where, amount = draw(st.floats(0, 1)), draw(st.integers(1, 255))
    value = draw(
        st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=4), SCALARS, max_size=2))
    )
    noise = draw(st.binary(max_size=64))

    def apply(path: Path) -> None:
        data = path.read_bytes()
        at = min(int(where * len(data)), len(data) - 1)
        if kind == "cut":
            path.write_bytes(data[:at])
        elif kind == "flip":
            path.write_bytes(data[:at] + bytes([data[at] ^ amount]) + data[at + 1 :])
        elif kind == "empty":
            path.write_bytes(b"")
        elif kind == "remove":
            path.unlink()
        elif kind == "noise":
            path.write_bytes(noise)
        elif kind == "config" and path.suffix == ".json":
            _change_config(path, where, value)
        elif path.suffix == ".safetensors":
            _change_tensor(path, where, kind == "drop")
        elif path.suffix == ".pt":
            _change_state(path, where, kind == "drop", value)

    return kind, apply


def _change_config(path: Path, where: float, value: Any) -> None:
    config = json.loads(path.read_text())
    targets = [(config, key) for key in config]
    targets += [(inner, key) for inner in config.values() if isinstance(inner, dict) for key in inner]
    inner, key = targets[min(int(where * len(targets)), len(targets) - 1)]
    inner[key] = value
    path.write_text(json.dumps(config))


def _change_tensor(path: Path, where: float, drop: bool) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[min(int(where * len(tensors)), len(tensors) - 1)]
    tensor = tensors.pop(name)
    if not drop:
        tensors[name] = tensor.flatten()[: tensor.numel() // 2].clone()
    save_file(tensors, path)


def _change_state(path: Path, where: float, drop: bool, value: Any) -> None:
    state = torch.load(path, weights_only=True)
    name = sorted(state)[min(int(where * len(state)), len(state) - 1)]
    held = state.pop(name)
    if not drop:
        state[name] = held.flatten()[: held.numel() // 2].clone() if isinstance(held, torch.Tensor) else value
    torch.save(state, path)


@pytest.mark.parametrize("format", CASES)
@settings(max_examples=40)
@given(data=st.data())
def test_damaged_files(
    format: str, whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(whole[format], folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _, apply = data.draw(_damage())
    apply(data.draw(st.sampled_from(files)))
    _loads_or_says_why(folder)
    shutil.rmtree(folder.parent)

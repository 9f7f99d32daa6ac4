"""Tensors with a checksum: every single bit of a file counts, and what is read is in memory of its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monosem.base import tensors
from monosem.base.errors import CheckpointError
from monosem.base.tensors import UncheckedWarning, in_pieces, read_stored, read_tensors, tensor_writer

NAMES = frozenset(["identity"])


def _values() -> dict[str, torch.Tensor]:
    return {"a": torch.randn(2, 1), "step": torch.tensor(3.0).bfloat16(), "seen": torch.tensor([True, False])}


def test_every_bit_of_a_file_counts(tmp_path: Path) -> None:
    path, values = tmp_path / "a.safetensors", _values()
    tensor_writer(values, {"format": "f/1", "identity": "b"})(path)
    metadata, again = read_tensors(path, "f/1", NAMES)
    assert metadata == {"format": "f/1", "identity": "b"}
    assert all(torch.equal(again[name], value) for name, value in values.items())
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_tensors(path, "f/1", NAMES)


def test_what_is_read_does_not_change_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor_writer({"a": torch.ones(5)}, {"format": "f/1"})(path)
    _, read = read_tensors(path, "f/1", NAMES)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(read["a"], torch.ones(5))


def test_pieces_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "PIECE", 48)
    value = torch.randn(7, 5)
    save_file({"a": value}, tmp_path / "a.safetensors")
    (stored,) = read_stored(tmp_path / "a.safetensors").values()
    whole = (stored.get, stored.shape, stored.dtype)
    assert torch.equal(in_pieces(*whole), value)
    turned = in_pieces(*whole, torch.float64, turned=True)
    assert torch.equal(turned, value.T.double())
    assert turned.is_contiguous()


def test_files_without_a_checksum_load_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path, {"format": "f/1"})
    with pytest.warns(UncheckedWarning, match="an older version"):
        read_tensors(path, "f/1", NAMES)
    save_file({"a": torch.ones(2)}, path, {"format": "f/2"})
    with pytest.raises(CheckpointError, match="has format 'f/2', expected 'f/1'; delete it"):
        read_tensors(path, "f/1", NAMES, "delete it")

"""Tensors in files of our own, with a checksum: any altered bit is one clear error."""

import hashlib
import json
import math
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, dtype, empty, split, uint8
from torch import bool as bool_

from monosem.base.errors import CheckpointError, check
from monosem.base.files import plain_file

PIECE = 1 << 23
"""Bytes of a tensor that are mapped at once while it is read."""


class UncheckedWarning(UserWarning):
    """A file has no checksum, or was read without comparing it."""


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 of tensors (names, types, shapes, bytes) and of what is said about them."""
    total = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(uint8).numpy().data)
    return total.hexdigest()


def tensor_writer(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], copied: bool = False
) -> Callable[[Path], None]:
    """What writes tensors to a safetensors file, with their checksum in its metadata; unless `copied`, of a copy."""
    plain = {name: t if copied else t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    whole = {**metadata, "sha256": _checksum(plain, metadata)}
    return lambda part: save_file(plain, str(part), whole)


_UNSEALED = "0" * 64


def open_file(path: Path, shapes: Mapping[str, tuple[tuple[int, ...], dtype]], metadata: Mapping[str, str]) -> None:
    """A safetensors file whose numbers are still to come (`write_part`, by several processes), and then its `seal`."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "sha256": _UNSEALED}}
    end = 0
    for name, (shape, kind) in shapes.items():
        start, end = end, end + math.prod(shape) * kind.itemsize
        header[name] = {"dtype": _named(kind), "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def write_part(path: Path, name: str, first: Sequence[int], part: Tensor) -> None:
    """Part of a tensor, from the entry `first` on, into a file of `open_file`; PIECE bytes at once.

    Without a buffer, which would write again what others have written between two rows.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        about = json.loads(file.read(size))[name]
    row, column = (*first, 0, 0)[:2]
    width = math.prod(about["shape"][1:]) * part.element_size()
    own = math.prod(part.shape[1:]) * part.element_size()
    many = max(1, PIECE // max(own, 1)) if own == width else 1
    at = 8 + size + about["data_offsets"][0] + row * width + column * part.element_size()
    with path.open("rb+", buffering=0) as raw:
        for rows in split(part.detach(), many) if part.ndim else (part.detach(),):
            left = rows.cpu().contiguous().reshape(-1).view(uint8).numpy().data
            raw.seek(at)
            while left:  # a disk that fills up takes less than it is given
                left = left[raw.write(left) :]
            at += many * width


def _named(kind: dtype) -> str:
    return next(name for name, known in _TYPES.items() if known == kind)


def seal(path: Path) -> None:
    """Write the checksum of what a file of `open_file` holds by now."""
    with safe_open(str(path), framework="pt") as opened:
        metadata = opened.metadata()
        del metadata["sha256"]
        value = _checksum({name: opened.get_tensor(name) for name in opened.keys()}, metadata)  # noqa: SIM118
    with path.open("rb+") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + file.read(size).index(_UNSEALED.encode()))
        file.write(value.encode())


def sealed(path: Path) -> str | None:
    """The checksum that a file says it has."""
    with safe_open(str(path), framework="pt") as file:
        said: str | None = (file.metadata() or {}).get("sha256")
        return said


def read_tensors(
    path: Path, format: str, names: frozenset[str], remedy: str = "restore it", unchecked: bool = False
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors) of a file that `tensor_writer` wrote in this format, its checksum compared.

    `names` are those of its metadata beside the format. A file without a checksum is one of an older version and loads
    with a warning, but only if no other name stands there: one that a damaged bit made of "sha256".
    Raises: CheckpointError, which ends with the remedy, for another format or a file that is damaged in any bit.
    """
    try:
        entries, metadata = read_header(path)
        tensors = {name: in_pieces(get, shape, kind) for name, (shape, kind, get) in entries.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); it is truncated or altered; {remedy}") from None
    have = metadata.get("format")
    check(have == format, f"{path} has format {have!r}, expected {format!r}; {remedy}", CheckpointError)
    said = metadata.pop("sha256", None)
    strange = sorted(set(metadata) - names - {"format"})
    altered = strange or (said is not None and not unchecked and said != _checksum(tensors, metadata))
    why = f"unknown {strange}" if strange else "its sha256 differs"
    check(not altered, f"{path} was altered since it was written ({why}); {remedy}", CheckpointError)
    if said is None:
        text = f"{path} has no checksum: an older version wrote it; what is written now has one"
        warnings.warn(text, UncheckedWarning, stacklevel=3)
    return metadata, tensors


class _Stored(NamedTuple):
    """A tensor of a file, known by the file's header; `get` maps it, anew at every call."""

    shape: tuple[int, ...]
    dtype: dtype
    get: Callable[[], Tensor]


_BITS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
_TYPES = {f"{short}{n}": getattr(torch, f"{word}{n}", None) for short, word in _BITS.items() for n in (8, 16, 32, 64)}
_TYPES |= {"BOOL": bool_, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
"""Types by their names in safetensors."""


def read_stored(path: Path) -> dict[str, _Stored]:
    """Every tensor of a safetensors file, from its header. Raises: CheckpointError if it is none."""
    try:
        return read_header(path)[0]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); it is truncated or altered") from None


def read_header(path: Path) -> tuple[dict[str, _Stored], dict[str, str]]:
    """(tensors, metadata) of a safetensors file.

    safetensors judges the header; the numbers are mapped here, because its own reader goes through torch.asarray, which
    turns a Ctrl-C that comes inside into a ValueError.
    Raises: SafetensorError for another kind of file, or a type that torch lacks; OSError.
    """
    plain_file(path)
    with safe_open(str(path), framework="pt"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    return {name: _stored(path, 8 + length, entry) for name, entry in header.items()}, metadata


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> _Stored:
    shape, kind, (begin, end) = tuple(entry["shape"]), _TYPES.get(entry["dtype"]), entry["data_offsets"]
    if kind is None:
        raise SafetensorError(f"torch has no type {entry['dtype']}")

    def get() -> Tensor:
        if begin == end:
            return empty(shape, dtype=kind)
        bytes_ = np.memmap(path, mode="c", offset=start + begin, shape=(end - begin,))
        return torch.from_numpy(bytes_).view(kind).view(shape)

    return _Stored(shape, kind, get)


def in_pieces(
    get: Callable[[], Tensor], shape: tuple[int, ...], kind: dtype, to: dtype | None = None, turned: bool = False
) -> Tensor:
    """A mapped tensor in memory of its own, as another type or (`turned`) transposed; PIECE bytes are mapped at once.

    `get` maps it anew for every piece: what was read is given back before the next.
    """
    if kind == bool_ and to is None:  # as bytes, of which a copy of truth values would keep less
        return in_pieces(lambda: get().view(uint8), shape, uint8, None, turned).view(bool_)
    out = empty(shape[::-1] if turned else shape, dtype=to or kind)
    if not shape:
        return out.copy_(get())
    step = max(1, PIECE // max(1, math.prod(shape[1:]) * kind.itemsize))
    for start in range(0, shape[0], step):
        part = get()[start : start + step]
        (out[:, start : start + step].T if turned else out[start : start + step]).copy_(part)
        del part
    return out

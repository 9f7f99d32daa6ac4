"""Rows in memory, whatever they come in, as tables: tensors, arrays, several sources, pairs, loaders of batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.base.guard import shown
from monosem.core.pairs import SAE, Crosscoder, Pairing
from monosem.data.table import Table, read_table

KINDS = "a tensor [..., width], an array, a path, a store, a pair (x_p, x_r), several sources or a DataLoader"


@dataclass(frozen=True, eq=False)
class _Sides:
    """What is read and what is written, before it is opened; `target` None: x_r = x_p."""

    data: Any
    target: Any = None


def sides_of(data: Any, target: Any, pairing: Pairing | None) -> _Sides:
    """A pair taken apart, and a loader's batches put together.

    Two things in a tuple are a pair (x_p, x_r), unless the pairing reads several sources and writes the same.
    Raises: ArgumentError for a target where none belongs, or none where one does.
    """
    if _is_loader(data):
        data = _of_batches(data)
    alone = isinstance(pairing, SAE | Crosscoder)
    if target is None and isinstance(data, tuple) and len(data) == 2 and not isinstance(pairing, Crosscoder):
        data, target = data
    if pairing is None:
        return _Sides(data, target)
    wrong = f"{type(pairing).__name__} reads what it writes, and a target x_r is given; name a transcoder, as "
    check(not (alone and target is not None), f"{wrong}topk_transcoder(k=32), or several sources and a crosscoder")
    missing = f"{type(pairing).__name__} writes another representation than it reads; give a pair (x_p, x_r)"
    check(alone or target is not None, missing)
    return _Sides(data, target)


def table_of(given: Any, name: str, key: str | None = None) -> tuple[Table, tuple[int, ...]]:
    """The rows of one side as one table, and the widths of its sources, which lie side by side in it."""
    if isinstance(given, Mapping):
        given = list(given.values())
    if not isinstance(given, list | tuple):
        table = _single(given, name, key)
        return table, (table.width,)
    check(len(given) > 0, f"{name} holds no source; give {KINDS}", DataError)
    tables = [_single(part, f"{name}[{number}]", key) for number, part in enumerate(given)]
    counts = {table.rows for table in tables}
    check(
        len(counts) == 1,
        f"the sources of {name} have {sorted(counts)} rows; they must be of the same inputs",
        DataError,
    )
    values = tables[0].values if len(tables) == 1 else _SideBySide([table.values for table in tables])
    return Table(values, tables[0].path), tuple(table.width for table in tables)


def _single(given: Any, name: str, key: str | None) -> Table:
    if isinstance(given, str | Path):
        return read_table(given, key)
    known = isinstance(given, Tensor | np.ndarray)
    check(known, f"{name} is {shown(given)}; give {KINDS}", DataError)
    x = given.detach() if isinstance(given, Tensor) else np.asarray(given)
    real = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
    check(real, f"{name} is {shown(x)}, not real numbers; convert it: {name}.float() or astype('float32')", DataError)
    check(x.ndim >= 2, f"{name} is {shown(x)}; rows need two axes, [rows, width]", DataError)
    check(0 not in x.shape, f"{name} is {shown(x)}, without a number; give at least one row and one column", DataError)
    return Table(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), Path(name))


def _is_loader(data: Any) -> bool:
    """Whether rows come in batches: an iterable that is no array, no collection of sources and no path."""
    known = (str, Path, Tensor, np.ndarray, Mapping, list, tuple)
    return isinstance(data, Iterable) and not isinstance(data, known)


def _of_batches(loader: Iterable[Any]) -> Any:
    """All batches of a loader, one below the other; of batches (x_p, x_r), a pair."""
    length = getattr(loader, "__len__", None)
    remedy = "the run shuffles rows by itself, so give the tensor, or write a store: monosem.harvest(...)"
    check(length is not None, f"{shown(loader)} has no length, and may not end; {remedy}", DataError)
    batches: list[Any] = list(loader)
    check(bool(batches), f"{shown(loader)} gives no batch; give at least one", DataError)
    batches = [[batch] if isinstance(batch, Tensor) else list(batch) for batch in batches]
    shapes = {tuple(getattr(part, "shape", ("?",))[1:] for part in batch[:2]) for batch in batches}
    right = len(shapes) == 1 and all(isinstance(part, Tensor) for batch in batches for part in batch[:2])
    check(right, f"batches hold {sorted(map(str, shapes))[:4]}; a batch is a tensor, or a pair (x_p, x_r)", DataError)
    parts = tuple(torch.cat(column) for column in list(zip(*batches, strict=False))[:2])
    return parts[0] if len(parts) == 1 else parts


class _SideBySide:
    """Several arrays of the same rows as one, their columns one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(_numpy(part) for part in parts)
        self.shape = (self.parts[0].shape[0], sum(part.shape[1] for part in self.parts))
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Rows by a number, a slice or an array of numbers, as float32."""
        return np.concatenate([part[key].astype(np.float32, copy=False) for part in self.parts], axis=-1)


def _numpy(part: Any) -> Any:
    if not isinstance(part, Tensor):
        return part
    part = part.cpu()
    return (part.float() if part.dtype == torch.bfloat16 else part).numpy()

"""Tables of numbers in files, and labels of their rows; .npy and .safetensors stay on disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.base.registry import Registry
from monosem.base.tensors import read_header

CHUNK = 8192
"""Rows that are in memory at once when a table is read through."""

Reader = Callable[[Path, str | None], Any]
READERS: Registry[Reader] = Registry("file type")
"""By suffix: a function from (path, key) to a numpy array or a tensor, mapped from disk where the format allows."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers, kept in their own type and place; they become float32 when taken."""

    values: Any
    path: Path

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    def take(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Rows by number, as float32."""
        return _float32(self.values[index if isinstance(self.values, Tensor) else index.numpy()])

    def part(self, rows: slice) -> Float[Tensor, "rows width"]:
        """Rows that follow each other, as float32."""
        return _float32(self.values[rows])

    def expect(self, start: int, stop: int) -> None:
        """Begin to read rows that are asked for next, where the table's values know how."""
        begin = getattr(self.values, "expect_run", None)
        if begin is not None:
            begin(start, stop)

    def columns(self, first: int, last: int) -> "Table":
        """Some columns of the same rows."""
        return Table(_Columns(self.values, first, last), self.path)

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "rows width"]]]:
        """All rows in order, CHUNK at a time: (number of the first, rows as float32)."""
        for start in range(0, self.rows, CHUNK):
            yield start, _float32(self.values[start : start + CHUNK])


class _Columns:
    """Some columns of an array; of several arrays side by side only those that hold them are read."""

    def __init__(self, values: Any, first: int, last: int) -> None:
        self.shape = (values.shape[0], last - first)
        self.parts: list[tuple[Any, int, int]] = []
        start = 0
        for part in getattr(values, "parts", (values,)):
            stop = start + part.shape[1]
            if start < last and first < stop:
                self.parts.append((part, max(first, start) - start, min(last, stop) - start))
            start = stop

    def __getitem__(self, key: Any) -> Any:
        """Rows by a slice or an array of numbers."""
        rows = [part[key][:, first:last] for part, first, last in self.parts]
        if len(rows) == 1:
            return rows[0]
        return torch.cat(rows, 1) if isinstance(rows[0], Tensor) else np.concatenate(rows, 1)


def read_array(path: str | Path, key: str | None = None) -> Any:
    """The array in a file; `key` names the tensor of a .safetensors file or the columns of a .parquet one ("a,b").

    Raises: DataError that names the file: it is missing, empty, of an unknown type, or damaged.
    """
    path = Path(path)
    check(path.exists(), f"{path} does not exist; check the path", DataError)
    check(path.is_file(), f"{path} is no plain file; give one ({', '.join(READERS)})", DataError)
    check(path.suffix in READERS, f"{path} is no {' or '.join(READERS)} file; convert it to one", DataError)
    check(path.stat().st_size > 0, f"{path} is empty (0 bytes); write it again", DataError)
    return READERS[path.suffix](path, key)


def read_table(path: str | Path, key: str | None = None) -> Table:
    """A table [rows, width] of real numbers. Raises: DataError as `read_array`, or for a wrong rank or type."""
    values, path = read_array(path, key), Path(path)
    shape = tuple(values.shape)
    check(len(shape) == 2, f"{path} has shape {shape}; a table [rows, width] is needed, reshape it", DataError)
    check(min(shape) > 0, f"{path} is empty, shape {shape}; give at least one row and one column", DataError)
    if isinstance(values, Tensor):
        numeric = values.dtype in _NUMBERS
    else:
        numeric = values.dtype.kind in "iuf"
    check(numeric, f"{path} holds {_dtype(values)}, not real numbers; convert it to float32", DataError)
    return Table(values, path)


_FLOATS = frozenset([torch.float64, torch.float32, torch.float16, torch.bfloat16])
_NUMBERS = _FLOATS | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
_LABELS = _NUMBERS - {torch.bfloat16} | {torch.bool}
_MANY, _TIMES = 1 << 28, 200
"""Numbers that a compressed table may hold, and how many bytes of them for a byte of the file above that."""


@READERS.register(".npy")
def _npy(path: Path, key: str | None) -> np.ndarray:
    check(key is None, f"{path} holds one array; leave out the key {key!r}", DataError)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
        if not all(type(size) is int for size in shape):
            raise ValueError(f"its shape is {shape}")
        if dtype.hasobject:
            raise DataError(f"{path} holds Python objects, not numbers; save it as a float32 array")
        if 0 in shape:
            return np.empty(shape, dtype)
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    except DataError:
        raise
    except (ValueError, OSError, EOFError, SyntaxError, TokenError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is not a whole .npy file ({_one_line(error)}); write it again with np.save") from None


@READERS.register(".safetensors")
def _safetensors(path: Path, key: str | None) -> Tensor:
    try:
        stored, _ = read_header(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole .safetensors file ({_one_line(error)}); write it again") from None
    if key is None and len(stored) != 1:
        raise DataError(f"{path} holds {len(stored)} tensors ({_few(list(stored))}); choose one by its key")
    name = key or next(iter(stored))
    check(name in stored, f"{path} holds no tensor {name!r} but {_few(list(stored))}; choose one of them", DataError)
    return stored[name].get()


@READERS.register(".parquet")
def _parquet(path: Path, key: str | None) -> np.ndarray:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            wanted = [name.strip() for name in key.split(",")] if key else names
            absent = [name for name in wanted if name not in names]
            check(not absent, f"{path} has no column {_few(absent)} but {_few(names)}; choose among them", DataError)
            _check_columns(path, names, wanted, file.metadata.num_rows)
            table = file.read(columns=wanted)
        columns = [_column(path, name, table.column(name).combine_chunks()) for name in wanted]
    except (pyarrow.ArrowException, OSError, KeyError, MemoryError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a whole .parquet file ({_one_line(error)}); write it again") from None
    if len(columns) == 1:
        return columns[0]
    check(
        all(column.ndim == 1 for column in columns),
        f"{path} mixes a list column with others ({_few(wanted)}); choose one list column, or only plain ones",
        DataError,
    )
    return np.stack(columns, axis=1)


def _check_columns(path: Path, names: list[str], wanted: list[str], rows: int) -> None:
    twice = sorted({name for name in wanted if names.count(name) > 1})
    check(bool(wanted) and not twice, f"{path} has no columns, or {_few(twice)} twice; rename them", DataError)
    many = rows * len(wanted)
    bomb = many > _MANY and 8 * many > _TIMES * path.stat().st_size
    check(not bomb, f"{path} says that it holds {many:,} numbers, which its size contradicts", DataError)


def _column(path: Path, name: str, column: Any) -> np.ndarray:
    """One column as an array: 1-D, or 2-D for a column of lists of equal length. Null becomes NaN."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        lengths = np.asarray(column.value_lengths().fill_null(-1))
        width = int(lengths[0]) if lengths.size else 0
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            length = "is null" if lengths[row] < 0 else f"has {lengths[row]} numbers"
            raise DataError(f"{path}: row {row} of {name!r} {length}, row 0 has {width}; rows need one length")
        return _column(path, name, column.flatten()).reshape(lengths.size, width)
    plain = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_string(kind)
    check(plain, f"{path}: column {name!r} holds {kind}, not numbers; choose other columns by name", DataError)
    array: np.ndarray = column.to_numpy(zero_copy_only=False)
    return array.astype(str) if array.dtype == object else array


def _float32(part: Any) -> Tensor:
    with np.errstate(over="ignore"):
        return part.to(torch.float32) if isinstance(part, Tensor) else torch.from_numpy(part.astype(np.float32))


def _dtype(values: Any) -> str:
    kind = str(values.dtype).removeprefix("torch.")
    return "text" if kind.startswith(("<U", ">U", "|S")) else kind


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True, eq=False)
class Labels:
    """One class per row, as a number into `names`."""

    codes: Int[Tensor, " rows"]
    names: tuple[str, ...]

    def pick(self, names: Sequence[str]) -> Int[Tensor, " picked"]:
        """The numbers of some classes. Raises: DataError for a name that no row carries."""
        absent = [name for name in names if name not in self.names]
        check(not absent, f"no row is labelled {', '.join(absent)}; known: {', '.join(self.names)}", DataError)
        return torch.tensor([self.names.index(name) for name in names], dtype=torch.int64)


def read_labels(path: str | Path, rows: int, key: str | None = None) -> Labels:
    """Labels from a .npy, .safetensors or .parquet file: whole numbers or text, one per row.

    Raises: DataError, naming the file, when they are not one per row or not labels.
    """
    values = read_array(path, key)
    if isinstance(values, Tensor):
        check(values.dtype in _LABELS, f"{path} holds {_dtype(values)}, not labels; give integers or text", DataError)
        values = values.numpy()
    values = np.asarray(values)
    check(
        values.ndim == 1,
        f"{path} has shape {values.shape}; labels are one number or word per row, shape ({rows},)",
        DataError,
    )
    check(values.shape[0] == rows, f"{path} has {values.shape[0]} labels for {rows} rows; give one per row", DataError)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(np.where(np.isfinite(values), values, 0.5)))
        if not whole.all():
            row = int((~whole).argmax())
            raise DataError(f"{path}: label {row} is {values[row]}, not a whole number; labels name classes")
        values = values.astype(np.int64)
    check(values.dtype.kind in "iubUS", f"{path} holds {values.dtype}, not labels; give integers or text", DataError)
    names, codes = np.unique(values, return_inverse=True)
    try:
        words = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} holds labels that are not UTF-8 text ({error.reason}); convert them") from None
    return Labels(torch.from_numpy(codes.reshape(-1)), words)

"""Tables in files: every type and format gives the same rows, and each wrong file one clear error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from monosem.base.errors import DataError
from monosem.data.table import CHUNK, READERS, read_array, read_table

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4) / 8 - 1

ARRAYS = {
    "float32": ROWS,
    "float64": ROWS.astype(np.float64),
    "float16": ROWS.astype(np.float16),
    "big_endian": ROWS.astype(">f4"),
    "column_order": np.asfortranarray(ROWS),
    "strided": np.repeat(ROWS, 2, axis=0)[::2],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_rows_are_mapped_and_taken_as_float32(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAYS[name])
    table = read_table(tmp_path / "x.npy")
    assert isinstance(table.values, np.memmap)
    assert (table.rows, table.width) == (6, 4)
    taken = table.take(torch.tensor([5, 0, 5]))
    assert taken.dtype == torch.float32
    assert torch.equal(taken, torch.from_numpy(ROWS[[5, 0, 5]]))


def test_integers_become_float32(tmp_path: Path) -> None:
    for kind in (np.int64, np.uint8, np.uint16):
        np.save(tmp_path / "x.npy", np.arange(6, dtype=kind).reshape(3, 2))
        assert torch.equal(read_table(tmp_path / "x.npy").take(torch.tensor([2])), torch.tensor([[4.0, 5.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.arange(8).reshape(4, 2).to(dtype)
    save_file({"x": x, "other": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert torch.equal(read_table(tmp_path / "x.safetensors", "x").take(torch.tensor([3, 1])), x[[3, 1]].float())


@pytest.mark.parametrize("kind", [pyarrow.list_(pyarrow.float64()), pyarrow.list_(pyarrow.float32(), 4)])
def test_parquet_list_column(kind: pyarrow.DataType, tmp_path: Path) -> None:
    column = pyarrow.array(ROWS.tolist(), kind)
    pyarrow.parquet.write_table(pyarrow.table({"x": column, "name": ["a"] * 6}), tmp_path / "x.parquet")
    taken = read_table(tmp_path / "x.parquet", "x").take(torch.arange(6))
    assert torch.equal(taken, torch.from_numpy(ROWS))


def test_parquet_plain_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    columns = {name: ROWS[:, i] for i, name in enumerate("abcd")}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert torch.equal(read_table(tmp_path / "x.parquet").take(torch.arange(6)), torch.from_numpy(ROWS))
    assert torch.equal(
        read_table(tmp_path / "x.parquet", "d,a").take(torch.arange(6)), torch.from_numpy(ROWS[:, [3, 0]])
    )


def test_chunks_are_all_rows_in_order(tmp_path: Path) -> None:
    rows = np.arange(2 * CHUNK + 3, dtype=np.float32)[:, None]
    np.save(tmp_path / "x.npy", rows)
    parts = list(read_table(tmp_path / "x.npy").chunks())
    assert [start for start, _ in parts] == [0, CHUNK, 2 * CHUNK]
    assert torch.equal(torch.cat([part for _, part in parts]), torch.from_numpy(rows))


def _objects(path: Path) -> None:
    np.save(path, np.array([[1, None]], dtype=object), allow_pickle=True)


def _truncated(path: Path) -> None:
    np.save(path, np.zeros((50, 50)))
    path.write_bytes(path.read_bytes()[:1000])


def _text(path: Path) -> None:
    np.save(path, np.array([["a", "b"]]))


def _parquet(**columns: object) -> Callable[[Path], None]:
    return lambda path: pyarrow.parquet.write_table(pyarrow.table(columns), path)


WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.npy", lambda path: None, "does not exist"),
    "folder": ("x.npy", lambda path: path.mkdir(), "is no plain file"),
    "unknown type": ("x.csv", lambda path: path.write_text("1,2"), "no .npy or .safetensors or .parquet file"),
    "no bytes": ("x.npy", lambda path: path.touch(), "0 bytes"),
    "garbage": ("x.npy", lambda path: path.write_bytes(b"garbage" * 9), "not a whole .npy file"),
    "objects": ("x.npy", _objects, "Python objects"),
    "truncated": ("x.npy", _truncated, "not a whole .npy file"),
    "text": ("x.npy", _text, "holds text, not real numbers"),
    "complex": ("x.npy", lambda path: np.save(path, np.ones((2, 2), complex)), "complex128"),
    "booleans": ("x.npy", lambda path: np.save(path, np.ones((2, 2), bool)), "bool"),
    "rank 1": ("x.npy", lambda path: np.save(path, np.ones(5)), "shape (5,)"),
    "rank 3": ("x.npy", lambda path: np.save(path, np.ones((2, 2, 2))), "shape (2, 2, 2)"),
    "no rows": ("x.npy", lambda path: np.save(path, np.ones((0, 4))), "is empty, shape (0, 4)"),
    "no columns": ("x.npy", lambda path: np.save(path, np.ones((4, 0))), "is empty, shape (4, 0)"),
    "bad tensors": ("x.safetensors", lambda path: path.write_bytes(b"garbage" * 9), "not a whole .safetensors"),
    "many tensors": (
        "x.safetensors",
        lambda path: save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, path),
        "holds 2 tensors (a, b)",
    ),
    "bad parquet": ("x.parquet", lambda path: path.write_bytes(b"garbage" * 9), "not a whole .parquet"),
    "text column": ("x.parquet", _parquet(a=[1.0], b=["x"]), "holds text"),
    "date column": ("x.parquet", _parquet(a=pyarrow.array([1], pyarrow.date32())), "column 'a' holds date32"),
    "ragged lists": ("x.parquet", _parquet(a=[[1.0, 2.0], [1.0]]), "row 1 of 'a' has 1 numbers, row 0 has 2"),
    "null list": ("x.parquet", _parquet(a=[[1.0, 2.0], None]), "row 1 of 'a' is null"),
    "mixed columns": ("x.parquet", _parquet(a=[[1.0, 2.0]], b=[1.0]), "mixes a list column"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_gives_one_error_that_names_it(name: str, tmp_path: Path) -> None:
    file, make, said = WRONG[name]
    path = tmp_path / file
    make(path)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_key_names_what_there_is(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="no tensor 'b' but a"):
        read_table(tmp_path / "x.safetensors", "b")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column b but a"):
        read_table(tmp_path / "x.parquet", "b")
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(DataError, match="leave out the key 'b'"):
        read_array(tmp_path / "x.npy", "b")


def test_every_reader_is_tried_here() -> None:
    assert set(READERS) == {".npy", ".safetensors", ".parquet"}

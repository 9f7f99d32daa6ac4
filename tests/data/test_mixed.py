"""Stores larger than memory: bytes read, rows mixed, rows left out, eight bits."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monosem.base.errors import ArgumentError, DataError
from monosem.data.mixed import mixed
from monosem.data.source import FileSource, StoreSource, open_rows
from monosem.data.store import Sharded, Store, open_store
from monosem.networks.harvest import harvest
from monosem.train.config import FitConfig
from monosem.train.loop import Order, fit
from tests.networks.networks import Tiny, masked_batches

ROWS, WIDTH = 4096, 288


def _harvested(folder: Path, rows: int = ROWS, width: int = WIDTH, dtype: str = "float32") -> Store:
    """Rows of documents of 32, as one site; row r begins with the number r."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(rows)
    return harvest(nn.Sequential(nn.Identity()).eval(), "0:out", x.split(256), folder, dtype=dtype, shard_rows=1000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """4,096 rows of 1,152 bytes."""
    return _harvested(tmp_path_factory.mktemp("store"))


def _numbers(source: object, first: int, last: int, step: int = 128) -> torch.Tensor:
    pieces = (torch.arange(start, min(start + step, last)) for start in range(first, last, step))
    return torch.cat([source.take(index)[0][:, 0].round().long() for index in pieces])  # type: ignore[attr-defined]


def test_every_row_once_an_epoch_and_mixed(store: Store) -> None:
    source = StoreSource(store, normalise=False)
    stream = mixed(source, buffer=1024, run=32, seed=5, normalise=False)
    rows = _numbers(stream, 0, 2 * ROWS)
    for epoch in rows.split(ROWS):
        assert torch.equal(epoch.sort().values, torch.arange(ROWS))
    assert not torch.equal(rows[:ROWS], rows[ROWS:])
    assert torch.equal(_numbers(mixed(source, buffer=1024, run=32, seed=5, normalise=False), 700, 900), rows[700:900])
    where = stream.where(torch.arange(2 * ROWS, 2 * ROWS + 8))
    x = stream.take(torch.arange(2 * ROWS, 2 * ROWS + 8))[0]
    assert where.document is not None
    assert torch.equal(where.document, x[:, 0].round().long())
    shards = [len((batch // 1000).unique()) for batch in rows.split(128)]
    assert min(shards) >= 4  # four whole shards and a short one: every batch holds rows of every part


def test_how_well_it_mixes(store: Store) -> None:
    """A row meets about batch / buffer of its run; in the exact permutation batch / rows; unmixed, nearly all."""
    source = StoreSource(store, normalise=False)
    order = Order(ROWS, 128, 0)
    exact = np.mean([_mates(order.index(step), 32) for step in range(32)])
    measured = {}
    for buffer in (256, 1024, ROWS):
        stream = mixed(source, buffer=buffer, run=32, normalise=False)
        measured[buffer] = np.mean([_mates(batch, 32) for batch in _numbers(stream, 0, ROWS).split(128)])
    assert exact == pytest.approx(127 * 31 / (ROWS - 1), rel=0.15)
    for buffer, value in measured.items():
        assert value == pytest.approx(127 * 31 / (buffer - 1), rel=0.15)


def _mates(index: torch.Tensor, run: int) -> float:
    """Neighbours of the same run that a row meets in its batch, on average: how well rows are shuffled.

    `index`: numbers of the batch's rows in the store. A permutation of N rows gives (batch - 1) (run - 1) / (N - 1).

    Example:
        >>> _mates(torch.tensor([0, 1, 2, 9]), 4)
        1.5
    """
    counts = torch.bincount(index // run).double()
    return float((counts * (counts - 1)).sum() / index.numel())


def _cold(store: Store) -> None:
    """Nothing of the store stays in the page cache."""
    for path in (store.folder / "shards").rglob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="this system does not count what a process reads")
@pytest.mark.parametrize("width", [WIDTH, 1024])
def test_bytes_that_are_read(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store that may not stay in memory: all once in runs; in the exact permutation pages, and no read-ahead."""
    made = _harvested(tmp_path, width=width)
    _cold(made)
    before = _read_bytes()
    (made.folder / "shards" / "00000" / "x0.npy").read_bytes()
    if _read_bytes() == before:
        pytest.skip("this file system keeps all in memory")
    wanted = ROWS * width * 4
    monkeypatch.setattr("monosem.data.store.large", lambda size: True)
    _cold(made)
    before = _read_bytes()
    stream = mixed(StoreSource(open_store(tmp_path), normalise=False), buffer=1024, normalise=False)
    stream.take(torch.arange(100))
    for start in range(0, ROWS, 256):
        stream.take(torch.arange(start, start + 256))
    stream.close()
    assert wanted <= _read_bytes() - before <= 1.5 * wanted + (1 << 20)
    _cold(made)
    source = StoreSource(open_store(tmp_path), normalise=False)
    source.take(torch.tensor([0]))
    before, read = _read_bytes(), 0
    for step in range(2):
        index = Order(ROWS, 64, 0).index(step)
        source.take(index)
        read += index.numel() * (width * 4 // 4096 * 4096 + (4096 if width * 4 % 4096 == 0 else 8192))
    rounding = 0 if width * 4 % 4096 == 0 else 4096  # rows of whole pages lie on whole pages
    assert _read_bytes() - before <= 128 * (-(-width * 4 // 4096) * 4096 + rounding) + (1 << 16)


@pytest.mark.parametrize(("dtype", "error"), [("int8", 1 / 254), ("bfloat16", 1 / 256), ("float16", 1 / 2048)])
def test_fewer_bits(tmp_path: Path, dtype: str, error: float) -> None:
    """The error of each number, as a share of its row's largest; all ways of reading agree."""
    whole = harvest(Tiny(), "layers.1:out", masked_batches(8), tmp_path / "whole", shard_rows=20)
    narrow = harvest(Tiny(), "layers.1:out", masked_batches(8), tmp_path / "narrow", shard_rows=20, dtype=dtype)
    index = torch.randperm(whole.rows, generator=torch.Generator().manual_seed(0))
    x, y = whole.table("layers.1:out").take(index), narrow.table("layers.1:out").take(index)
    assert y.dtype == torch.float32
    assert float(((x - y).abs() / x.abs().amax(1, keepdim=True)).max()) <= error * 1.001
    values = narrow.table("layers.1:out").values
    assert isinstance(values, Sharded)
    assert values.dtype == (np.float16 if dtype == "float16" else np.float32)
    for start, stop in ((0, 20), (13, 47)):
        assert np.array_equal(values[start:stop], values[np.arange(start, stop)])
    assert np.array_equal(values[5], values[5:6][0])
    narrow.verify()


def _uneven(tmp_path: Path) -> FileSource:
    """1,000 rows in two sources; rows 7 and 500 are long in one of them each."""
    x = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32)
    x[7, :3] *= 60
    x[500, 3:] *= 60
    np.save(tmp_path / "x.npy", x)
    return open_rows(tmp_path / "x.npy", widths=(3, 3))


def test_rows_far_longer_than_most_are_left_out(tmp_path: Path) -> None:
    source = _uneven(tmp_path)
    before = source.digest
    assert source.ordinary() == 2
    assert source.rows == 998
    assert source.digest != before
    kept = source.take(torch.arange(998))[0]
    whole = _uneven(tmp_path).take(torch.arange(1000))[0]
    assert torch.equal(kept, whole[[i for i in range(1000) if i not in (7, 500)]])
    assert source.ordinary() == 0
    stream = mixed(source, buffer=998, run=10, normalise=False)
    rows = torch.cat([stream.take(torch.arange(i, i + 499))[0] for i in (0, 499)])
    assert torch.equal(rows[rows[:, 0].argsort()], kept[kept[:, 0].argsort()])
    with pytest.raises(ArgumentError, match="limit=1; it is a multiple"):
        source.ordinary(1)


def test_rows_that_are_set_aside_are_never_trained_on(store: Store, tmp_path: Path) -> None:
    """Single rows of a table, whole documents of a store; the rest is what training and its digest see."""
    source = _uneven(tmp_path)
    assert source.set_aside(50, seed=1) == 50
    assert source.rows == 950
    aside = torch.cat([x for x, _ in source.batches(source.held_out)])
    both = torch.cat([source.take(torch.arange(950))[0], aside])
    whole = _uneven(tmp_path).take(torch.arange(1000))[0]
    assert torch.equal(both[both[:, 1].argsort()], whole[whole[:, 1].argsort()])
    assert _uneven(tmp_path).set_aside(50, share=0.001) == 0
    stored = harvest(Tiny(), "layers.1:out", masked_batches(8), tmp_path / "store")
    documents = StoreSource(stored, normalise=False)
    count = documents.set_aside(60, share=0.5)
    assert 0 < count <= 60
    trained = documents.where(torch.arange(documents.rows)).document
    assert trained is not None
    assert not set(trained.tolist()) & set(stored.documents[documents.held_out.numpy()].tolist())
    assert documents.rows + count == stored.rows
    fit("topk(k=2)", documents.normalised(), 8, FitConfig(steps=2, batch_size=16, sample_rows=32))
    with pytest.raises(DataError, match="no row is left"):
        documents._leave(torch.zeros(stored.rows, dtype=torch.bool))

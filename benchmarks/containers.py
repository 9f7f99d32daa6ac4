"""Which container for activations: rows read by a permutation, as training does, and in order, interleaved.

Containers whose package is not installed are left out and named. Behind docs/adr/0008-store.md.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from monosem.base import DataError, check
from monosem.bench import environment
from monosem.data import Sharded

SCHEMA = "monosem.containers/1"
SHARDS = 8
_Take = Callable[[np.ndarray], np.ndarray]


def _shards(rows: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """How many rows are in a shard, and the shards."""
    each = -(-rows.shape[0] // SHARDS)
    return each, [rows[i * each : (i + 1) * each] for i in range(SHARDS)]


def _npy(folder: Path, rows: np.ndarray) -> _Take:
    each, parts = _shards(rows)
    paths = tuple(folder / f"{i}.npy" for i in range(SHARDS))
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    shards = Sharded(dict.fromkeys(paths, ""), rows.shape, each, checked=False)
    return lambda index: shards[index]


def _safetensors(folder: Path, rows: np.ndarray) -> _Take:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    each, parts = _shards(rows)
    paths = [str(folder / f"{i}.safetensors") for i in range(SHARDS)]
    for path, part in zip(paths, parts, strict=True):
        save_file({"x": part}, path)
    slices: list[Any] = [safe_open(path, framework="np").get_slice("x") for path in paths]  # type: ignore[no-untyped-call]

    def take(index: np.ndarray) -> np.ndarray:
        """Its slices take runs of rows, no list of row numbers: one call a row."""
        out = np.empty((index.size, rows.shape[1]), rows.dtype)
        for at, (shard, row) in enumerate(zip(*np.divmod(index, each), strict=True)):
            out[at] = slices[shard][int(row) : int(row) + 1][0]
        return out

    return take


def _arrow(folder: Path, rows: np.ndarray) -> _Take:
    import pyarrow

    width, path = rows.shape[1], str(folder / "x.arrow")
    lists = [pyarrow.FixedSizeListArray.from_arrays(part.reshape(-1), width) for part in _shards(rows)[1]]
    batches = [pyarrow.record_batch([part], ["x"]) for part in lists]
    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    column = pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all().column("x")

    def take(index: np.ndarray) -> np.ndarray:
        cells: np.ndarray = column.take(pyarrow.array(index)).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cells.reshape(-1, width)

    return take


def _zarr(folder: Path, rows: np.ndarray) -> _Take:
    import zarr  # type: ignore[import-not-found, unused-ignore]

    chunks, shards = (64, rows.shape[1]), (-(-rows.shape[0] // (64 * SHARDS)) * 64, rows.shape[1])
    place = str(folder / "x.zarr")
    array = zarr.create_array(place, shape=rows.shape, chunks=chunks, shards=shards, dtype=rows.dtype, compressors=None)
    array[:] = rows
    return lambda index: np.asarray(array.oindex[index])


def _datasets(folder: Path, rows: np.ndarray) -> _Take:
    import datasets  # type: ignore[import-not-found, unused-ignore]

    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Array2D((1, rows.shape[1]), str(rows.dtype))})

    def parts() -> Any:
        for start in range(0, rows.shape[0], 1000):
            yield from ({"x": row[None]} for row in rows[start : start + 1000])

    stored = datasets.Dataset.from_generator(parts, features=features, cache_dir=str(folder)).with_format("numpy")
    return lambda index: np.asarray(stored[index]["x"])[:, 0]


CONTAINERS: Mapping[str, Callable[[Path, np.ndarray], _Take]] = {
    "npy shards, mapped (ours)": _npy,
    "safetensors shards, mapped": _safetensors,
    "arrow IPC, mapped": _arrow,
    "zarr, uncompressed, chunks of 64 rows": _zarr,
    "Hugging Face datasets": _datasets,
}
"""By name: writes rows to a folder, gives a function that takes rows by number."""


def _made(home: Path, rows: np.ndarray) -> tuple[dict[str, _Take], list[str]]:
    """The containers that can be written here, and why the others cannot."""
    takes, absent = {}, []
    for number, (name, make) in enumerate(CONTAINERS.items()):
        folder = home / str(number)
        folder.mkdir()
        try:
            takes[name] = make(folder, rows)
        except ModuleNotFoundError as error:
            absent.append(f"{name}: {error.name} is not installed")
    return takes, absent


def measure(rows: int, width: int, batch: int, rounds: int) -> dict[str, Any]:
    """Write each container, then take the same batches from each, round after round.

    Raises: DataError when a container gives other rows than were written.
    """
    torch.set_num_threads(1)
    table = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32).astype(np.float16)
    order = np.random.default_rng(1).permutation(rows)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        takes, absent = _made(Path(home), table)
        times: dict[str, dict[str, list[float]]] = {name: {"shuffled": [], "in order": []} for name in takes}
        for first in range(0, rounds * batch, batch):
            indices = {"shuffled": order[first : first + batch], "in order": np.arange(first, first + batch) % rows}
            for (name, take), (kind, index) in product(takes.items(), indices.items()):
                began = time.process_time()
                taken = take(index).astype(np.float32)
                times[name][kind].append(time.process_time() - began)
                check(np.array_equal(taken, table[index].astype(np.float32)), f"{name} gave other rows", DataError)
    what = "milliseconds of processor time to take one batch of rows as float32, from files in the page cache"
    sizes = {"rows": rows, "width": width, "stored": "float16", "batch": batch, "rounds": rounds}
    milliseconds = {
        name: {kind: {"median": 1e3 * median(t), "least": 1e3 * min(t)} for kind, t in kinds.items()}
        for name, kinds in times.items()
    }
    versions = {"packages": _versions(), "env": environment()}
    return {"schema": SCHEMA, "what": what, **sizes, "milliseconds": milliseconds, "absent": absent, **versions}


def _versions() -> dict[str, str]:
    packages = {}
    for package in ("numpy", "safetensors", "pyarrow", "zarr", "datasets"):
        with suppress(PackageNotFoundError):
            packages[package] = version(package)
    return packages


def lines(record: Mapping[str, Any]) -> list[str]:
    """The record for people."""
    return [
        f"{name:42}" + "".join(f"  {kind} {t['median']:8.2f} ms (least {t['least']:.2f})" for kind, t in kinds.items())
        for name, kinds in record["milliseconds"].items()
    ] + list(record["absent"])

"""Which container for activations: rows read by a permutation, as training does, and one after the other, in turns.

    python benchmarks/containers.py --out records/harvest/containers.json [--rows 400000 --width 576]

Containers whose package is not installed are left out and named. Behind docs/adr/0008-store.md.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.base.files import write_json
from monosem.bench.records import environment
from monosem.data.store import Sharded

SHARDS = 8
Take = Callable[[np.ndarray], np.ndarray]
CONTAINERS: dict[str, Callable[[Path, np.ndarray], Take]] = {}
"""By name: writes rows to a folder, gives a function that takes rows by number."""


def _container(name: str) -> Callable[[Callable[[Path, np.ndarray], Take]], Callable[[Path, np.ndarray], Take]]:
    def add(make: Callable[[Path, np.ndarray], Take]) -> Callable[[Path, np.ndarray], Take]:
        CONTAINERS[name] = make
        return make

    return add


@_container("npy shards, mapped (ours)")
def _npy(folder: Path, rows: np.ndarray) -> Take:
    each = -(-rows.shape[0] // SHARDS)
    paths = tuple(folder / f"{i}.npy" for i in range(SHARDS))
    for i, path in enumerate(paths):
        np.save(path, rows[i * each : (i + 1) * each])
    held = Sharded(paths, rows.shape, each)
    return lambda index: held[index]


@_container("safetensors shards, mapped")
def _safetensors(folder: Path, rows: np.ndarray) -> Take:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    each = -(-rows.shape[0] // SHARDS)
    for i in range(SHARDS):
        save_file({"x": rows[i * each : (i + 1) * each]}, str(folder / f"{i}.safetensors"))
    files = [safe_open(str(folder / f"{i}.safetensors"), framework="np") for i in range(SHARDS)]
    slices: list[Any] = [file.get_slice("x") for file in files]  # type: ignore[no-untyped-call]
    shape = (rows.shape[1],)

    def take(index: np.ndarray) -> np.ndarray:
        """Its slices take runs of rows, no list of row numbers: one call a row."""
        out = np.empty((index.size, *shape), rows.dtype)
        for at, (shard, row) in enumerate(zip(*np.divmod(index, each), strict=True)):
            out[at] = slices[shard][int(row) : int(row) + 1][0]
        return out

    return take


@_container("arrow IPC, mapped")
def _arrow(folder: Path, rows: np.ndarray) -> Take:
    import pyarrow

    each = -(-rows.shape[0] // SHARDS)
    width = rows.shape[1]
    batches = [
        pyarrow.record_batch(
            [pyarrow.FixedSizeListArray.from_arrays(rows[i * each : (i + 1) * each].reshape(-1), width)], ["x"]
        )
        for i in range(SHARDS)
    ]
    with pyarrow.OSFile(str(folder / "x.arrow"), "wb") as file, pyarrow.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    column = pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / "x.arrow"))).read_all().column("x")

    def take(index: np.ndarray) -> np.ndarray:
        found: np.ndarray = column.take(pyarrow.array(index)).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return found.reshape(-1, width)

    return take


@_container("zarr, uncompressed, chunks of 64 rows")
def _zarr(folder: Path, rows: np.ndarray) -> Take:
    import zarr  # type: ignore[import-not-found, unused-ignore]

    shard = -(-rows.shape[0] // (64 * SHARDS)) * 64
    shape, chunks, shards = rows.shape, (64, rows.shape[1]), (shard, rows.shape[1])
    array = zarr.create_array(
        str(folder / "x.zarr"), shape=shape, chunks=chunks, shards=shards, dtype=rows.dtype, compressors=None
    )
    array[:] = rows
    return lambda index: np.asarray(array.oindex[index])


@_container("Hugging Face datasets")
def _datasets(folder: Path, rows: np.ndarray) -> Take:
    import datasets  # type: ignore[import-not-found, unused-ignore]

    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Array2D((1, rows.shape[1]), str(rows.dtype))})

    def parts() -> Any:
        for start in range(0, rows.shape[0], 1000):
            yield from ({"x": row[None]} for row in rows[start : start + 1000])

    held = datasets.Dataset.from_generator(parts, features=features, cache_dir=str(folder)).with_format("numpy")
    return lambda index: np.asarray(held[index]["x"])[:, 0]


def main() -> None:
    """Write each container, then time them in turns; one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = np.random.default_rng(0).standard_normal((options.rows, options.width), dtype=np.float32).astype(np.float16)
    home, takes, absent = Path(tempfile.mkdtemp()), {}, []
    try:
        for number, (name, make) in enumerate(CONTAINERS.items()):
            folder = home / str(number)
            folder.mkdir()
            try:
                takes[name] = make(folder, rows)
            except ModuleNotFoundError as error:
                absent.append(f"{name}: {error.name} is not installed")
        order = np.random.default_rng(1).permutation(options.rows)
        times: dict[str, dict[str, list[float]]] = {name: {"shuffled": [], "in order": []} for name in takes}
        for turn in range(options.rounds):
            shuffled = order[turn * options.batch : (turn + 1) * options.batch]
            run = np.arange(options.batch) + turn * options.batch
            for name, take in takes.items():
                for kind, index in (("shuffled", shuffled), ("in order", run)):
                    began = time.process_time()
                    found = take(index).astype(np.float32)
                    times[name][kind].append(time.process_time() - began)
                    assert np.array_equal(found, rows[index].astype(np.float32)), name
    finally:
        shutil.rmtree(home, ignore_errors=True)
    packages = {}
    for package in ("numpy", "safetensors", "pyarrow", "zarr", "datasets"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    milliseconds = {
        name: {kind: {"median": 1e3 * statistics.median(t), "least": 1e3 * min(t)} for kind, t in kinds.items()}
        for name, kinds in times.items()
    }
    record = {
        "schema": "monosem.containers/1",
        "what": "milliseconds of processor time to take one batch of rows as float32, from files in the page cache",
        "rows": options.rows,
        "width": options.width,
        "stored": "float16",
        "batch": options.batch,
        "rounds": options.rounds,
        "milliseconds": milliseconds,
        "absent": absent,
        "packages": packages,
        "env": environment(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/containers.py --rows {options.rows} --width {options.width}",
    }
    write_json(options.out, record)
    for name, kinds in milliseconds.items():
        print(
            f"{name:42}"
            + "".join(f"  {kind} {t['median']:8.2f} ms (least {t['least']:.2f})" for kind, t in kinds.items())
        )
    print("\n".join(absent))


if __name__ == "__main__":
    main()

"""The readers of a store in a process that may use a tenth of its size: they end, and read no more than they say."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monosem.base.spec import digest
from monosem.data.reading import new_array
from monosem.data.store import COLUMNS, sha256_of, shard_folder
from monosem.networks.harvest import harvest

WIDTH, EACH, SHARDS = 1024, 1 << 16, 10
ROWS, SIZE = SHARDS * EACH, SHARDS * EACH * WIDTH * 4
PAGE = 4096
pytestmark = pytest.mark.slow


@contextmanager
def _group(limit: int) -> Iterator[Path]:
    """A control group with so many bytes of memory, page cache included."""
    old = Path("/sys/fs/cgroup/memory")
    folder = (old if old.is_dir() else Path("/sys/fs/cgroup")) / f"monosem-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (folder / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(limit))
        yield folder
    finally:
        folder.rmdir()


def _brought_in(group: Path) -> int | None:
    """Bytes that were fetched into memory, where the group counts them."""
    lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return PAGE * int(lines["pgpgin"]) if "pgpgin" in lines else None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.7 GB that take little of the disk: zeros that were never written, but for the number of every 64th row."""
    folder = tmp_path_factory.mktemp("large") / "acts"
    harvest(nn.Sequential(nn.Identity()).eval(), "0:out", [torch.zeros(2, WIDTH)], folder, shard_rows=EACH)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    for number in range(SHARDS):
        shard, first = shard_folder(folder, number), number * EACH
        shard.mkdir(exist_ok=True)
        new_array(shard / "x0.npy", np.float32, (EACH, WIDTH))[::64, 0] = np.arange(first, first + EACH, 64)
        for name in COLUMNS:
            new_array(shard / f"{name}.npy", np.int32, (EACH,))[:] = np.arange(first, first + EACH) // 64
    shards = [shard_folder(folder, number) for number in range(SHARDS)]
    hashes = [{f"{name}.npy": sha256_of(shard / f"{name}.npy") for name in COLUMNS} for shard in shards]
    manifest["shards"] = [{"rows": EACH, "sha256": part | {"x0.npy": "0" * 64}} for part in hashes]  # too large to hash
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest(manifest)}))
    return folder


READERS = {
    "the exact permutation": """
order = Order(source.rows, 1024, 0)
batches = [order.index(step) for step in range(120)]
for index in batches:
    x = source.take(index)[0][:, 0]
    marked = index % 64 == 0
    assert torch.equal(x[marked], index[marked].float())
    seen += x.numel()
""",
    "runs that are mixed": """
stream = mixed(source, buffer=4096, normalise=False)
for start in range(0, source.rows, 4096):
    seen += int((stream.take(torch.arange(start, start + 4096))[0][:, 0] > 0).sum())
stream.close()
assert seen == source.rows // 64 - 1
seen = source.rows
""",
    "what leaves rows out and measures units": """
source.ordinary()
source.set_aside(1024)
source.normalised(rows=4096)
seen = source.total + 4096
""",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_tenth_of_the_store_is_memory_enough(store: Path, reader: str) -> None:
    head = f"""
import torch
from monosem.data.mixed import mixed
from monosem.data.source import StoreSource
from monosem.data.store import open_store
from monosem.train.loop import Order
torch.set_num_threads(1)
source, seen = StoreSource(open_store({str(store)!r}), normalise=False), 0
assert source.store.table("0:out").values.large
"""
    with _group(SIZE // 10) as group:
        script = f"{head}\n{READERS[reader]}\nprint(seen)"
        words = ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh", sys.executable, "-c", script]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        fetched = _brought_in(group)
    if fetched is not None:
        wanted = WIDTH * 4 * int(ran.stdout)
        assert fetched > SIZE // 10  # more than may stay
        assert fetched < 1.5 * wanted + (300 << 20)  # and what torch takes for itself

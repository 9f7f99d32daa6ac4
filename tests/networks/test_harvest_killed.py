"""A harvest that is killed with SIGKILL, at any moment and more than once, ends with the bytes of one that was not."""

import itertools
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.data import writer
from monosem.data.batches import TokenFilter
from monosem.networks.harvest import harvest
from tests.networks.networks import Tiny, masked_batches

STAGES = ("append", "before rename", "after rename")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch._dynamo", "tests.networks.test_harvest_killed"])


def _harvest(folder: Path) -> None:
    keep = TokenFilter((3, 17), 1)
    harvest(
        Tiny(), "layers.2:in,out", masked_batches(12), folder, keep=keep, dtype="bfloat16", shard_rows=40,
        vocabulary=[f"word {i}" for i in range(40)],
    )  # fmt: skip


def _victim(folder: Path, death: tuple[str, int] | None, gate: Connection) -> None:
    torch.set_num_threads(1)
    count = itertools.count(1)

    def die_at(number: int) -> None:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if death is not None:
        stage, number = death
        add, move = writer.Writer.append, os.replace

        def append(self: writer.Writer, *rows: Any) -> None:
            add(self, *rows)
            die_at(number)

        def replace(source: Any, target: Any) -> None:
            if stage == "after rename":
                move(source, target)
            die_at(number)
            if stage == "before rename":
                move(source, target)

        if stage == "append":
            writer.Writer.append = append  # type: ignore[method-assign]
        else:
            os.replace = replace  # type: ignore[assignment]
    gate.send(None)
    _harvest(folder)


def _run(folder: Path, death: tuple[str, int] | None = None, after: float | None = None) -> tuple[int | None, float]:
    """(exit code, seconds) of a harvest in a process of its own; killed `after` seconds if that is given."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_victim, args=(folder, death, theirs))
    process.start()
    theirs.close()
    ours.recv()
    began = time.monotonic()
    if after is not None:
        process.join(after)
        process.kill()
    process.join()
    return process.exitcode, time.monotonic() - began


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What a harvest leaves when nobody kills it, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    code, seconds = _run(folder)
    assert code == 0
    return _bytes(folder), seconds


def test_killed_at_random_moments(whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    left, seconds = whole
    chance, killed = random.Random(0), 0
    for number in range(4):
        folder = tmp_path / str(number)
        for _ in range(2):
            killed += _run(folder, after=chance.uniform(0.0, seconds))[0] == -signal.SIGKILL
        assert _run(folder)[0] == 0
        assert _bytes(folder) == left
    assert killed > 0


@pytest.mark.parametrize("stage", STAGES)
def test_killed_inside_a_write(stage: str, whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    for number in (1, 2, 5, 9):
        folder = tmp_path / str(number)
        assert _run(folder, (stage, number))[0] == -signal.SIGKILL
        assert _run(folder)[0] == 0
        assert _bytes(folder) == whole[0]


def test_each_life_leaves_one_shard_more(whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    """Killed right after the manifest knows one more shard, again and again."""
    shards = sum(name.endswith("token.npy") for name in whole[0])
    assert shards > 4
    for number in range(shards - 1):
        lives = 4 if number == 0 else 3  # manifest, vocabulary, shard, manifest; later: manifest, shard, manifest
        assert _run(tmp_path / "run", ("after rename", lives))[0] == -signal.SIGKILL
        assert len(list((tmp_path / "run" / "shards").glob("0*"))) == number + 1
    assert _run(tmp_path / "run")[0] == 0
    assert _bytes(tmp_path / "run") == whole[0]


def test_a_finished_harvest_is_left_as_it_is(whole: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    _harvest(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    _harvest(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_another_number_of_threads_is_refused_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(tmp_path, ("after rename", 6))[0] == -signal.SIGKILL
    other = writer.machine() | {"threads": "7"}
    monkeypatch.setattr(writer, "machine", lambda: other)
    with pytest.raises(writer.CheckpointError, match="was begun with threads 1, this is threads 7"):
        _harvest(tmp_path)

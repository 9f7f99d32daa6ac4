"""Files are written whole or not at all; streams of random numbers depend on their key alone."""

import fcntl
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.base.errors import LONGEST, CheckpointError, OutputError, shortened
from monosem.base.files import LARGEST_JSON, claim, read_json, write_atomic, write_json
from monosem.base.seeds import key, philox, torch_generator


def test_write_atomic_writes_bytes_and_makes_folders(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a" / "b.bin", b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_atomic(path, lambda part: part.write_text("newer") and None)
    assert path.read_text() == "newer"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "file", b"old")

    def broken(part: Path) -> None:
        part.write_bytes(b"half of the n")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomic(path, broken)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nothing_is_renamed_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between flush and rename must find the old file: the order of the calls is the promise."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_atomic(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_json_round_trip_and_damage(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"b": 1, "a": [0.1, None]})
    assert read_json(path) == {"a": [0.1, None], "b": 1}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": [0.1, None], "b": 1}
    for damage in (b'{"a": [0.1', b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"a\.json is not readable JSON"):
            read_json(path)


def test_numbers_depend_on_the_key_alone() -> None:
    once = philox(3, "data", 7).standard_normal(4)
    philox(3, "data", 7).standard_normal(1000)
    np.testing.assert_array_equal(once, philox(3, "data", 7).standard_normal(4))
    first = [torch.rand(3, generator=torch_generator(3, "data", 7)).tolist() for _ in range(2)]
    assert first[0] == first[1]


def test_streams_differ() -> None:
    keys = {
        key(root, stream, *counters)
        for root in (0, 1)
        for stream in ("data", "init", "order")
        for counters in ((), (0,), (1,), (0, 0), (10,), (1, 0))
    }
    assert len(keys) == 36
    draws = {tuple(philox(0, stream, step).integers(0, 2**62, 2)) for stream in ("a", "b") for step in range(20)}
    assert len(draws) == 40


def test_first_numbers_of_a_stream() -> None:
    """Golden values: if they change, every data set and every run changes with them."""
    assert key(0, "init") == 187449070551250798457184882472329095466
    assert philox(0, "golden", 1).integers(0, 1000, 5).tolist() == [913, 526, 213, 574, 473]
    assert torch.randint(0, 1000, (5,), generator=torch_generator(0, "golden", 1)).tolist() == [465, 237, 384, 118, 18]


def test_claims_nest_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with claim(folder), claim(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    (folder / "mine").write_text("x")
    (folder / ".lock").write_text("process 1 on elsewhere (gone)")  # a process that died
    with claim(folder):
        assert f"process {os.getpid()}" in (folder / ".lock").read_text()
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_claim_of_another_process_is_named(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 17 on host (monosem train)")
        file.flush()
        with (
            pytest.raises(OutputError, match=r"is in use by process 17 on host \(monosem train\); wait"),
            claim(tmp_path),
        ):
            pass


@pytest.mark.parametrize("place", ["file/inside", "n" * 300])
def test_outputs_that_cannot_be(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for write in (lambda: write_atomic(tmp_path / place, b"x"), lambda: claim(tmp_path / place).__enter__()):
        with pytest.raises(OutputError, match="cannot be written"):
            write()
    with pytest.raises(OutputError, match="is a folder"):
        write_atomic(tmp_path, b"x")
    assert (tmp_path / "file").read_text() == "mine"


def test_json_that_would_take_all_memory_or_time(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(CheckpointError, match="bytes, at most"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no plain file"):
        read_json(path)
    path.unlink()
    for text in ("NaN", "[Infinity]", "[" * 100_000, "9" * 5000):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="not readable JSON"):
            read_json(path)


def test_messages_are_short() -> None:
    message = str(CheckpointError("x" * 3_000_000))
    assert len(message) == LONGEST
    assert shortened("a" * 30 + "b" * 30, 20) == "aaaaaaaaaa ... bbbbb"

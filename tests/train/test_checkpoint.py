"""Checkpoints that must not be resumed: damaged, of another run, of another machine; and what a kill leaves behind."""

import json
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem.anchors.term import Anchoring
from monosem.base.errors import CheckpointError, OutputError
from monosem.base.spec import digest
from monosem.base.tensors import UncheckedWarning
from monosem.core.io import load_model
from monosem.core.pairs import TensorSource
from monosem.kernels.ops import give_back, kept_memory
from monosem.methods import method, with_anchoring
from monosem.train import folder, state
from monosem.train.config import FitConfig
from monosem.train.loop import fit, parts_of
from monosem.train.result import Result
from monosem.train.state import FORMAT
from tests.train.scenes import anchors, rows
from tests.train.victims import contents, tensors_of

CONFIG = FitConfig(8, 16, 1e-2, log_every=2, checkpoint_every=4)
NAME = "checkpoint.safetensors"


def call(out: Path, name: str = "topk(k=2)", n_q: int = 24, config: FitConfig = CONFIG, **more: Any) -> Result:
    source = more.pop("source", TensorSource(rows(75, 10), digest="a"))
    return fit(name, source, n_q, config, out=out, **more)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    call(tmp_path)
    return tmp_path


def rewrite(path: Path, **metadata: str) -> None:
    held = tensors_of(path)["metadata"]
    save_file(load_file(path), path, held | metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: b"\xff" * 64 + whole[64:],
        lambda whole: b"not a checkpoint at all",
    ],
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], done: Path) -> None:
    path = done / NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors cannot be read .*; delete it to start again"):
        call(done)
    path.unlink()
    assert call(done).log[-1]["step"] == 8


@pytest.mark.parametrize("name", [NAME, "log.jsonl"])
def test_every_flipped_bit_is_seen(name: str, done: Path) -> None:
    path, chance = done / name, random.Random(0)
    whole = path.read_bytes()
    for bit in chance.sample(range(len(whole) * 8), 60):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            call(done)
    path.write_bytes(whole)
    call(done)


def test_a_checkpoint_of_an_older_version_goes_on_with_a_word(done: Path) -> None:
    path = done / NAME
    about = {name: tensors_of(path)["metadata"][name] for name in ("format", "identity", "step", "machine")}
    save_file(load_file(path), path, about)
    with pytest.warns(UncheckedWarning, match="an older version wrote it"):
        assert call(done).log[-1]["step"] == 8


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Whoever comes second is told who is there; nothing of his is written, and the first one ends as alone."""
    said: list[str] = []

    def second(run: Any, entry: dict[str, float]) -> None:
        if run.step == 4:
            with ThreadPoolExecutor(1) as other, pytest.raises(OutputError) as caught:
                other.submit(call, tmp_path / "run").result()
            said.append(str(caught.value))

    call(tmp_path / "run", callbacks=[second])
    call(tmp_path / "alone")
    assert f"is in use by process {os.getpid()} on" in said[0]
    assert contents(tmp_path / "run") == contents(tmp_path / "alone")


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "sub", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="cannot be written"):
            call(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("format", ["monosem.run/99", "monosem.model/1", ""])
def test_another_format_is_refused(format: str, done: Path) -> None:
    rewrite(done / NAME, format=format)
    with pytest.raises(CheckpointError, match=rf"has format '{format}', expected '{FORMAT}'; delete it"):
        call(done)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"name": "topk(k=3)"}, "method was topk(k=2, aux=0.03125), is topk(k=3, aux=0.03125)"),
    "another method": ({"name": "relu_l1"}, "method was topk(k=2, aux=0.03125), is relu_l1("),
    "size": ({"n_q": 25}, "n_q was 24, is 25"),
    "rate": ({"config": replace(CONFIG, lr=2e-2)}, "lr was 0.01, is 0.02"),
    "two": ({"config": replace(CONFIG, seed=1, clip=1.0)}, "clip was None, is 1.0; seed was 0, is 1"),
    "window": ({"config": replace(CONFIG, dead_window=5)}, "dead_window was None, is 5"),
    "data": ({"source": TensorSource(rows(75, 10), digest="b")}, "data was a, is b"),
    "units": ({"source": TensorSource(rows(75, 10), digest="a@1")}, "units was None, is 1"),
    "anchors": ({"anchors": anchors(2, 10, 10)}, "anchors was None, is given"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_is_refused_and_told_what_differs(other: str, done: Path) -> None:
    before = (done / NAME).read_bytes(), (done / "log.jsonl").read_bytes()
    arguments, differs = OTHERS[other]
    with pytest.raises(CheckpointError, match="belongs to another run: ") as refused:
        call(done, **arguments)
    assert differs in str(refused.value)
    assert "; choose another output folder" in str(refused.value)
    assert before == ((done / NAME).read_bytes(), (done / "log.jsonl").read_bytes())


def test_how_often_a_run_is_saved_does_not_make_it_another(done: Path) -> None:
    assert call(done, config=replace(CONFIG, checkpoint_every=None)).log[-1]["step"] == 8


def test_identity_tells_apart_what_changes_a_run() -> None:
    source, made = TensorSource(rows(75, 10), digest="a"), method("topk(k=2)")
    known = [
        parts_of(made, source, 24, CONFIG, None),
        parts_of(made, source, 24, CONFIG, anchors(2, 10, 10)),
        parts_of(made, source, 24, CONFIG, anchors(3, 10, 10)),
        parts_of(with_anchoring(made, Anchoring(hard=True)), source, 24, CONFIG, anchors(2, 10, 10)),
        parts_of(replace(made, pre_bias="free"), source, 24, CONFIG, None),
        parts_of(replace(made, constraints=()), source, 24, CONFIG, None),
    ]
    assert len({digest(parts) for parts in known}) == 6


@pytest.mark.parametrize("name", ["cpu", "threads", "python", "torch", "numpy", "monosem"])
def test_another_machine_is_refused_unless_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(run: Any, entry: dict[str, float]) -> None:
        if run.step == 6:
            raise Stop

    with pytest.raises(Stop):
        call(tmp_path, callbacks=[stop])
    machine = state.machine()
    monkeypatch.setattr(state, "machine", lambda: machine | {name: "another"})
    says = rf"written under other conditions \({name}: .* then, another now\); bits would differ.*allow_other_machine"
    with pytest.raises(CheckpointError, match=says):
        call(tmp_path)
    steps = []
    result = call(tmp_path, allow_other_machine=True, callbacks=[lambda run, entry: steps.append(run.step)])
    assert steps == [6, 8]  # it went on from the checkpoint at 4
    assert [entry["step"] for entry in result.log] == [1, 2, 4, 6, 8]


def test_threads_are_compared_as_they_are_when_training(done: Path) -> None:
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(kept + 1)
        with pytest.raises(CheckpointError, match=f"threads: {kept} then, {kept + 1} now"):
            call(done)
    finally:
        torch.set_num_threads(kept)


def test_what_a_kill_left_is_removed_and_what_is_not_ours_stays(done: Path) -> None:
    left = [done / f".{NAME}.abc123.part", done / ".config.json.x.part", done / ".tmpAbC12z"]
    kept = [done / "notes.part", done / ".tmp", done / "mine.txt"]
    for path in (*left, *kept):
        path.write_text("x")
    call(done)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_log_that_was_cut_or_runs_ahead_is_mended(done: Path) -> None:
    path = done / "log.jsonl"
    whole = path.read_bytes()
    (done / NAME).unlink()
    path.write_bytes(whole[: len(whole) - 9])
    call(done)
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"step": 9, "loss": 1.0}\n{"step": 1')
    call(done)
    assert path.read_bytes() == whole


def test_the_model_of_a_finished_run_reads_back(done: Path) -> None:
    model, result = load_model(done), call(done)
    for a, b in zip(model.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b)
    about = json.loads((done / "config.json").read_text())["metadata"]
    assert about.items() >= {"method": method("topk(k=2)").spec, "steps": 8, "identity": result.identity}.items()


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit("topk(k=2)", TensorSource(rows(75, 10)), 24, CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
def test_a_checkpoint_gives_back_what_its_copies_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory of a heap goes back to the system, which training keeps otherwise; once a checkpoint."""

    def anonymous() -> float:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) / 1024

    with kept_memory():
        blocks = [torch.ones(2**18) for _ in range(64)]
        del blocks
        kept = anonymous()
        give_back()
        assert anonymous() < kept - 32
    calls: list[int] = []
    monkeypatch.setattr(folder, "give_back", lambda: calls.append(1))
    call(tmp_path)
    call(tmp_path)  # read, and found finished
    assert len(calls) == 3

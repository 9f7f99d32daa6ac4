"""Checkpoints in pieces: any number of processes goes on with them, what is damaged is named, a kill changes no bit."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import torch

from monosem.base.errors import CheckpointError, OutputError
from monosem.base.files import Write
from monosem.base.group import ALONE, Axis, Group
from monosem.core.io import load_model
from monosem.core.model import SDL, Forward
from monosem.methods import method
from monosem.train import pieces
from monosem.train.loop import Callback, fit
from monosem.train.pieces import newest
from monosem.train.result import Result
from monosem.train.state import Run
from tests.group import together
from tests.train.scenes import SCENES, Scene
from tests.train.several import Seen, in_processes, watched
from tests.train.victims import contents


@pytest.fixture(autouse=True)
def _threads_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit(mesh=group)`: the group itself."""
    monkeypatch.setattr("monosem.train.loop._group", lambda mesh, device: nullcontext(mesh))


def _scene(name: str, steps: int = 24) -> Scene:
    made = SCENES[name]() if name in SCENES else Scene(method(f"topk(k=2) | {name}"))
    return replace(made, config=replace(made.config, steps=steps, eps=1e-4, log_every=6, checkpoint_every=6))


def _train(
    scene: Scene, size: int, out: Path, anywhere: bool = True, by: Axis = "latents", callbacks: Sequence[Callback] = ()
) -> list[Result]:
    def one(group: Group) -> Result:
        if group is not ALONE:
            group.by = by
        return fit(
            scene.method, scene.source, scene.n_q, scene.config, scene.anchors,
            out=out, allow_other_machine=anywhere, mesh=group, callbacks=callbacks,
        )  # fmt: skip

    return together(size, one)


STEPPED = ("adam(ema=0.8)", "muon", "schedule_free_sign")
AXES: dict[str, tuple[Axis, ...]] = {
    "latents": ("latents",) * 4,
    "targets": ("targets",) * 4,
    "both": ("latents", "targets", "latents", "targets"),
}


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        *((name, "latents") for name in SCENES),
        ("ghosts", "targets"),
        ("ghosts", "both"),
        ("jumprelu", "both"),
        *((text, "latents") for text in STEPPED),
    ],
)
def test_any_number_of_processes_goes_on(name: str, axes: str, tmp_path: Path) -> None:
    """2, 4, 1 and 3 of them, a quarter of the run each, end where one would have."""
    several, one = tmp_path / "several", tmp_path / "one"
    for (steps, size), by in zip(((6, 2), (12, 4), (18, 1), (24, 3)), AXES[axes], strict=True):
        scene = _scene(name, steps)
        part = _train(scene, size, several, by=by)
        _train(scene, 1, one)
        assert part[0].log[-1]["step"] == steps
    ours, theirs = load_model(several), load_model(one)
    assert ours.layout == theirs.layout
    for (label, mine), (_, wanted) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(
            mine,
            wanted,
            rtol=0,
            atol=1e-4 * float(wanted.detach().abs().max().clamp(min=1e-2)),
            msg=lambda text, label=label: f"{label}: {text}",
        )
    names = sorted(path.name for path in several.iterdir())
    files = [f"checkpoint-24-{rank}-of-3.safetensors" for rank in range(3)]
    assert names == sorted([*files, "checkpoint.json", "config.json", "log.jsonl", "model.safetensors"])


def test_one_process_reads_what_several_wrote_to_the_bit(tmp_path: Path) -> None:
    """The weights of the pieces, side by side, are those of the ordinary file."""
    scene = _scene("hard", 6)
    results = _train(scene, 3, tmp_path)
    whole = load_model(tmp_path)
    rows = torch.cat([result.model.W_E for result in results])
    assert torch.equal(rows, whole.W_E)
    assert torch.equal(torch.cat([result.model.W_D for result in results], 1), whole.W_D)
    again = _train(scene, 1, tmp_path)[0].model
    assert torch.equal(again.W_E, whole.W_E)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == [
        "checkpoint-6-0-of-3.safetensors",
        "checkpoint-6-1-of-3.safetensors",
        "checkpoint-6-2-of-3.safetensors",
        "checkpoint.json",
    ]


def test_another_number_of_processes_is_named(tmp_path: Path) -> None:
    _train(_scene("tied", 6), 2, tmp_path)
    with pytest.raises(CheckpointError, match="processes: 2 then, 4 now"):
        _train(_scene("tied", 12), 4, tmp_path, anywhere=False)
    assert _train(_scene("tied", 12), 2, tmp_path, anywhere=False)[0].log[-1]["step"] == 12


def _piece(folder: Path, rank: int) -> Path:
    return folder / f"checkpoint-6-{rank}-of-2.safetensors"


def _missing(folder: Path) -> None:
    _piece(folder, 1).unlink()


def _truncated(folder: Path) -> None:
    _piece(folder, 1).write_bytes(_piece(folder, 1).read_bytes()[:-9])


def _flipped(folder: Path) -> None:
    whole = bytearray(_piece(folder, 1).read_bytes())
    whole[-5] ^= 4
    _piece(folder, 1).write_bytes(whole)


def _swapped(folder: Path) -> None:
    shutil.copy(_piece(folder, 0), _piece(folder, 1))


def _of_a_larger_world(folder: Path) -> None:
    manifest = json.loads((folder / "checkpoint.json").read_text())
    del manifest["pieces"][1]
    (folder / "checkpoint.json").write_text(json.dumps(manifest))


DAMAGE = {
    _missing: "checkpoint-6-1-of-2.safetensors, which is missing",
    _truncated: "checkpoint-6-1-of-2.safetensors cannot be read",
    _flipped: "checkpoint-6-1-of-2.safetensors was altered",
    _swapped: "checkpoint-6-1-of-2.safetensors is not the piece",
    _of_a_larger_world: "checkpoint.json is of 16 latents, this run has n_q=32",
}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.strip("_"))
def test_a_piece_that_is_not_whole_is_named(damage: object, size: int, tmp_path: Path) -> None:
    """By every process that would read it, and nothing there changes."""
    assert callable(damage)
    _train(_scene("tied", 6), 2, tmp_path)
    damage(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=DAMAGE[damage]):  # type: ignore[index]
        _train(_scene("tied", 12), size, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


class _Stop(Exception):
    """A run that ends early."""


def _until(stop: int, passed: Event | None = None) -> Callback:
    def see(run: Run, entry: dict[str, float]) -> None:
        if run.step == 8 and passed is not None:
            passed.set()
        if run.step == stop:
            raise _Stop

    return see


@pytest.mark.parametrize("size", [1, 2])
def test_training_goes_on_while_a_checkpoint_is_written(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes the checkpoint of step 6 when step 8 is over; what it then gets is of step 6."""
    made = _scene("batch_topk", 12)
    scene = replace(made, config=replace(made.config, log_every=1))
    with pytest.raises(_Stop):
        _train(scene, size, tmp_path / "plain", callbacks=[_until(10)])
    passed, write, at_once, most = Event(), pieces.write_atomic, 0, 0

    def slow(path: Path, what: Write) -> Path:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        assert passed.wait(60), "training waits for the disk"
        at_once -= 1
        return write(path, what)

    monkeypatch.setattr(pieces, "write_atomic", slow)
    with pytest.raises(_Stop):
        _train(scene, size, tmp_path / "slow", callbacks=[_until(10, passed)])
    assert most <= size  # one of each process
    assert contents(tmp_path / "slow") == contents(tmp_path / "plain")
    _train(scene, size, tmp_path / "slow")
    _train(scene, size, tmp_path / "plain")
    assert contents(tmp_path / "slow") == contents(tmp_path / "plain")


@pytest.mark.parametrize("size", [1, 2])
def test_what_a_writer_meets_reaches_the_caller(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every process; the checkpoint before is there, and the run goes on from it."""
    scene = _scene("tied", 18)
    _train(scene, size, tmp_path / "whole")
    write = pieces.write_atomic

    def full(path: Path, what: Write) -> Path:
        if "checkpoint-12-1" in path.name or (size == 1 and newest(path.parent) is not None):
            raise OutputError(f"{path} cannot be written (No space left on device)")
        return write(path, what)

    monkeypatch.setattr(pieces, "write_atomic", full)
    with pytest.raises(OutputError, match="No space left"):
        _train(scene, size, tmp_path / "again")
    monkeypatch.setattr(pieces, "write_atomic", write)
    _train(scene, size, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("size", "other"), [(1, 2), (2, 1), (2, 2)])
def test_what_a_kill_leaves_of_older_checkpoints_goes(size: int, other: int, tmp_path: Path) -> None:
    """Killed after the last checkpoint was there and before the one before it was gone."""
    _train(_scene("tied", 6), other, tmp_path / "old")
    _train(_scene("tied", 12), size, tmp_path / "run")
    wanted = contents(tmp_path / "run")
    for path in (tmp_path / "old").glob("checkpoint*"):
        if not (tmp_path / "run" / path.name).exists():
            shutil.copy(path, tmp_path / "run")
    _train(_scene("tied", 12), size, tmp_path / "run")
    assert contents(tmp_path / "run") == wanted


def _killed(out: Path, death: tuple[int, int] | None, rank: int, size: int) -> Seen:
    """The run; at a step one of the processes kills itself."""
    count = 0
    observed = SDL.observe

    def observe(model: SDL, at: Forward) -> None:
        nonlocal count
        count += 1
        if (rank, count) == death:
            os.kill(os.getpid(), signal.SIGKILL)
        observed(model, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SDL, "observe", observe)
        return watched(_scene("batch_topk"), size, out)


@pytest.mark.parametrize("death", [(1, 14), pytest.param((0, 20), marks=pytest.mark.slow)])
def test_a_kill_of_one_process_changes_no_bit(death: tuple[int, int], tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    in_processes(2, partial(_killed, whole, None))
    with pytest.raises(AssertionError, match="exit codes"):
        in_processes(2, partial(_killed, again, death))
    assert (again / "checkpoint.json").exists()
    in_processes(2, partial(_killed, again, None))
    assert contents(again) == contents(whole)

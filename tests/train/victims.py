"""Processes that train and are killed: forked from a server that has imported torch, so that each is cheap."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from monosem.base import files, tensors
from monosem.bench import records, task_scores
from monosem.bench.run import Job, run_job
from monosem.train import folder as folder_module
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.train.scenes import SCENES

Death = tuple[str, int]
"""At which stage, and at its which occurrence."""
STAGES = ("part", "half", "rename", "renamed", "line", "logged")

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch._dynamo", "tests.train.victims"])  # Adam imports _dynamo: once, not per fork

JOB = Job(
    "lrb/nano",
    "topk(k=3)",
    seed=1,
    config=FitConfig(30, 32, 1e-2, log_every=3, checkpoint_every=2, dead_window=100, threads=1),
    anchors=4,
    held_out=4,
)


def _arm(death: Death) -> None:
    """Make this process kill itself inside a write."""
    stage, number = death
    count = itertools.count(1)

    def now() -> bool:
        return next(count) == number

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    real_make, real_save, real_replace, real_add = (
        files.tempfile.mkstemp, tensors.save_file, files.os.replace, folder_module.RunFolder.log,
    )  # fmt: skip

    def make(**where: Any) -> tuple[int, str]:
        made = real_make(**where)
        return (die(), made)[1] if now() else made

    def save(values: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
        real_save(values, path, metadata)
        if now():
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def replace(part: Path, path: Path) -> None:
        if stage == "renamed":
            real_replace(part, path)
        if now():
            die()
        if stage == "rename":
            real_replace(part, path)

    def add(self: folder_module.RunFolder, entry: dict[str, float]) -> None:
        path = None if self.path is None else self.path / "log.jsonl"
        before = path.stat().st_size if path else 0
        real_add(self, entry)
        if now():
            if stage == "line" and path:
                os.truncate(path, (before + path.stat().st_size) // 2)
            die()

    match stage:
        case "part":
            files.tempfile.mkstemp = make  # type: ignore[assignment]
        case "half":
            tensors.save_file = save  # type: ignore[attr-defined]
        case "rename" | "renamed":
            files.os.replace = replace  # type: ignore[assignment]
        case "line" | "logged":
            folder_module.RunFolder.log = add  # type: ignore[method-assign]
        case _:
            raise ValueError(stage)


def _victim(work: Callable[[str, Path], None], what: str, folder: Path, death: Death | None, gate: Connection) -> None:
    torch.set_num_threads(1)
    if death is not None:
        _arm(death)
    gate.send(None)
    work(what, folder)


def _fit(scene: str, folder: Path) -> None:
    made = SCENES[scene]()
    fit(made.method, made.source, made.n_q, made.config, made.anchors, out=folder)


def _bench(_: str, folder: Path) -> None:
    task_scores.EVAL_ROWS = 256
    records._commit = lambda file: None  # type: ignore[assignment]
    run_job(JOB, folder)


def _start(
    work: Callable[[str, Path], None], what: str, folder: Path, death: Death | None
) -> tuple[ForkServerProcess, float]:
    """A process that is about to work, and the moment at which it was."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_victim, args=(work, what, folder, death, theirs))
    process.start()
    theirs.close()
    ours.recv()
    ours.close()
    return process, time.monotonic()


def _finish(work: Callable[[str, Path], None], what: str, folder: Path) -> float:
    """Run to the end; how long that took."""
    process, began = _start(work, what, folder, None)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def train(scene: str, folder: Path) -> float:
    """Run a scene to its end in a process of its own; how long that took."""
    return _finish(_fit, scene, folder)


def bench(folder: Path) -> float:
    """Run the bench's job to its end in a process of its own; how long that took."""
    return _finish(_bench, "", folder)


def die(scene: str | None, folder: Path, death: Death) -> None:
    """Run a scene (None: the bench's job) that kills itself at a stage; it must get there."""
    process, _ = _start(_bench if scene is None else _fit, scene or "", folder, death)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"never reached {death}"


def kill_at_random(scene: str | None, folder: Path, seconds: float, chance: random.Random) -> None:
    """Run a scene (None: the bench's job) and kill it somewhere in its first `seconds`, whatever is in the way."""
    kept = folder.with_name(f"{folder.name}-before")
    if folder.exists():
        shutil.copytree(folder, kept)
    wait = chance.uniform(0.0, seconds)
    while True:
        process, began = _start(_bench if scene is None else _fit, scene or "", folder, None)
        time.sleep(max(0.0, began + wait - time.monotonic()))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            break
        shutil.rmtree(folder)  # it was faster than the run that was timed: once more, from the same start
        if kept.exists():
            shutil.copytree(kept, folder)
        wait *= chance.random()
    shutil.rmtree(kept, ignore_errors=True)


def tensors_of(path: Path) -> dict[str, Any]:
    """The bytes, type and shape of every tensor of a file, and its metadata (their order in a file is not fixed)."""
    with safe_open(str(path), framework="pt") as file:
        names = file.keys()
        held = {name: file.get_tensor(name) for name in names}
        plain = {n: (t.numpy().tobytes(), str(t.dtype), tuple(t.shape)) for n, t in held.items()}
        return {"metadata": file.metadata(), **plain}


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a run left, by file name."""
    return {
        str(path.relative_to(folder)): tensors_of(path) if path.suffix == ".safetensors" else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

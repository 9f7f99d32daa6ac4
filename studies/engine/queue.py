"""The queue of a study: what has a record is not run again, wherever an earlier call stopped."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from monosem import MonosemError
from monosem.base import claim, digest
from monosem.bench import NO_CALLBACKS, Event, JobCallbacks, run_all
from studies.engine.records import Records
from studies.engine.study import Need, Progress, Run

Say = Callable[[str], None]


def run_missing(
    runs: Sequence[Run],
    folder: str | Path,
    workers: int | None = None,
    callbacks: JobCallbacks = NO_CALLBACKS,
    say: Say = lambda line: None,
    known: Sequence[Path] = (),
    part: slice | None = None,
) -> int:
    """Run what has no record in the folder or in the `known` packed files, each in a single-threaded process.

    Returns how many had one, or stand twice.

    What several runs need is made first, once; `say` gets a line of text about it, `callbacks` the runs' events. A run
    that fails leaves the others alone; without a callback for errors they are raised together at the end.
    `part`: only these of the runs that differ, as one task of an array; others share the folder. What runs need is then
    claimed by the task that makes it: runs of another that need it meanwhile fail, and are there for the next call.
    Raises: OutputError when the folder cannot be written, or another process runs there.
    """
    with claim(folder) if part is None else nullcontext():
        return _run_missing(runs, Path(folder), workers, callbacks, say, known, part)


def _run_missing(
    runs: Sequence[Run],
    folder: Path,
    workers: int | None,
    callbacks: JobCallbacks,
    say: Say,
    known: Sequence[Path],
    part: slice | None,
) -> int:
    mine, todo = _todo(runs, Records(folder, *known), part)
    count = max(1, min(workers or len(os.sched_getaffinity(0)), len(todo)))
    refused = _prepare([runs[i].needs for i in todo], partial(_make, folder, part is not None), count, say)
    ready = [i for i in todo if runs[i].needs not in refused]
    failed = [Event("error", i, refused[runs[i].needs]) for i in todo if i not in ready]
    for event in failed:
        callbacks.tell(event)
    with closing(run_all(partial(_run, folder), [runs[i] for i in ready], count)) as events:
        for event in events:
            event = replace(event, job=ready[event.job])
            failed += [event] * (event.kind == "error")
            callbacks.tell(event)
    if failed and callbacks.error is None:
        run = runs[failed[0].job]
        first = f"{run.method} {run.arm} seed {run.seed}: {failed[0].value}"
        raise MonosemError(f"{len(failed)} of {len(todo)} runs failed; the first: {first}")
    return mine - len(todo)


def _todo(runs: Sequence[Run], records: Records, part: slice | None) -> tuple[int, list[int]]:
    """(how many runs are this call's, the numbers of those that have no record); of several of one key the first."""
    first: dict[str, int] = {}
    for i, run in enumerate(runs):
        first.setdefault(run.key, i)
    mine = list(first.values()) if part is None else list(first.values())[part]
    return len(runs) if part is None else len(mine), [i for i in mine if runs[i].find(records) is None]


def _prepare(
    wanted: Sequence[Need | None], make: Callable[[Need, Progress], None], workers: int, say: Say
) -> dict[Need | None, str]:
    """Make what runs need, each once; returns why, where that failed."""
    needs = list(dict.fromkeys(need for need in wanted if need))
    refused, done = dict[Need | None, str](), 0
    with closing(run_all(make, needs, min(workers, len(needs)))) as events:
        for event in events:
            need = needs[event.job]
            if event.kind == "step":
                say(str(event.value))
            elif event.kind == "error":
                refused[need] = str(event.value)
            elif event.kind == "done":
                done += 1
                say(f"ready: {need.title}, {done} of {len(needs)}")
    return refused


def _make(folder: Path, shared: bool, need: Need, progress: Progress) -> None:
    with claim(folder / ".claims" / digest(need.title)) if shared else nullcontext():
        need.make(folder, progress)


def _run(folder: Path, run: Run, progress: Progress) -> Path:
    torch.set_num_threads(1)
    return run.run(folder, progress)

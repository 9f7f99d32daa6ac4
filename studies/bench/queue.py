"""The queue of a study: what is there already is not run again, wherever an earlier call stopped."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monosem.base.errors import MonosemError
from monosem.base.spec import canonical, to_plain
from monosem.bench.anchor_sets import discovered_anchors
from monosem.bench.jobs import run_jobs
from monosem.bench.pool import NO_CALLBACKS, Event, JobCallbacks, run_all
from monosem.bench.records import read_records
from monosem.bench.run import Job, job_head
from monosem.bench.tasks import Task, TaskSource
from monosem.train.config import FitConfig
from studies.bench.base import Entry, Scale, Study, jobs_of

_TRAINED = ("steps", "batch_size", "lr", "selection", "dense", "held_out")
"""What of a configuration tells runs of a study apart; fields that a later version adds leave old runs known."""
_WATCHED = " watched"
"""What a key ends in where the recovery during training is wanted too."""

Outcome = tuple[Entry, int, Mapping[str, Any] | None]
"""An entry, its world, and the record of that run where there is one."""


def run_key(head: Mapping[str, Any]) -> str:
    """What makes two runs the same cell of a study: task, method, anchors, seeds and how it was trained."""
    task, method = head["task"], head["method"]["spec"]
    config = to_plain(FitConfig()) | head["config"]  # an older record lacks what then was the only way
    return canonical(
        [task["hash"], task["pairing"], method, head["anchors"], head["seed"], [config[name] for name in _TRAINED]]
    )


def outcomes(study: Study, scale: Scale, *places: str | Path, seeds: Iterable[int] | None = None) -> list[Outcome]:
    """Every run of a study with its record from folders or packed files, None where it has not been run."""
    found = _found(*places)
    return [(entry, job.seed, found.get(_key(job))) for entry, job in jobs_of(study, scale, seeds)]


def run_study(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    callbacks: JobCallbacks = NO_CALLBACKS,
    on_discovery: Callable[[int, int], None] | None = None,
    known: Sequence[str | Path] = (),
) -> int:
    """Run the jobs that have no record yet; first, once per world, discover the anchors that some of them need.

    Records are looked for in `folder`, where new ones go, and in the `known` packed files.

    Returns how many were there already. `callbacks` as in `run_jobs`; `on_discovery(done, all)` hears of the
    worlds. A job whose discovery failed tries it again, and says why it fails.
    """
    folder = Path(folder)
    there = _found(folder, *known)
    todo = [i for i, job in enumerate(jobs) if _key(job) not in there]
    unique = {_key(jobs[i]): i for i in reversed(todo)}
    todo = sorted(unique.values())
    worlds = list(dict.fromkeys(jobs[i].task_value for i in todo if jobs[i].given == "discovered"))
    count = max(1, min(workers or len(os.sched_getaffinity(0)), len(todo)))
    done = 0
    with closing(run_all(partial(_discover, folder), worlds, min(count, len(worlds)))) as events:
        for event in events:
            done += event.kind in ("done", "error")
            if on_discovery:
                on_discovery(done, len(worlds))
    failed: list[str] = []

    def failing(number: int, why: str) -> None:
        failed.append(f"{jobs[number].title}: {why}")
        callbacks.tell(Event("error", number, why))

    run_jobs([jobs[i] for i in todo], folder, count, replace(callbacks, error=failing).of(todo))
    if failed and callbacks.error is None:
        raise MonosemError(f"{len(failed)} of {len(todo)} runs failed; the first: {failed[0]}")
    return len(jobs) - len(todo)


def _key(job: Job) -> str:
    return run_key(job_head(job, None)) + (_WATCHED if job.watch else "")


def _found(*places: str | Path) -> dict[str, Mapping[str, Any]]:
    """Records by key; of two runs of the same cell the later one. A watched run serves either way."""
    records = [record for place in places if Path(place).exists() for record in read_records(place)]
    found: dict[str, Mapping[str, Any]] = {}
    for record in sorted(records, key=lambda record: str(record["created"])):
        found[run_key(record)] = record
        if "M_GT" in record["training"]:
            found[run_key(record) + _WATCHED] = record
    return found


def _discover(folder: Path, task: Task, told: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    discovered_anchors(TaskSource(task), folder)

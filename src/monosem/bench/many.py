"""Many jobs of the bench: each in a process of its own, or several of one shape side by side."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from monosem.base.errors import MonosemError, RefusedError, ShapeError
from monosem.bench.pool import NOBODY, Event, Heard, run_all
from monosem.bench.run import Job, Ready, job_record_name, run_job
from monosem.bench.stacks import stacks_of
from monosem.train.stack_fit import Member, fit_together

__all__ = ["run_jobs", "run_stack"]


def run_stack(jobs: Sequence[Job], folder: str | Path, told: Callable[[int], None] | None = None) -> list[str | None]:
    """Train jobs of one shape side by side and write their records; for each job None, or why it failed.

    A record's `env.stacked` says how many ran together, its `wall_time_s` is that of all of them. Jobs that cannot
    share a stack after all are run alone, one after the other.
    """
    ready = [Ready.of(job, Path(folder)) for job in jobs]
    members = [
        Member(job.built, one.source, job.config.seed, one.anchors, one.callbacks(None if number else told))
        for number, (job, one) in enumerate(zip(jobs, ready, strict=True))
    ]
    why: list[str | None] = [None] * len(jobs)

    def failed(number: int, error: MonosemError) -> None:
        why[number] = str(error)

    try:
        results = fit_together(members, ready[0].value.n_q, jobs[0].config, on_error=failed)
    except (RefusedError, ShapeError):
        for number, job in enumerate(jobs):
            try:
                run_job(job, folder, told=told)
            except MonosemError as error:
                failed(number, error)
        return why
    for one, result in zip(ready, results, strict=True):
        if result is not None:
            one.write(result, len(jobs))
    return why


def _work(folder: Path, jobs: Sequence[Job], told: Callable[[int], None]) -> list[str | None]:
    torch.set_num_threads(1)
    if len(jobs) > 1:
        return run_stack(jobs, folder, told)
    run_job(jobs[0], folder, told=told)
    return [None]


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    heard: Heard = NOBODY,
    stack: int | None = 1,
) -> list[Path]:
    """Run every job whose record is not there yet, in single-threaded processes; returns the paths of all records.

    A run in such a process gives the same bits as running it alone. `workers` defaults to the number of cores.
    `stack`: up to so many jobs of one shape train side by side (train.stack_fit), 1 each alone; None: by their size
    where they train on a GPU, else alone.
    `heard` hears of jobs that are found done, started or finished, how far each has come, and why one failed (the
    others go on). Where nobody hears of errors, they are raised together at the end.
    """
    folder = Path(folder)
    paths = [folder / job_record_name(job) for job in jobs]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    failed: list[str] = []
    for i in sorted(set(range(len(jobs))) - set(todo)):
        heard.tell(Event("done", i, paths[i]))
    groups = [[todo[i] for i in group] for group in stacks_of([jobs[i] for i in todo], stack)]
    count = min(workers or len(os.sched_getaffinity(0)), len(groups))

    def ended(number: int, why: str | None) -> None:
        if why is not None:
            failed.append(f"{jobs[number].title}: {why}")
        heard.tell(Event("done", number, paths[number]) if why is None else Event("error", number, why))

    with closing(run_all(partial(_work, folder), [[jobs[i] for i in group] for group in groups], count)) as events:
        for event in events:
            for place, number in enumerate(groups[event.job]):
                if event.kind in ("start", "step"):
                    heard.tell(Event(event.kind, number, event.value))
                else:
                    ended(number, event.value[place] if event.kind == "done" else event.value)
    if failed and heard.error is None:
        raise MonosemError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")
    return paths

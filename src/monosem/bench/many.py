"""Many jobs of the bench, each in a process of its own."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from monosem.base.errors import MonosemError
from monosem.bench.pool import NOBODY, Event, Heard, run_all
from monosem.bench.run import Job, job_record_name, run_job


def _work(folder: Path, job: Job, on_step: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    run_job(job, folder, on_step=on_step)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    heard: Heard = NOBODY,
) -> list[Path]:
    """Run every job whose record is not there yet, in single-threaded processes; returns the paths of all records.

    A run in such a process gives the same bits as running it alone. `workers` defaults to the number of cores.
    `heard` hears of jobs that are found done, started or finished, how far each has come, and why one failed (the
    others go on). Where nobody hears of errors, they are raised together at the end.
    """
    folder = Path(folder)
    paths = [folder / job_record_name(job) for job in jobs]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    failed: list[str] = []
    for i in sorted(set(range(len(jobs))) - set(todo)):
        heard.tell(Event("done", i, paths[i]))
    count = min(workers or len(os.sched_getaffinity(0)), len(todo))
    with closing(run_all(partial(_work, folder), [jobs[i] for i in todo], count)) as events:
        for event in events:
            number = todo[event.job]
            if event.kind == "error":
                failed.append(f"{jobs[number].title}: {event.value}")
            heard.tell(Event(event.kind, number, paths[number] if event.kind == "done" else event.value))
    if failed and heard.error is None:
        raise MonosemError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")
    return paths

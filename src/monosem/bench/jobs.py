"""The jobs of a bench: which there are, and how they run, each in a process of its own."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from monosem.anchors.term import Anchoring
from monosem.base.errors import MonosemError, check
from monosem.bench.defaults import PAPER_ROWS, fit_config, recipe
from monosem.bench.pool import NO_CALLBACKS, Event, JobCallbacks, run_all
from monosem.bench.run import Job, job_record_name, run_job
from monosem.bench.tasks import TASKS
from monosem.methods import method


def resolve(name: str, task: str) -> str:
    """A method's whole text: a bare name takes the task's documented defaults. Raises: as `methods.method`."""
    return method(recipe(task, name)).spec


def plan(
    task: str,
    methods: Sequence[str] = (),
    *,
    anchors: int | None = None,
    plain: bool = True,
    anchored: bool = True,
    seeds: int = 3,
    steps: int | None = None,
    checkpoint_every: int | None = None,
    anchoring: Anchoring | None = None,
    among: Sequence[str] = ("all",),
) -> list[Job]:
    """Jobs in the order in which they start: world by world, each with every method, plain and anchored.

    `methods` are names or texts (none: the seven of the paper's table 1), `anchors` the number of anchored features
    (None: the task's), which no run is scored on, plain ones neither; `steps` and
    `checkpoint_every` override the task's, `anchoring` the usual form. Each of `among` is an anchored run of its own
    that takes only those features: a hierarchy has "parents" and "children".
    """
    count = TASKS[task].anchors if anchors is None else anchors
    check(seeds >= 1, f"seeds = {seeds}; run at least one")
    check(plain or anchored, "neither plain nor anchored runs are wanted; ask for one of them")
    check(not anchored or count >= 1, f"anchors = {count}; anchored runs need at least one, or ask for plain runs only")
    TASKS[task].scored(count)
    for group in among:
        TASKS[task].anchored(count, group)
    specs = list(dict.fromkeys(resolve(name, task) for name in methods or PAPER_ROWS))
    jobs = []
    for seed in range(seeds):
        config = fit_config(task, seed, steps)
        config = config if checkpoint_every is None else replace(config, checkpoint_every=checkpoint_every)
        for spec in specs:
            bare = Job(task, spec, seed, config, held_out=count, anchoring=anchoring or Anchoring())
            jobs += [bare] * plain
            jobs += [replace(bare, anchors=count, among=group) for group in among] * anchored
    return jobs


def _work(folder: Path, job: Job, on_step: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    run_job(job, folder, on_step=on_step)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    callbacks: JobCallbacks = NO_CALLBACKS,
) -> list[Path]:
    """Run every job whose record is not there yet, in single-threaded processes; returns the paths of all records.

    A run in such a process gives the same bits as running it alone. `workers` defaults to the number of cores.
    `callbacks` are called for jobs that have their record already, that start, reach a step, finish or fail (the
    others go on). Without a callback for errors they are raised together at the end.
    """
    folder = Path(folder)
    paths = [folder / job_record_name(job) for job in jobs]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    failed: list[str] = []
    for i in sorted(set(range(len(jobs))) - set(todo)):
        callbacks.tell(Event("done", i, paths[i]))
    count = min(workers or len(os.sched_getaffinity(0)), len(todo))
    with closing(run_all(partial(_work, folder), [jobs[i] for i in todo], count)) as events:
        for event in events:
            number = todo[event.job]
            if event.kind == "error":
                failed.append(f"{jobs[number].title}: {event.value}")
            callbacks.tell(Event(event.kind, number, paths[number] if event.kind == "done" else event.value))
    if failed and callbacks.error is None:
        raise MonosemError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")
    return paths

"""Many runs at once: a bench sweep in one process and in two; whether the numbers are those of runs alone."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.turns import Tell
from monosem.bench.defaults import fit_config, recipe
from monosem.bench.many import run_jobs
from monosem.bench.records import read_records
from monosem.bench.run import Job

_RESULTS = ("metrics", "curves", "training", "similarity")


def _jobs(task: str, steps: int, seeds: int) -> list[Job]:
    methods = ("topk", "relu_l1")
    return [
        Job(task, recipe(task, name), seed, fit_config(task, seed, steps)) for name in methods for seed in range(seeds)
    ]


def _run(jobs: list[Job], folder: Path, workers: int) -> tuple[float, list[dict[str, Any]]]:
    began = time.perf_counter()
    run_jobs(jobs, folder, workers)
    seconds = time.perf_counter() - began
    return seconds, [{name: record[name] for name in _RESULTS} for record in read_records(folder)]


def sweep(tell: Tell, task: str = "lrb/mini", steps: int = 200, seeds: int = 2) -> dict[str, Any]:
    """Wall seconds of the same jobs in one process, in two, and one by one, each in a process of its own.

    `equal` says whether all three gave the same bits in every metric, curve and logged number.
    """
    jobs = _jobs(task, steps, seeds)
    with TemporaryDirectory() as root:
        folder = Path(root)
        one, first = _run(jobs, folder / "one", 1)
        two, second = _run(jobs, folder / "two", 2)
        for job in jobs:
            run_jobs([job], folder / "alone", 1)
        alone = [{name: record[name] for name in _RESULTS} for record in read_records(folder / "alone")]
    tell(f"{len(jobs)} runs: {one:.1f} s in one process, {two:.1f} s in two")
    return {
        "task": task,
        "steps": steps,
        "jobs": len(jobs),
        "seconds": {"1": round(one, 3), "2": round(two, 3)},
        "equal": first == second == alone,
    }

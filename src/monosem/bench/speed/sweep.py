"""Many runs at once: a bench sweep in one process, in two, and stacked; how its numbers compare with runs alone."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monosem.bench.defaults import fit_config, recipe
from monosem.bench.many import run_jobs
from monosem.bench.records import read_records
from monosem.bench.run import Job
from monosem.bench.speed.turns import Tell

__all__ = ["sweep"]

_RESULTS = ("metrics", "curves", "training", "similarity")


def _jobs(task: str, steps: int, seeds: int) -> list[Job]:
    methods = ("topk", "relu_l1")
    return [
        Job(task, recipe(task, name), seed, fit_config(task, seed, steps)) for name in methods for seed in range(seeds)
    ]


def _run(jobs: list[Job], folder: Path, workers: int, stack: int = 1) -> tuple[float, list[dict[str, Any]]]:
    began = time.perf_counter()
    run_jobs(jobs, folder, workers, stack=stack)
    seconds = time.perf_counter() - began
    return seconds, [{name: record[name] for name in _RESULTS} for record in read_records(folder)]


def _furthest(stacked: list[dict[str, Any]], alone: list[dict[str, Any]]) -> float:
    """The largest |a - b| / |b| over the losses that the runs logged."""
    pairs = [
        pair
        for one, other in zip(stacked, alone, strict=True)
        for pair in zip(one["training"]["loss"], other["training"]["loss"], strict=True)
    ]
    return float(max(abs(a - b) / abs(b) for a, b in pairs))


def sweep(tell: Tell, task: str = "lrb/mini", steps: int = 200, seeds: int = 2) -> dict[str, Any]:
    """Wall seconds of the same jobs in one process, in two, and one by one, each in a process of its own.

    `equal` says whether all three gave the same bits in every metric, curve and logged number. `stacked` is one process
    that trains the `runs` of each method side by side: its wall seconds for all jobs, and how far a logged loss is from
    that of the run alone.
    """
    jobs = _jobs(task, steps, seeds)
    with TemporaryDirectory() as root:
        folder = Path(root)
        one, first = _run(jobs, folder / "one", 1)
        two, second = _run(jobs, folder / "two", 2)
        side, third = _run(jobs, folder / "stacked", 1, seeds)
        for job in jobs:
            run_jobs([job], folder / "alone", 1)
        alone = [{name: record[name] for name in _RESULTS} for record in read_records(folder / "alone")]
    tell(f"{len(jobs)} runs: {one:.1f} s in one process, {two:.1f} s in two, {side:.1f} s stacked in one")
    return {
        "task": task,
        "steps": steps,
        "jobs": len(jobs),
        "seconds": {"1": round(one, 3), "2": round(two, 3)},
        "equal": first == second == alone,
        "stacked": {"runs": seeds, "seconds": round(side, 3), "furthest_loss": _furthest(third, alone)},
    }

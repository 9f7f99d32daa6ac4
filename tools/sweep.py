"""Sweep method arguments on a bench task, on seeds that are never reported; records in, docs table out.

python -m tools.sweep TASK OUT SPEC [SPEC ...]   runs every spec on seeds 100 and 101 at the task's default length
"""

import sys

from monosem.bench.defaults import fit_config
from monosem.bench.many import run_jobs
from monosem.bench.pool import Heard
from monosem.bench.run import Job

SEEDS = (100, 101)


def main(task: str, out: str, specs: list[str]) -> None:
    """Run the sweep; finished runs are skipped."""
    jobs = [Job(task, spec, seed, fit_config(task, seed), study="sweep") for seed in SEEDS for spec in specs]
    run_jobs(jobs, out, heard=Heard(done=lambda i, path: print(jobs[i].title, path.name, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

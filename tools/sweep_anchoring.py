"""Compare ways to anchor on lrb/mini-hard, on seeds that are never reported.

python -m tools.sweep_anchoring OUT SPEC [SPEC ...]
"""

import sys
from dataclasses import replace

from monosem.anchoring.term import PRINTED, Anchoring
from monosem.bench.defaults import fit_config
from monosem.bench.many import run_jobs
from monosem.bench.pool import Heard
from monosem.bench.run import Job

TASK, ANCHORS, SEEDS = "lrb/mini-hard", 60, (100, 101)
PLANS = (
    PRINTED,
    replace(PRINTED, weight=1.0),
    replace(PRINTED, init=True),
    Anchoring(weight=0.0),
    Anchoring(weight=0.1),
    Anchoring(weight=1.0),
    Anchoring(weight=10.0),
    Anchoring(weight=1.0, init=False),
    Anchoring(weight=0.1, sides="both", form="direction"),
)


def main(out: str, specs: list[str]) -> None:
    """Run the comparison; finished runs are skipped."""
    jobs = []
    for seed in SEEDS:
        for spec in specs:
            plain = Job(TASK, spec, seed, fit_config(TASK, seed), held_out=ANCHORS, study="sweep-anchoring")
            jobs += [plain, *(replace(plain, anchors=ANCHORS, anchoring=plan) for plan in PLANS)]
    run_jobs(jobs, out, heard=Heard(done=lambda i, path: print(jobs[i].title, path.name, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

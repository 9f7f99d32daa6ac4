"""When is a parent absorbed? The same hierarchy with features of more or less constant size.

python -m studies.absorption_sizes            writes records/absorption-sizes.json (a run already in it is kept)

Sizes are 1 - beta + Exp(beta), with mean 1 and standard deviation beta; beta = 1 is the law of the other tasks, 0.5
that of lrb/hierarchy. Everything else, recipes and length too, is lrb/hierarchy. One thread, plain training,
seeds 100 and 101, all ten families.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from monosem.base.files import write_json
from monosem.bench.defaults import fit_config, recipe
from monosem.bench.evaluated import evaluate_model
from monosem.bench.laws import Hierarchy
from monosem.bench.records import environment
from monosem.bench.tasks import TaskSource, task
from monosem.train.loop import fit

OUT = Path("records/absorption-sizes.json")
TASK, SEEDS = "lrb/hierarchy", (100, 101)
BETAS = (0.1, 0.25, 0.5, 0.75, 1.0)
METHODS = ("relu_l1", "topk", "matryoshka")


def main() -> None:
    """Run what is missing, one run after the other."""
    torch.set_num_threads(1)
    done = json.loads(OUT.read_text()) if OUT.exists() else {"runs": {}}
    done |= {"task": TASK, "command": "python -m studies.absorption_sizes", "env": environment()}
    for seed in SEEDS:
        for beta in BETAS:
            base = task(TASK, "sae", seed)
            law = base.world.law
            assert isinstance(law, Hierarchy)
            source = TaskSource(replace(base, world=replace(base.world, law=replace(law, c_min=1 - beta, beta=beta))))
            for name in METHODS:
                key = f"{name} beta={beta} seed={seed}"
                if key in done["runs"]:
                    continue
                model = fit(recipe(TASK, name), source, base.n_q, fit_config(TASK, seed)).model
                found = evaluate_model(model, source, torch.arange(base.world.n))
                numbers = {k: v for k, v in found["hierarchy"].items() if k != "curve"}
                done["runs"][key] = numbers | {"l0": found["l0"], "fvu": found["fvu"]}
                write_json(OUT, done)
                print(key, numbers, flush=True)


if __name__ == "__main__":
    main()

"""Rows that fall back to full precision over a training run with selection="bf16"; writes records/speed/fell-back.json.

python tools/fell_back.py [task] [method ...]
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from monosem.base.files import write_atomic
from monosem.bench.defaults import fit_config, recipe
from monosem.bench.records import environment
from monosem.bench.tasks import TaskSource, task
from monosem.train.loop import fit

RECORD = Path(__file__).resolve().parents[1] / "records" / "speed" / "fell-back.json"


def run(name: str, method: str) -> dict[str, object]:
    """One run on world 0, seed 0: what fell back at each logged step, and what was learned."""
    chosen = task(name)
    source = TaskSource(chosen)
    config = replace(fit_config(name, 0), selection="bf16", threads=1, log_every=25)
    spec = recipe(name, method)
    result = fit(spec, source, chosen.n_q, config, progress=True)
    W_D, W_r = (torch.nn.functional.normalize(w.detach().double(), dim=0) for w in (result.model.W_D, source.W_r))
    best = (W_r.T @ W_D).abs().amax(1)
    steps = [{key: entry[key] for key in ("step", "fell_back", "fvu", "l0")} for entry in result.log]
    scores = {
        "M_GT(0.95), decoder, all features": float((best > 0.95).double().mean()),
        "mean |cos|": float(best.mean()),
    }
    return {"task": name, "method": spec, "seed": 0, "config": str(config), "steps": steps, "scores": scores}


def main() -> None:
    """Run and write."""
    name, *methods = [*sys.argv[1:]] or ["lrb/paper"]
    runs = [run(name, method) for method in methods or ["topk", "batch_topk"]]
    record = {"command": " ".join(["python", "tools/fell_back.py", *sys.argv[1:]]), "env": environment(), "runs": runs}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(RECORD, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

"""Tasks fitted to real rows: made once, frozen as files beside the studies, and how much they resemble the rows.

python -m studies fitted                  8 x 8 patches of scikit-learn's photographs
python -m studies fitted stories15m       the rows that leave layer 3 (`python -m studies fetch stories15m`)

The dictionary is a TopK autoencoder's. A file that is there is read, so that a task stays what it was. One thread.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem import FitConfig, TensorSource, fit, harvest, method
from monosem.bench import TaskSource, environment, fit_world, oracle, resemblance, task
from monosem.data import open_rows
from monosem.report import fill, table
from studies.page import provenance
from studies.stored import RECORDS, run_missing, stored
from studies.target_l0 import DATA

PAGE, ASSETS = Path("docs/bench.md"), RECORDS.with_name("assets")
METHOD, ROWS = "topk(k=8)", 6000
SETS = {
    "pictures": "8 x 8 patches of scikit-learn's two photographs, each less its mean",
    "stories15m": "what leaves layer 3 of stories15M, on the committed stories",
}


def main(words: Sequence[str] = ()) -> None:
    """Make what is not there."""
    torch.set_num_threads(1)
    for name in words or ("pictures",):
        about = {"command": f"python -m studies fitted {name}", "env": environment()}
        run_missing(f"fitted/{name}", about, [("resemblance", lambda name=name: _made(name))])  # type: ignore[misc]


def _rows(name: str) -> Tensor:
    if name == "pictures":
        x, _ = DATA[name]().source.take(torch.arange(0, 60_000, 3))
        return x - x.mean(1, keepdim=True)
    with tempfile.TemporaryDirectory() as folder:
        harvest(name, "model.layers.3:out", ASSETS / "stories.jsonl", folder)
        return open_rows(folder).sample(20_000)[0].clone()


def _made(name: str) -> dict[str, Any]:
    """The task, fitted to a dictionary that is trained first if it is not there; and how far it is from other rows."""
    x, path = _rows(name), ASSETS / f"{name}-task.safetensors"
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    if not path.exists():
        config = FitConfig(steps=1000, batch_size=256, lr=3e-3, threads=1)
        model = fit(method(METHOD), TensorSource(x - x.mean(0)), 4 * min(x.shape[1], 96), config).model
        with torch.no_grad():
            fit_world(x[:ROWS], model.W_D, path, codes=model.encode(x[:ROWS] - x.mean(0)).to_dense())
    source = TaskSource(task(f"fitted:{path}", seed=0))
    best = oracle(source, rows=1000)
    truth = {"n": source.task.world.n, "d": x.shape[1], "true_l0": best["true_l0"], "oracle_f1": best["f1"]}
    return {"told_apart": resemblance(source.task.world, x[ROWS:]), "digest": source.task.world.digest} | truth


def page() -> None:
    """Fill the page."""
    records = {name: record for name in SETS if (record := stored(f"fitted/{name}"))}
    rows: list[Sequence[object]] = [("rows", "n, d", "L0", "oracle F1", "drawn", "Gaussian", "other real rows")]
    for name, record in records.items():
        made = record["runs"]["resemblance"]
        far = [f"{made['told_apart'][who]:.3f}" for who in ("fitted", "gaussian", "itself")]
        size = f"{made['n']}, {made['d']}"
        rows.append((SETS[name], size, f"{made['true_l0']:.1f}", f"{made['oracle_f1']:.2f}", *far))
    fill(PAGE, {"fitted": f"{table(rows)}\n\n{provenance(records.values())}." if records else "Not run yet."})

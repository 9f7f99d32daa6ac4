"""Does what two trainings agree on tell what is right? Every arm twice in its world, from two seeds.

python -m studies stability
python -m studies pack runs/stability studies/records/bench-stability.jsonl.gz

The stability of an arm is the mean cosine of its latents that fire with those of its twin, one to one; beside it stands
the share of true features that it holds. One thread.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from monosem import method
from monosem.bench import plan, read_records, run_jobs
from monosem.report import HEADLINE, fill, table
from studies.page import provenance
from studies.stored import packed

PAGE, OUT, PACKED = Path("docs/lenses.md"), Path("runs/stability"), "bench-stability"
TASKS = ("cone", "clusters", "blocks", "zipf-hierarchy", "noise", "dense")
METHODS: Mapping[str, str] = {
    "ReLU, L1": "relu_l1(l1=to_l0(2.5))",
    "JumpReLU": "jumprelu(l0=to_l0(2.5))",
    "TopK, k = 2": "topk(k=2)",
    "TopK, k = 3": "topk(k=3)",
    "TopK, k = 6": "topk(k=6)",
    "BatchTopK": "batch_topk(k=2.5)",
    "Matryoshka": "matryoshka(k=2.5)",
    "LISTA": "lista(l1=to_l0(2.5))",
}
SEEDS, STEPS = 3, 400


def main(words: Sequence[str] = ()) -> None:
    """Run what OUT lacks."""
    names = words or TASKS
    jobs = [
        job
        for name in names
        for job in plan(f"lrb/{name}", list(METHODS.values()), anchored=False, seeds=SEEDS, steps=STEPS, twins=True)
    ]
    run_jobs(jobs, OUT, workers=1)


def page() -> None:
    """Fill the part of docs/lenses.md."""
    path = packed(PACKED)
    fill(PAGE, {"stability": _shown(read_records(path)) if path.is_file() else "Not run yet."})


def _shown(records: Sequence[Mapping[str, Any]]) -> str:
    """Stability and features held, by method and task, and the rank correlation of the two over methods."""
    labels = {method(text).spec: label for label, text in METHODS.items()}
    rows: list[Sequence[object]] = [("method", *(f"`lrb/{name}`" for name in TASKS))]
    values = {(name, label): _both(records, f"lrb/{name}", text) for name in TASKS for text, label in labels.items()}
    rows += [(label, *(_cell(values[name, label]) for name in TASKS)) for label in labels.values()]
    ranks = [spearmanr(*zip(*(values[name, label] for label in labels.values()), strict=True)) for name in TASKS]
    rows.append(("rank correlation", *(f"{float(rank.statistic):.2f}" for rank in ranks)))
    about = f"Stability / M_GT(.95), means of {SEEDS} worlds; {STEPS} steps; {provenance(records)}."
    return f"{table(rows, numbers=True)}\n\n{about}"


def _both(records: Sequence[Mapping[str, Any]], task: str, text: str) -> tuple[float, float]:
    runs = [run["metrics"] for run in records if run["task"]["name"] == task and run["method"]["spec"] == text]
    return mean(run["stability"]["value"] for run in runs), mean(run[HEADLINE]["value"] for run in runs)


def _cell(both: tuple[float, float]) -> str:
    return f"{both[0]:.2f} / {both[1]:.2f}"

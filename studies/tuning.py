"""How much worse is a dictionary chosen without truth? `python -m studies tuning [nano|mini]`: regret by criterion."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from monosem import task
from monosem.base import ArgumentError, check
from monosem.bench import CRITERIA, TaskSource, Trial, environment, fit_config, recall_precision, tune
from monosem.report import fill, table
from studies.stored import run_missing, stored_below


@dataclass(frozen=True)
class Grid:
    """What is tuned in which worlds."""

    task: str
    method: str
    vary: Mapping[str, Sequence[Any]]
    n_q: int
    steps: int
    seeds: int


GRIDS: Mapping[str, tuple[Grid, ...]] = {
    "nano": (
        Grid("lrb/nano", "topk", {"k": [1, 2, 3, 4, 6, 8]}, 48, 400, 4),
        Grid("lrb/nano", "batch_topk", {"k": [1, 2, 3, 4, 6, 8]}, 48, 400, 4),
        Grid("lrb/nano", "topk", {"n_q": [12, 18, 24, 36, 48, 96], "k": [3]}, 48, 400, 4),
        Grid("lrb/nano", "topk", {"steps": [25, 50, 100, 200, 400, 800], "k": [3]}, 48, 400, 4),
        Grid("lrb/nano", "relu_l1", {"l1": [0.03, 0.1, 0.3, 0.6, 1.0, 2.0]}, 48, 400, 4),
    ),
    "mini": (
        Grid("lrb/mini", "topk", {"k": [1, 2, 3, 5, 8, 16]}, 250, 400, 3),
        Grid("lrb/mini", "topk", {"n_q": [64, 125, 250, 500], "k": [2]}, 250, 400, 3),
    ),
}


def quality(model_columns: torch.Tensor, source: TaskSource) -> float:
    """F1 of recall and precision of true directions by decoder columns at cosine .95: what tuning ought to raise."""
    scores = recall_precision(model_columns.detach(), source.W_r)
    recall, precision = scores["recall"], scores["precision"]
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def one(grid: Grid, seed: int) -> dict[str, Any]:
    """One world: what each setting is worth in truth, and what each criterion would have chosen."""
    torch.set_num_threads(1)
    source = TaskSource(task(grid.task, seed=seed))
    config = replace(fit_config(grid.task, seed, grid.steps), checkpoint_every=None)
    tuned = tune(grid.method, source, grid.n_q, grid.vary, config, criteria=tuple(CRITERIA), twins=True)
    return {"trials": [_line(trial, source) for trial in tuned.trials]}


def _line(trial: Trial, source: TaskSource) -> dict[str, Any]:
    return {"settings": dict(trial.settings), "scores": dict(trial.scores), "quality": quality(trial.model.W_D, source)}


def main(names: Sequence[str] = ()) -> None:
    """Run what has no record yet."""
    scale = names[0] if names else "nano"
    check(scale in GRIDS, f"scale {scale!r}; one of {', '.join(GRIDS)}", ArgumentError)
    for grid in GRIDS[scale]:
        varied = next(iter(grid.vary))
        about = {"task": grid.task, "method": grid.method, "varied": varied, "n_q": grid.n_q, "steps": grid.steps}
        runs = [(str(seed), lambda grid=grid, seed=seed: one(grid, seed)) for seed in range(grid.seeds)]
        run_missing(f"tuning/{scale}-{grid.method}-{varied}", {**about, "env": environment()}, runs)
    print("done", file=sys.stderr)


def page() -> None:
    """The regrets, from records."""
    fill(Path("docs/tune.md"), {"regret": _regrets()})


def _regrets() -> str:
    records = stored_below("tuning")
    if not records:
        return "not run"
    criteria = sorted(next(iter(records[0]["runs"].values()))["trials"][0]["scores"])
    head = ("task", "method", "varied", "worlds", "best", "at random", *criteria)
    lines = []
    for record in sorted(records, key=lambda one: (one["task"], one["method"], one["varied"])):
        worlds = [run["trials"] for run in record["runs"].values()]
        best = [max(trial["quality"] for trial in trials) for trials in worlds]
        chance = mean(b - mean(trial["quality"] for trial in trials) for b, trials in zip(best, worlds, strict=True))
        regrets = [mean(b - _chosen(trials, name) for b, trials in zip(best, worlds, strict=True)) for name in criteria]
        numbers = (f"{value:.3f}" for value in (mean(best), chance, *regrets))
        lines.append((record["task"], record["method"], record["varied"], len(worlds), *numbers))
    return table([head, *lines])


def _chosen(trials: Sequence[Mapping[str, Any]], criterion: str) -> float:
    """What the choice of a criterion is worth in truth."""
    value: float = min(trials, key=lambda trial: trial["scores"][criterion])["quality"]
    return value

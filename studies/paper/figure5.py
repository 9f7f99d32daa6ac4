"""Figure 5: absorption, Dog and its breeds, by the repaired construction of theorem 3.8."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig, Problem
from monosem.activations import JumpReLU
from monosem.report import INK
from monosem.theory import absorb, best_decoder, loss, pattern_of
from studies.engine.cells import Results
from studies.engine.computed import Computed, checked, checks_table, said_of_checks
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study


def dog() -> tuple[Problem, torch.Tensor]:
    """Figure 5's Dog: four breeds that share a direction, and one latent that fires on them all (JumpReLU, theta = .3).

    w_breed = (3 dog + 2 own) / sqrt 13 with orthonormal dog and own; the row is dog less .15 own of the first breed.
    """
    own = torch.eye(5, dtype=torch.float64)
    W = (3 * own[:, :1] + 2 * own[:, 1:]) / 13**0.5
    return Problem(W, W, torch.ones(4), JumpReLU(theta=0.3), 1), (own[0] - 0.15 * own[1])[None]


def compute(folder: Path, config: FitConfig) -> dict[str, Any]:
    """Dog before and after absorption."""
    problem, W_E = dog()
    split = absorb(problem, W_E, 0)
    stages = {"before": (problem, W_E), "after": (split.problem, split.W_E)}
    losses = {name: float(loss(where, best_decoder(where, rows), rows)) for name, (where, rows) in stages.items()}
    patterns = {name: str(pattern_of(where, rows)) for name, (where, rows) in stages.items()}
    checks = checked("absorption", "absorption_printed", "parent_invisible")
    return {
        "pattern": patterns,
        "codes": {name: where.codes(rows).T.tolist() for name, (where, rows) in stages.items()},
        "loss": losses,
        "reached": split.reached,
        "checks": checks,
        "shows": f"Pattern {patterns['before']} becomes {patterns['after']}; least L~ {losses['before']:.3f} to "
        f"{losses['after']:.3f}. {said_of_checks(checks)}",
    }


def _runs(scale: Scale) -> Iterator[Entry]:
    yield Entry("figure5", "", Computed("figure5", compute))


def _figure(results: Results) -> Figure | None:
    if not results.records:
        return None
    codes = results.records[0]["codes"]
    figure = Figure(figsize=(7.2, 2.3), layout="constrained")
    names = ["Border Collie", "breed 2", "breed 3", "breed 4"]
    titles = {"before": "the Dog latent fires on every breed", "after": "absorbed: silent on the Border Collie"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        axes.imshow(codes[name], cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for i, row in enumerate(codes[name]):
            for j, value in enumerate(row):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=INK if value < 0.8 else "white")
        axes.set_xticks(range(4), names, fontsize=8)
        axes.set_yticks(range(len(codes[name])), ["Dog", "new latent"][: len(codes[name])], fontsize=8)
        axes.set_title(title, fontsize=9, loc="left", color=INK)
    return figure


def _about() -> str:
    return (
        "Example 3.7: a latent for Dog, and a breed that gets a latent of its own; the Dog latent then stays silent "
        "on it. The construction is the repaired one of [absorption](../theory/absorption.md), which also measures "
        "absorption in training."
    )


STUDY = Study(
    "figure5",
    "Figure 5: absorption, Dog and its breeds",
    _runs,
    about=_about,
    says=lambda results: "".join(record["shows"] for record in results.records),
    tables=checks_table,
    figure=_figure,
    seeds=(0,),
    packed="other",
)

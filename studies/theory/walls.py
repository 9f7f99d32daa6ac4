"""Closed regions: their figures, and which share of a trained dictionary's latents sits in a proved minimum.

`python -m studies traps` trains plain dictionaries on worlds of lrb/nano's law and stores the record `theory/traps`.
Each feature alone, at the mean size of a feature, is coded by the trained model; `theory.walls.standing` then says of
every latent what it is. One thread; three worlds a cell.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from monosem import Problem, task
from monosem.activations import ReLU
from monosem.base import philox
from monosem.bench import TaskSource, environment, fit_config, recipe
from monosem.methods import method
from monosem.report import BLUE, GREEN, GREY, ORANGE, PALETTE, fill, panels, table, tidy
from monosem.theory import (
    ActivationPattern,
    draw_directions,
    draw_weights,
    gradients,
    groups_of,
    nonnegative_maximum,
    standing,
)
from monosem.train import fit
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE = Path("docs/theory/spurious-minima.md")
METHODS, WIDTHS, SEEDS = ("relu_l1", "jumprelu", "topk", "batch_topk"), (8, 16, 24, 48), range(3)
FAINT = (0.0, 0.3)
KINDS = ("single", "shared", "trapped", "moving", "silent")


def draw_closed_3_6() -> Figure:
    """How many features of a random group fall silent at the closed region's minimum, by the group's size."""
    figure, (axis,) = panels()
    rng, sizes = philox(0, "figure/closed"), [2, 3, 4, 5, 6, 7]
    shares = np.zeros((len(sizes), 4))
    for row, size in enumerate(sizes):
        for _ in range(300):
            W_r = draw_directions(rng, int(rng.integers(2, 9)), size)
            problem = Problem(draw_directions(rng, size + 1, size), W_r, draw_weights(rng, size))
            group = groups_of(problem, ActivationPattern.of([range(size)], size))[0]
            z = nonnegative_maximum((group.A.T @ group.A)[None])[0][0]
            shares[row, min(3, int((z == 0).sum()))] += 1 / 300
    below = np.zeros(len(sizes))
    for count, (label, colour) in enumerate(
        (("none: a trap inside", GREEN), ("one silent", ORANGE), ("two silent", BLUE), ("three or more", GREY))
    ):
        axis.bar(sizes, shares[:, count], bottom=below, color=colour, label=label)
        below += shares[:, count]
    tidy(
        axis,
        "features in the group of one latent",
        "share of random groups",
        "Larger groups silence more features",
    )
    return figure


def draw_wall_attracts() -> Figure:
    """Responses of three orthonormal features to their shared latent under gradient descent: two sink to the wall."""
    figure, (axis,) = panels()
    eye = torch.eye(3, dtype=torch.float64)
    problem = Problem(eye, eye, torch.tensor([2.4, 1.6, 1.0]), ReLU(), 1)
    W_E, W_D = torch.tensor([[0.5, 0.7, 0.9]], dtype=torch.float64), torch.full((3, 1), 0.2, dtype=torch.float64)
    path = []
    for _ in range(600):
        path.append(W_E[0].tolist())
        by_D, by_E = gradients(problem, W_D, W_E)
        W_D, W_E = W_D - 0.05 * by_D, W_E - 0.05 * by_E
    for d, colour in enumerate(PALETTE[:3]):
        axis.semilogy(np.array(path)[:, d], color=colour, label=f"M_d = {float(problem.weights[d]):g}")
    tidy(
        axis,
        "step of gradient descent",
        "response of the latent to the feature",
        "Two responses tend to 0, and none reaches it",
    )
    return figure


def main(names: Sequence[str] = ()) -> None:
    """Train what the record lacks."""
    torch.set_num_threads(1)
    about = {"command": "python -m studies traps", "env": environment()}
    run_missing("theory/traps", about, _runs())


def _runs() -> Iterator[tuple[str, Callable[[], dict[str, dict[str, float]]]]]:
    for name in METHODS:
        for n_q in WIDTHS:
            for seed in SEEDS:
                yield f"{name}/{n_q}/{seed}", lambda name=name, n_q=n_q, seed=seed: _trained(name, n_q, seed)  # type: ignore[misc]


def _trained(name: str, n_q: int, seed: int) -> dict[str, dict[str, float]]:
    """The share of latents of each kind; codes below a share of the feature's largest one count as none."""
    source = TaskSource(replace(task("lrb/nano", seed=seed), n_q=n_q))
    model = fit(method(recipe("lrb/nano", name)), source, n_q, fit_config("lrb/nano", seed, 800)).model
    with torch.no_grad():
        codes = model(source.W_p.T.contiguous()).code.to_dense()
    law = source.task.world.law
    rate = 1.0 - law.sparsity  # type: ignore[attr-defined]
    alone = torch.full((source.task.world.n,), rate * (1 - rate) ** (source.task.world.n - 1) * 2.0)
    shares = {}
    for faint in FAINT:
        loud = codes * (codes > faint * codes.amax(1, keepdim=True))
        shares[str(faint)] = standing(model.W_D.detach(), loud, source.W_r, alone).shares()
    return shares


def part() -> None:
    """Fill the page's table from the record."""
    record: dict[str, Any] | None = stored("theory/traps")
    if record is None:
        return
    exact, loud = (str(faint) for faint in FAINT)
    rows: list[Sequence[object]] = [("method", "n_q", *KINDS, f"trapped, codes below {loud} left out")]
    for name in METHODS:
        for n_q in WIDTHS:
            runs = [record["runs"][f"{name}/{n_q}/{seed}"] for seed in SEEDS]
            shares = [f"{mean(run[exact][kind] for run in runs):.2f}" for kind in KINDS]
            rows.append((f"`{name}`", n_q, *shares, f"{mean(run[loud]['trapped'] for run in runs):.2f}"))
    text = f"{table(rows)}\n\nShares of latents, means of three worlds, 800 steps; {provenance([record])}."
    fill(PAGE, {"traps": text})

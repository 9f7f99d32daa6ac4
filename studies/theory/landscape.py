"""Figures of the search: the atlas of a problem, and the basins of anchoring."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.seeds import philox
from monosem.core.activations import ReLU, TopK
from monosem.theory.basins import basins
from monosem.theory.descent import Plan
from monosem.theory.instances import draw_directions
from monosem.theory.law import exact_atoms, independent
from monosem.theory.problem import Problem
from monosem.theory.search.atlas import atlas
from studies.theory.style import BLUE, CYCLE, GREEN, ORANGE, RED, Figure, new_figure, tidy


def similar_features() -> Problem:
    """Four features with positive cosines in three dimensions, top-1, four latents: many traps."""
    W = draw_directions(philox(0, "figure/atlas"), 3, 4) + 0.6
    return Problem(W / W.norm(dim=0), W / W.norm(dim=0), torch.tensor([1.0, 1.2, 0.8, 1.5]), TopK(1), 4)


def equiangular(n: int, cosine: float) -> Float[Tensor, "n n"]:
    """n unit columns in n dimensions with this cosine between any two: every feature is like every other."""
    gram = (1 - cosine) * torch.eye(n, dtype=torch.float64) + cosine
    root: Tensor = torch.linalg.cholesky(gram).T.contiguous()
    return root


def draw_atlas(problem: Problem | None = None, runs: int = 64, anchors: int = 1) -> Figure:
    """Loss by pattern, traps marked, with the share of starts that each method sends there."""
    problem = problem or similar_features()
    shown = [e for e in atlas(problem, runs, anchors) if e.loss == e.loss][:24]
    figure, (top, bottom) = new_figure(2, 4.6)
    place = np.arange(len(shown))
    zero = problem.zero_dictionary_loss
    colours = {"trap": RED, "saddle": ORANGE}
    for verdict in ("trap", "saddle", "other"):
        rows = [i for i, e in enumerate(shown) if (e.verdict if e.verdict in colours else "other") == verdict]
        if not rows:
            continue
        losses = [shown[i].loss / zero for i in rows]
        top.barh(rows, losses, color=colours.get(verdict, BLUE), label=verdict)
    for k, (way, colour) in enumerate((("adam", BLUE), ("acs", ORANGE), ("anchored", GREEN))):
        bottom.barh(place + 0.27 * (k - 1), [getattr(e, way) for e in shown], 0.26, color=colour, label=way)
    top.set_yticks(place, [e.pattern for e in shown], fontsize=7)
    bottom.set_yticks(place, [""] * len(shown))
    tidy(top, "least L~ met / zero dictionary", "pattern", "patterns of the atlas")
    tidy(bottom, "share of random starts that end there", "", f"{runs} starts, {anchors} anchored")
    top.invert_yaxis()
    bottom.invert_yaxis()
    return figure


def draw_basins(runs: int = 64, steps: int = 400) -> Figure:
    """The share of features not anchored that a run recovers, by number of anchors, on exact losses (n = 8)."""
    figure, axes = new_figure(3, 3.6)
    n, ks = 8, (0, 1, 2, 4, 6)
    law = independent(torch.full((n,), 0.1, dtype=torch.float64), at_most=2)
    for axis, cosine in zip(axes, (0.0, 0.4), strict=False):
        W = equiangular(n, cosine)
        for n_q, colour in zip((6, 8, 12, 16, 24), CYCLE, strict=False):
            problem = Problem(W, W, law.weights, TopK(1), n_q)
            some = [k for k in ks if k < n_q]
            found = basins(problem, some, plan=Plan(steps=steps, lr=0.03), runs=runs)
            axis.plot(some, [b.features for b in found], "o-", markersize=3, color=colour, label=f"n_q = {n_q}")
        tidy(axis, "anchored features k", "recovered share of the others", f"L~, top-1, cosines {cosine}")
        axis.set_ylim(-0.03, 1.03)
    W = equiangular(n, 0.0)
    for (label, activation, l1), colour in zip(
        (("top-2", TopK(2), 0.0), ("ReLU", ReLU(), 0.0), ("ReLU + L1", ReLU(), 0.1)), (BLUE, RED, GREEN), strict=True
    ):
        for n_q, style in ((8, "o--"), (16, "o-")):
            problem = Problem(W, W, law.weights, activation, n_q)
            plan = Plan(steps=steps + 200, lr=0.03, l1=l1)
            found = basins(problem, (0, 2, 4, 6), exact_atoms(problem, law), plan, runs // 2)
            values = [b.features for b in found]
            axes[2].plot((0, 2, 4, 6), values, style, markersize=3, color=colour, label=f"{label}, n_q = {n_q}")
    tidy(axes[2], "anchored features k", "recovered share of the others", "L (pairs of features included), cosines 0")
    axes[2].set_ylim(-0.03, 1.03)
    return figure

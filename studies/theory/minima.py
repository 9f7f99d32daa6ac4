"""Figures of example 3.5, theorems 3.6 and 3.8, and dead latents."""

from dataclasses import replace

import numpy as np
import torch

from monosem.base.seeds import philox
from monosem.core.activations import JumpReLU, ReLU, TopK
from monosem.theory.checks.stationary import example_35
from monosem.theory.descent import Plan, descend, starts
from monosem.theory.hierarchy import absorb, absorb_as_printed, hierarchical
from monosem.theory.instances import draw_directions, draw_encoder, draw_problem, draw_weights, plane
from monosem.theory.loss import best_decoder, loss
from monosem.theory.minima import groups_of, paper_point, positive_pair
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem
from studies.theory.style import BLUE, CYCLE, GREEN, GREY, ORANGE, RED, Figure, new_figure, tidy


def draw_example_3_5() -> Figure:
    """The loss along z = (cos t, sin t) with the best decoder: flat for equal weights, sloped for unequal ones."""
    figure, (axis,) = new_figure()
    angles = np.linspace(-0.6, np.pi / 2 + 0.6, 300)
    for weights, colour in (((1.0, 1.0), BLUE), ((2.0, 1.0), ORANGE)):
        problem, _, _ = example_35(weights)
        values = []
        for t in angles:
            W_E = torch.tensor([[np.cos(t), np.sin(t)], [0.0, 0.0]])
            values.append(float(loss(problem, best_decoder(problem, W_E), W_E)))
        axis.plot(angles, values, color=colour, label=f"M = {weights}")
    axis.axvspan(0, np.pi / 2, color=GREY, alpha=0.15, linewidth=0)
    axis.plot([np.pi / 4], [1], "o", color=BLUE, markersize=5, label="the paper's point")
    tidy(axis, "t, the angle of w_E of latent 1", "L~ with the best decoder", "grey: the open region {0,1} {}")
    return figure


def draw_printed_3_6() -> Figure:
    """Encoder and decoder gradients at the proof's point, for random encoders."""
    figure, (axis,) = new_figure()
    rng = philox(0, "figure/printed")
    norms: list[list[float]] = []
    while len(norms) < 400:
        n = int(rng.integers(2, 5))
        problem = draw_problem(rng, n, n + 2, 1, n + 2)
        z = torch.from_numpy(rng.uniform(0.2, 1.0, n))
        _, by_D, by_E = paper_point(problem, (torch.linalg.pinv(problem.W_p.T) @ z)[None])
        norms.append([float(by_D.norm()) + 1e-18, float(by_E.norm())])
    both = np.array(norms)
    bins = np.geomspace(1e-18, 1e2, 60)
    axis.hist(both[:, 0], bins, color=BLUE, label="decoder gradient")
    axis.hist(both[:, 1], bins, color=RED, label="encoder gradient")
    axis.set_xscale("log")
    tidy(axis, "norm of the gradient at the proof's point", "encoders of 400", "a partial minimum needs both to vanish")
    return figure


def group_shares(size: int, trials: int = 400, seed: int = 0, tilt: float = 0.0) -> tuple[float, float, float]:
    """Shares (trap, saddle, none) of random groups: w_p independent, w_r uniform in 2 to 8 dimensions, M_d in [1/2, 2].

    `tilt` moves every w_r towards one direction before it is normalised.
    """
    rng, counts = philox(seed, "figure/groups", size, int(1000 * tilt)), np.zeros(3)
    for _ in range(trials):
        n_r = int(rng.integers(2, 9))
        W_r = draw_directions(rng, n_r, size) + tilt * draw_directions(rng, n_r, 1)
        problem = Problem(draw_directions(rng, size + 1, size), W_r / W_r.norm(dim=0), draw_weights(rng, size))
        pair = positive_pair(groups_of(problem, ActivationPattern.of([range(size)], size))[0])
        counts[2 if pair is None else 0 if pair[2] else 1] += 1
    trap, saddle, none = (counts / trials).tolist()
    return trap, saddle, none


def draw_repaired_3_6() -> Figure:
    """Which of the three cases a random group is, by its size."""
    figure, (axis,) = new_figure()
    sizes = [1, 2, 3, 4, 5, 6, 7]
    shares = np.array([group_shares(size) for size in sizes])
    below = np.zeros(len(sizes))
    for column, (label, colour) in enumerate((("trap", RED), ("saddle", ORANGE), ("no stationary point", BLUE))):
        axis.bar(sizes, shares[:, column], bottom=below, color=colour, label=label)
        below += shares[:, column]
    tidy(axis, "features in the group of one latent", "share of random groups", "theorem 3.6 repaired")
    return figure


def draw_perron_trap() -> Figure:
    """Traps become certain as the cosines within a group become positive."""
    figure, (axis,) = new_figure()
    tilts = np.linspace(0, 3, 10)
    for size, colour in zip((2, 3, 5, 8), CYCLE, strict=False):
        axis.plot(
            tilts,
            [group_shares(size, 200, tilt=float(t))[0] for t in tilts],
            "o-",
            markersize=3,
            color=colour,
            label=f"{size} features",
        )
    tidy(axis, "common direction added to every w_r", "share of groups that are traps", "similar features make traps")
    return figure


def draw_absorption() -> Figure:
    """Why plain ReLU is different: {0, 1} is realizable, but no half-plane holds feature 0 or 1 alone."""
    figure, (axis,) = new_figure(1, 3.8)
    W = plane(0, 10, 95, -85)
    for d, degrees in enumerate((0, 10, 95, -85)):
        axis.annotate(
            "", W[:, d].tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": BLUE if d < 2 else GREY, "lw": 2}
        )
        axis.text(*(1.12 * W[:, d]).tolist(), f"{d}: {degrees}°", ha="center", va="center", fontsize=9)
    row = plane(5)[:, 0]
    axis.annotate("", (0.8 * row).tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": ORANGE, "lw": 2})
    side = plane(95)[:, 0]
    axis.plot(
        *np.stack([-1.2 * side.numpy(), 1.2 * side.numpy()]).T,
        "--",
        color=ORANGE,
        label="w_E of {0, 1} and its half-plane",
    )
    axis.set(xlim=(-1.3, 1.5), ylim=(-1.3, 1.3), aspect="equal")
    tidy(axis, "dimension 1", "dimension 2", "ReLU: {0} and {1} alone are not realizable", legend=False)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def draw_absorption_printed() -> Figure:
    """How often each construction reaches the pattern it promises, by the number of latents."""
    figure, (axis,) = new_figure()
    sizes, rng = [1, 2, 3, 4, 6, 8], philox(0, "figure/absorption")
    for label, build, colour in (("repaired", absorb, GREEN), ("as printed", absorb_as_printed, RED)):
        reached = []
        for n_q in sizes:
            hits = []
            for _ in range(40):
                problem = draw_problem(rng, 6, 8, n_q, None, JumpReLU(theta=0.3))
                W_E = draw_encoder(rng, problem)
                hits += [build(problem, W_E, i).reached for i in pattern_of(problem, W_E).polysemantic]
            reached.append(np.mean(hits))
        axis.plot(sizes, reached, "o-", color=colour, label=label)
    axis.set_ylim(-0.05, 1.05)
    tidy(axis, "latents", "share of parents split as promised", "theorem 3.8")
    return figure


def draw_parent_invisible() -> Figure:
    """The weight with which L~ sees a parent, against how often it fires alone."""
    figure, (axis,) = new_figure()
    alone = np.linspace(0, 0.1, 11)
    weights = np.array([hierarchical((3,), 0.1, float(a), free=1).weights.tolist() for a in alone])
    for d, label, marker, colour in (
        (0, "a parent", "o-", ORANGE),
        (1, "a child", "s-", BLUE),
        (4, "a free feature", "^-", GREEN),
    ):
        axis.plot(alone, weights[:, d], marker, color=colour, markersize=4, label=f"M_d of {label}")
    tidy(axis, "Pr(the parent fires without a child)", "weight in L~", "neither parents nor children weigh in L~")
    return figure


def draw_dead_latents() -> Figure:
    """Loss ratio and dead latents at the end, when half the latents begin dead."""
    figure, axes = new_figure(2)
    W = draw_directions(philox(0, "figure/dead"), 12, 8)
    ways = ("none", "resample", "auxk", "anchors")
    for place, (label, activation) in enumerate((("ReLU", ReLU()), ("top-1", TopK(1)))):
        problem = Problem(W, W, torch.ones(8), activation, 8)
        W_D, W_E = starts(problem, 24, 0)
        silent = torch.linalg.pinv(W.T) @ torch.full((8,), -1.0, dtype=torch.float64)  # -1 on every feature
        W_E[:, 4:] = silent if place == 0 else W_E[:, 4:] * 1e-3  # top-1: outranked
        for way, name in enumerate(ways):
            plan = Plan(steps=500, lr=0.03, anchors=4 if name == "anchors" else 0)
            plan = replace(plan, revive="resample") if name == "resample" else plan
            plan = replace(plan, revive="auxk") if name == "auxk" else plan
            order = (W_D.flip(2), W_E.flip(1)) if name == "anchors" else (W_D, W_E)  # anchors take the dead ones
            ended = descend(problem, plan, 24, 0, begin=order)
            x = way + 0.35 * place
            value = float(ended.loss.median()) / problem.zero_dictionary_loss
            axes[0].bar(x, max(value, 1e-6), 0.33, color=CYCLE[place], label=label if way == 0 else None)
            axes[1].bar(x, float(ended.dead.double().sum(1).mean()), 0.33, color=CYCLE[place])
    for axis in axes:
        axis.set_xticks(np.arange(4) + 0.17, ways)
    tidy(axes[0], "what is done about dead latents", "median L~ / zero dictionary", "half of the latents begin dead")
    tidy(axes[1], "what is done about dead latents", "dead latents at the end", "", legend=False)
    return figure


def draw_l1_scale() -> Figure:
    """The objective along (W_E / c, c W_D): with free norms it falls without end, weighted it stays."""
    figure, (axis,) = new_figure()
    rng = philox(0, "figure/l1")
    problem = draw_problem(rng, 6, 4, 8)
    W_E = draw_encoder(rng, problem)
    W_D, scales = best_decoder(problem, W_E), np.geomspace(1, 1e3, 40)
    H = problem.codes(W_E)
    free = [float(loss(problem, W_D * c, W_E / c) + 0.1 * H.sum() / c) for c in scales]
    weighted = [float(loss(problem, W_D * c, W_E / c) + 0.1 * (H / c * (W_D * c).norm(dim=0)).sum()) for c in scales]
    axis.loglog(scales, np.array(free) + 1e-18, color=RED, label="L1 of the codes")
    axis.loglog(scales, weighted, color=BLUE, label="L1 of codes times decoder norms")
    tidy(axis, "c", "L~ + penalty at (W_E / c, c W_D)", "a penalty needs decoder norms or a constraint")
    return figure

"""Figures of the theory's claims, from fresh measurements: `python -m studies claims [NAME ...]`.

One per check of `monosem check`, by its name, into docs/theory/figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from monosem import Problem, theory
from monosem.activations import AbsTopK, Activation, JumpReLU, ReLU, TopK
from monosem.base import Registry, philox
from monosem.report import BLUE, GREEN, GREY, ORANGE, PALETTE, RED, panels, tidy, write_figure
from studies.theory import walls

OUT = Path("docs/theory/figures")
FIGURES: Registry[Callable[[], Figure]] = Registry("figure")
"""By the name of the check."""


def draw_all(names: Sequence[str] = (), folder: str | Path = OUT) -> list[Path]:
    """Draw the named figures, or all, into a folder; the same numbers give the same bytes."""
    return [
        write_figure(Path(folder) / f"{name}.svg", draw(), str(draw.__doc__).partition("\n")[0])
        for name in names or FIGURES
        for draw in (FIGURES[name],)
    ]


def main(names: Sequence[str] = ()) -> None:
    """Draw, and say where."""
    for path in draw_all(names):
        print(path)


def arrow(axes: Axes, end: torch.Tensor, colour: str, width: float = 2.0) -> None:
    """An arrow from the origin."""
    x, y = end.tolist()
    axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": width})


def _claim(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    FIGURES.add(draw.__name__.removeprefix("draw_"), draw)
    return draw


def growth(activation: Activation, rates: np.ndarray, n: int = 8, width: int = 6, seed: int = 0) -> np.ndarray:
    """(L - L~, L, Pr(several active), C) at each rate, exactly, for the true dictionary; magnitudes are 1/2 or 3/2."""
    W = theory.draw_directions(philox(seed, "figure/growth"), width, n)
    rows = []
    for rate in rates:
        law = theory.independent(
            torch.full((n,), float(rate), dtype=torch.float64), theory.Magnitude((0.5, 1.5), (0.5, 0.5))
        )
        problem = Problem(W, W, law.weights, activation, n)
        W_D, W_E = theory.construction(problem)
        atoms = theory.exact_atoms(problem, law)
        errors = theory.feature_losses(problem, W_D, W_E, atoms)
        whole = float(atoms.weight @ errors)
        rows.append([whole - float(theory.loss(problem, W_D, W_E)), whole, law.several, float(errors.max())])
    return np.array(rows)


@_claim
def draw_loss_approximation() -> Figure:
    """The gap against both bounds, and its local power in the expected number of active features."""
    figure, (left, right) = panels(2)
    n, rates = 8, np.geomspace(1e-3, 0.9, 25)
    kinds: list[tuple[str, Activation]] = [
        ("ReLU", ReLU()),
        ("top-2", TopK(2)),
        ("JumpReLU, theta = 0.4", JumpReLU(0.4)),
    ]
    for (label, activation), colour in zip(kinds, PALETTE, strict=False):
        gap, whole, _, C = growth(activation, rates).T
        left.loglog(rates, np.abs(gap), color=colour, label=f"|L - L~|, {label}")
        if label == "ReLU":
            left.loglog(rates, n * n * C * rates**2, "--", color=GREY, label="n² C (1-S)² (printed)")
            left.loglog(rates, n * (n - 1) / 2 * C * rates**2, ":", color="black", label="n(n-1)/2 C (1-S)²")
            left.axvspan(1 / n, 0.9, color=GREY, alpha=0.15, linewidth=0)
        if not label.startswith("JumpReLU"):
            slope = np.gradient(np.log(gap), np.log(rates))
            right.semilogx(n * rates, slope, color=colour, label=f"power of the gap, {label}")
            right.semilogx(n * rates, gap / whole, "--", color=colour, label=f"(L - L~) / L, {label}")
    tidy(left, "1 - S", "loss", "The gap stays below the bound")
    tidy(right, "expected number of active features n(1-S)", "power, share", "It grows quadratically, then slower")
    right.semilogx(n * rates, 1 - (1 - rates) ** (n - 1), ":", color="black", label="1 - S^(n-1)")
    right.axvspan(1, 0.9 * n, color=GREY, alpha=0.15, linewidth=0)
    return figure


@_claim
def draw_biconvexity() -> Figure:
    """L~ along a segment within a region, across regions, and with both blocks moving."""
    figure, (axis,) = panels()
    rng = philox(3, "figure/biconvexity")
    problem = theory.draw_problem(rng, 4, 3, 3)
    W_D = torch.from_numpy(rng.standard_normal((3, 3)))
    pairs = [(theory.draw_encoder(rng, problem), theory.draw_encoder(rng, problem)) for _ in range(50)]
    ends = [float(theory.loss(problem, W_D, a) + theory.loss(problem, W_D, b)) / 2 for a, b in pairs]
    E0, E1 = pairs[
        int(
            np.argmax(
                [float(theory.loss(problem, W_D, (a + b) / 2)) / e for (a, b), e in zip(pairs, ends, strict=True)]
            )
        )
    ]
    inside = theory.walk(theory.region(problem, theory.pattern_of(problem, E0)), E0, rng, 20)
    best = theory.best_decoder(problem, E0)
    t = np.linspace(0, 1, 201)
    curves = {
        "one region, W_D fixed": [theory.loss(problem, W_D, (1 - s) * E0 + s * inside) for s in t],
        "two regions, W_D fixed": [theory.loss(problem, W_D, (1 - s) * E0 + s * E1) for s in t],
        "one region, both blocks": [theory.loss(problem, best * (1 - s + s / 4), E0 * (1 - s + 4 * s)) for s in t],
    }
    for (label, values), colour in zip(curves.items(), (BLUE, RED, ORANGE), strict=True):
        y = np.array([float(v) for v in values])
        y = y / y.max()
        axis.plot(t, y, color=colour, label=label)
        axis.plot([0, 1], y[[0, -1]], "--", color=colour, linewidth=0.8)
    tidy(axis, "position along the segment", "L~ / its largest value", "In one block L~ is convex (dashed: chords)")
    return figure


@_claim
def draw_convex_regions() -> Figure:
    """The responses of two latents to one feature: top-1 of ReLU has convex pieces, AbsTopK has not."""
    figure, axes = panels(2)
    side = torch.linspace(-1, 1, 300, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    for axis, activation in zip(axes, (TopK(1), AbsTopK(1)), strict=True):
        fires = (theory.sigma(activation, z) != 0).double()
        which = (fires @ torch.tensor([1.0, 2.0], dtype=torch.float64)).reshape(300, 300).numpy()
        axis.imshow(
            which, origin="lower", extent=(-1, 1, -1, 1), cmap=ListedColormap(["white", BLUE, ORANGE]), vmin=0, vmax=2
        )
        tidy(axis, "z of latent 1", "z of latent 2", f"{type(activation).__name__}(1)", legend=False)
        axis.text(0.45, -0.1, "1", color="white", weight="bold")
        axis.text(-0.1, 0.6, "2", color="black", weight="bold")
    return figure


@_claim
def draw_construction() -> Figure:
    """L~ of the true dictionary over the zero dictionary's, with both bounds, as features are added."""
    figure, (axis,) = panels()
    sizes, width = [8, 12, 16, 24, 32, 48, 64, 96, 128], 24
    rng = philox(0, "figure/construction")
    W = theory.draw_directions(rng, width, max(sizes))
    for (label, activation), colour in zip(
        (("ReLU", ReLU()), ("top-4", TopK(4)), ("top-1", TopK(1)), ("JumpReLU, theta = 0.4", JumpReLU(0.4))),
        PALETTE,
        strict=False,
    ):
        ratio, bound = [], []
        for n in sizes:
            problem = Problem(W[:, :n], W[:, :n], torch.ones(n), activation, n)
            ratio.append(float(theory.loss(problem, *theory.construction(problem))) / problem.zero_dictionary_loss)
            bound.append(theory.construction_bounds(problem)[1] / problem.zero_dictionary_loss)
        axis.plot(sizes, ratio, "o-", markersize=3, color=colour, label=label)
        axis.plot(sizes, bound, ":", color=colour, linewidth=1)
    axis.axhline(1.0, color="black", linewidth=1, label="the zero dictionary")
    axis.set_yscale("symlog", linthresh=1e-2)
    axis.set_xscale("log")
    axis.set_ylim(-0.003, 3e3)
    tidy(axis, "n (in 24 dimensions)", "L~ / L~ of the zero dictionary", "L~ stays below M² Σ M_d (K_d - 1)² (dotted)")
    return figure


def zero_loss_instance() -> tuple[Problem, torch.Tensor, torch.Tensor]:
    """Four features in the plane, and (W_D, W_E) of loss zero that recover none (figure 4)."""
    W = theory.plane(0, 75, 170, 260)
    problem = Problem(W, W, torch.ones(4), ReLU(), 4)
    return (problem, *theory.unrecovering(problem, philox(1, "figure/zero"), steps=600, starts=8))


def zero_loss_figure(W: torch.Tensor, W_D: torch.Tensor, W_E: torch.Tensor, value: float, share: float) -> Figure:
    """True features with encoder rows and with decoder columns, of loss `value`, a `share` of them recovered."""
    figure, axes = panels(2, 3.6)
    for axis, rows, name in ((axes[0], W_E, "encoder rows"), (axes[1], W_D.T, "decoder columns")):
        for d in range(4):
            arrow(axis, W[:, d], "black", 1.5)
        for row in rows / rows.norm(dim=1, keepdim=True):
            arrow(axis, row, ORANGE, 1.5)
        axis.plot([], [], color="black", label="true features")
        axis.plot([], [], color=ORANGE, label=f"{name}, normalised")
        axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
        tidy(axis, "dimension 1", "dimension 2", f"L~ = {value:.0e}, recovered {share:.0%}")
    return figure


@_claim
def draw_zero_loss() -> Figure:
    """Four features in the plane, and a dictionary of loss zero that recovers none (figure 4)."""
    problem, W_D, W_E = zero_loss_instance()
    got = theory.recovery(problem, W_D, W_E)
    return zero_loss_figure(problem.W_p, W_D, W_E, float(theory.loss(problem, W_D, W_E)), max(got.decoder, got.encoder))


@_claim
def draw_zero_without_recovery() -> Figure:
    """Best |cosine| of each feature in a mirrored pair: loss zero on any data, nothing recovered."""
    figure, (axis,) = panels()
    rng = philox(0, "figure/pair")
    for width, colour in ((4, ORANGE), (16, BLUE), (64, GREEN)):
        problem = theory.draw_problem(rng, 200, width, 2 * width)
        Q = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width))))[0]
        W_D, W_E = theory.mirrored_pair(problem, Q)
        best = ((problem.W_r.T @ W_D) / W_D.norm(dim=0)).abs().amax(1)
        error = float(theory.loss(problem, W_D, W_E)) / problem.zero_dictionary_loss
        axis.hist(
            best.numpy(),
            np.linspace(0, 1, 41).tolist(),
            color=colour,
            alpha=0.6,
            label=f"n_p = {width}, L~ / zero = {error:.0e}",
        )
    axis.axvline(0.95, color="black", linestyle="--", linewidth=1, label="tau = 0.95")
    tidy(axis, "best |cosine| of a true feature with a decoder column", "features of 200", "Any [Q; -Q] has loss 0")
    return figure


@_claim
def draw_zero_dimension() -> Figure:
    """The zero set's dimension, measured and by the formula, against n, with and without anchors."""
    figure, (axis,) = panels()
    rng = philox(0, "figure/dimension")
    W = theory.draw_directions(rng, 6, 12).abs()
    W = W / W.norm(dim=0)
    sizes, n_q = list(range(2, 13, 2)), 40
    for anchored, colour in ((0, BLUE), (2, ORANGE), (4, GREEN)):
        formula, measured = [], []
        for n in sizes:
            problem = Problem(W[:, :n], W[:, :n], torch.ones(n), ReLU(), n_q)
            W_E = theory.draw_encoder(rng, problem)
            zeros = theory.zero_set(problem, theory.best_decoder(problem, W_E), W_E, anchored)
            measured.append(zeros.dimension)
            formula.append(zeros.formula)
        axis.plot(sizes, formula, color=colour, label=f"formula, {anchored} anchored")
        axis.plot(sizes, measured, "o", color=colour, markersize=4)
    tidy(axis, "n", "dimension of the zero set", "The zero set shrinks with n")
    return figure


@_claim
def draw_example_3_5() -> Figure:
    """The loss along z = (cos t, sin t) with the best decoder: flat for equal weights, sloped for unequal ones."""
    figure, (axis,) = panels()
    angles = np.linspace(-0.6, np.pi / 2 + 0.6, 300)
    for weights, colour in (((1.0, 1.0), BLUE), ((2.0, 1.0), ORANGE)):
        problem, _, _ = theory.example_35(weights)
        values = []
        for t in angles:
            W_E = torch.tensor([[np.cos(t), np.sin(t)], [0.0, 0.0]])
            values.append(float(theory.loss(problem, theory.best_decoder(problem, W_E), W_E)))
        axis.plot(angles, values, color=colour, label=f"M = {weights}")
    axis.axvspan(0, np.pi / 2, color=GREY, alpha=0.15, linewidth=0)
    axis.plot([np.pi / 4], [1], "o", color=BLUE, markersize=5, label="the paper's point")
    tidy(axis, "t, the angle of w_E of latent 1", "L~ with the best decoder", "At M = (1, 1) the loss is flat")
    return figure


@_claim
def draw_printed_3_6() -> Figure:
    """Encoder and decoder gradients at the proof's point, for random encoders."""
    figure, (axis,) = panels()
    rng = philox(0, "figure/printed")
    norms: list[list[float]] = []
    while len(norms) < 400:
        n = int(rng.integers(2, 5))
        problem = theory.draw_problem(rng, n, n + 2, 1, n + 2)
        z = torch.from_numpy(rng.uniform(0.2, 1.0, n))
        _, by_D, by_E = theory.paper_point(problem, (torch.linalg.pinv(problem.W_p.T) @ z)[None])
        norms.append([float(by_D.norm()) + 1e-18, float(by_E.norm())])
    both = np.array(norms)
    bins = np.geomspace(1e-18, 1e2, 60).tolist()
    axis.hist(both[:, 0], bins, color=BLUE, label="decoder gradient")
    axis.hist(both[:, 1], bins, color=RED, label="encoder gradient")
    axis.set_xscale("log")
    tidy(axis, "norm of the gradient at the proof's point", "encoders of 400", "The encoder's gradient does not vanish")
    return figure


def group_shares(size: int, trials: int = 400, seed: int = 0, tilt: float = 0.0) -> tuple[float, float, float]:
    """Shares (trap, saddle, none) of random groups: w_p independent, w_r uniform in 2 to 8 dimensions, M_d in [1/2, 2].

    `tilt` moves every w_r towards one direction before it is normalised.
    """
    rng, counts = philox(seed, "figure/groups", size, int(1000 * tilt)), np.zeros(3)
    for _ in range(trials):
        n_r = int(rng.integers(2, 9))
        W_r = theory.draw_directions(rng, n_r, size) + tilt * theory.draw_directions(rng, n_r, 1)
        problem = Problem(
            theory.draw_directions(rng, size + 1, size), W_r / W_r.norm(dim=0), theory.draw_weights(rng, size)
        )
        pair = theory.positive_pair(theory.groups_of(problem, theory.ActivationPattern.of([range(size)], size))[0])
        counts[2 if pair is None else 0 if pair[2] else 1] += 1
    trap, saddle, none = (counts / trials).tolist()
    return trap, saddle, none


@_claim
def draw_repaired_3_6() -> Figure:
    """Which of the three cases a random group is, by its size."""
    figure, (axis,) = panels()
    sizes = [1, 2, 3, 4, 5, 6, 7]
    shares = np.array([group_shares(size) for size in sizes])
    below = np.zeros(len(sizes))
    for column, (label, colour) in enumerate((("trap", RED), ("saddle", ORANGE), ("no stationary point", BLUE))):
        axis.bar(sizes, shares[:, column], bottom=below, color=colour, label=label)
        below += shares[:, column]
    tidy(axis, "features in the group of one latent", "share of random groups", "Large random groups are rarely traps")
    return figure


@_claim
def draw_perron_trap() -> Figure:
    """Traps become certain as the cosines within a group become positive."""
    figure, (axis,) = panels()
    tilts = np.linspace(0, 3, 10)
    for size, colour in zip((2, 3, 5, 8), PALETTE, strict=False):
        axis.plot(
            tilts,
            [group_shares(size, 200, tilt=float(t))[0] for t in tilts],
            "o-",
            markersize=3,
            color=colour,
            label=f"{size} features",
        )
    tidy(axis, "common direction added to every w_r", "share of groups that are traps", "Similar features make traps")
    return figure


@_claim
def draw_absorption() -> Figure:
    """Why plain ReLU is different: {0, 1} is realizable, but no half-plane holds feature 0 or 1 alone."""
    figure, (axis,) = panels(1, 3.8)
    W = theory.plane(0, 10, 95, -85)
    for d, degrees in enumerate((0, 10, 95, -85)):
        arrow(axis, W[:, d], BLUE if d < 2 else GREY)
        x, y = (1.12 * W[:, d]).tolist()
        axis.text(x, y, f"{d}: {degrees}°", ha="center", va="center", fontsize=9)
    row = theory.plane(5)[:, 0]
    arrow(axis, 0.8 * row, ORANGE)
    side = theory.plane(95)[:, 0]
    axis.plot(
        *np.stack([-1.2 * side.numpy(), 1.2 * side.numpy()]).T,
        "--",
        color=ORANGE,
        label="w_E of {0, 1} and its half-plane",
    )
    axis.set(xlim=(-1.3, 1.5), ylim=(-1.3, 1.3), aspect="equal")
    tidy(axis, "dimension 1", "dimension 2", "{0} alone is not realizable", legend=False)
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


@_claim
def draw_absorption_printed() -> Figure:
    """How often each construction reaches the pattern it promises, by the number of latents."""
    figure, (axis,) = panels()
    sizes, rng = [1, 2, 3, 4, 6, 8], philox(0, "figure/absorption")
    for label, build, colour in (("repaired", theory.absorb, GREEN), ("as printed", theory.absorb_as_printed, RED)):
        reached = []
        for n_q in sizes:
            hits = []
            for _ in range(40):
                problem = theory.draw_problem(rng, 6, 8, n_q, None, JumpReLU(theta=0.3))
                W_E = theory.draw_encoder(rng, problem)
                hits += [build(problem, W_E, i).reached for i in theory.pattern_of(problem, W_E).polysemantic]
            reached.append(np.mean(hits))
        axis.plot(sizes, reached, "o-", color=colour, label=label)
    axis.set_ylim(-0.05, 1.05)
    tidy(axis, "latents", "share of parents split as promised", "The repaired construction always works")
    return figure


@_claim
def draw_parent_invisible() -> Figure:
    """The weight with which L~ sees a parent, against how often it fires alone."""
    figure, (axis,) = panels()
    alone = np.linspace(0, 0.1, 11)
    weights = np.array([theory.hierarchical((3,), 0.1, float(a), free=1).weights.tolist() for a in alone])
    for d, label, marker, colour in (
        (0, "a parent", "o-", ORANGE),
        (1, "a child", "s-", BLUE),
        (4, "a free feature", "^-", GREEN),
    ):
        axis.plot(alone, weights[:, d], marker, color=colour, markersize=4, label=f"M_d of {label}")
    tidy(axis, "Pr(the parent fires without a child)", "weight in L~", "Parents and children have no weight in L~ at 0")
    return figure


@_claim
def draw_dead_latents() -> Figure:
    """Loss ratio and dead latents at the end, when half the latents begin dead."""
    figure, axes = panels(2)
    W = theory.draw_directions(philox(0, "figure/dead"), 12, 8)
    ways = ("none", "resample", "auxk", "anchors")
    for place, (label, activation) in enumerate((("ReLU", ReLU()), ("top-1", TopK(1)))):
        problem = Problem(W, W, torch.ones(8), activation, 8)
        W_D, W_E = theory.starts(problem, 24, 0)
        silent = torch.linalg.pinv(W.T) @ torch.full((8,), -1.0, dtype=torch.float64)  # -1 on every feature
        W_E[:, 4:] = silent if place == 0 else W_E[:, 4:] * 1e-3  # top-1: outranked
        for way, name in enumerate(ways):
            plan = theory.DescentConfig(steps=500, lr=0.03, anchors=4 if name == "anchors" else 0)
            plan = replace(plan, revive="resample") if name == "resample" else plan
            plan = replace(plan, revive="auxk") if name == "auxk" else plan
            order = (W_D.flip(2), W_E.flip(1)) if name == "anchors" else (W_D, W_E)  # anchors take the dead ones
            ended = theory.descend(problem, plan, 24, 0, begin=order)
            x = way + 0.35 * place
            value = float(ended.loss.median()) / problem.zero_dictionary_loss
            axes[0].bar(x, max(value, 1e-6), 0.33, color=PALETTE[place], label=label if way == 0 else None)
            axes[1].bar(x, float(ended.dead.double().sum(1).mean()), 0.33, color=PALETTE[place])
    for axis in axes:
        axis.set_xticks(np.arange(4) + 0.17, ways)
    tidy(axes[0], "what is done about dead latents", "median L~ / zero dictionary", "Resampling revives most")
    tidy(axes[1], "what is done about dead latents", "dead latents at the end", "", legend=False)
    return figure


@_claim
def draw_l1_scale() -> Figure:
    """The objective along (W_E / c, c W_D): with free norms it falls without end, weighted it stays."""
    figure, (axis,) = panels()
    rng = philox(0, "figure/l1")
    problem = theory.draw_problem(rng, 6, 4, 8)
    W_E = theory.draw_encoder(rng, problem)
    W_D, scales = theory.best_decoder(problem, W_E), np.geomspace(1, 1e3, 40)
    H = problem.codes(W_E)
    free = [float(theory.loss(problem, W_D * c, W_E / c) + 0.1 * H.sum() / c) for c in scales]
    weighted = [
        float(theory.loss(problem, W_D * c, W_E / c) + 0.1 * (H / c * (W_D * c).norm(dim=0)).sum()) for c in scales
    ]
    axis.loglog(scales, np.array(free) + 1e-18, color=RED, label="L1 of the codes")
    axis.loglog(scales, weighted, color=BLUE, label="L1 of codes times decoder norms")
    tidy(axis, "c", "L~ + penalty at (W_E / c, c W_D)", "A penalty needs decoder norms or a constraint")
    return figure


for _draw in (walls.draw_closed_3_6, walls.draw_wall_attracts):
    _claim(_draw)

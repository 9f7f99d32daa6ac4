"""Figures of theorems 3.1 to 3.4."""

import numpy as np
import torch

from monosem.base.seeds import philox
from monosem.core.activations import AbsTopK, Activation, JumpReLU, ReLU, TopK
from monosem.theory.checks.optima import construction, construction_bounds
from monosem.theory.geometry import walk
from monosem.theory.instances import draw_directions, draw_encoder, draw_problem, plane
from monosem.theory.law import Magnitude, exact_atoms, independent
from monosem.theory.loss import best_decoder, feature_losses, loss
from monosem.theory.patterns import pattern_of, region
from monosem.theory.problem import Problem, sigma
from monosem.theory.zeroset import mirrored_pair, recovery, unrecovering, zero_set
from studies.theory.style import BLUE, CYCLE, GREEN, GREY, ORANGE, RED, Figure, new_figure, tidy


def growth(activation: Activation, rates: np.ndarray, n: int = 8, width: int = 6, seed: int = 0) -> np.ndarray:
    """(L - L~, L, Pr(several active), C) at each rate, exactly, for the true dictionary; magnitudes are 1/2 or 3/2."""
    W = draw_directions(philox(seed, "figure/growth"), width, n)
    rows = []
    for rate in rates:
        law = independent(torch.full((n,), float(rate), dtype=torch.float64), Magnitude((0.5, 1.5), (0.5, 0.5)))
        problem = Problem(W, W, law.weights, activation, n)
        W_D, W_E = construction(problem)
        atoms = exact_atoms(problem, law)
        errors = feature_losses(problem, W_D, W_E, atoms)
        whole = float(atoms.weight @ errors)
        rows.append([whole - float(loss(problem, W_D, W_E)), whole, law.several, float(errors.max())])
    return np.array(rows)


def draw_loss_approximation() -> Figure:
    """The gap against both bounds, and its local power in the expected number of active features."""
    figure, (left, right) = new_figure(2)
    n, rates = 8, np.geomspace(1e-3, 0.9, 25)
    kinds: list[tuple[str, Activation]] = [
        ("ReLU", ReLU()),
        ("top-2", TopK(2)),
        ("JumpReLU, theta = 0.4", JumpReLU(0.4)),
    ]
    for (label, activation), colour in zip(kinds, CYCLE, strict=False):
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
    tidy(left, "1 - S", "loss", "grey: hypothesis fails, bound vacuous (n = 8)")
    tidy(right, "expected number of active features n(1-S)", "power, share", "quadratic, then ever slower")
    right.semilogx(n * rates, 1 - (1 - rates) ** (n - 1), ":", color="black", label="1 - S^(n-1)")
    right.axvspan(1, 0.9 * n, color=GREY, alpha=0.15, linewidth=0)
    return figure


def draw_biconvexity() -> Figure:
    """L~ along a segment within a region, across regions, and with both blocks moving."""
    figure, (axis,) = new_figure()
    rng = philox(3, "figure/biconvexity")
    problem = draw_problem(rng, 4, 3, 3)
    W_D = torch.from_numpy(rng.standard_normal((3, 3)))
    pairs = [(draw_encoder(rng, problem), draw_encoder(rng, problem)) for _ in range(50)]
    ends = [float(loss(problem, W_D, a) + loss(problem, W_D, b)) / 2 for a, b in pairs]
    E0, E1 = pairs[
        int(np.argmax([float(loss(problem, W_D, (a + b) / 2)) / e for (a, b), e in zip(pairs, ends, strict=True)]))
    ]
    inside = walk(region(problem, pattern_of(problem, E0)), E0, rng, 20)
    best = best_decoder(problem, E0)
    t = np.linspace(0, 1, 201)
    curves = {
        "one region, W_D fixed": [loss(problem, W_D, (1 - s) * E0 + s * inside) for s in t],
        "two regions, W_D fixed": [loss(problem, W_D, (1 - s) * E0 + s * E1) for s in t],
        "one region, both blocks": [loss(problem, best * (1 - s + s / 4), E0 * (1 - s + 4 * s)) for s in t],
    }
    for (label, values), colour in zip(curves.items(), (BLUE, RED, ORANGE), strict=True):
        y = np.array([float(v) for v in values])
        y = y / y.max()
        axis.plot(t, y, color=colour, label=label)
        axis.plot([0, 1], y[[0, -1]], "--", color=colour, linewidth=0.8)
    tidy(axis, "position along the segment", "L~ / its largest value", "dashed: the chord")
    return figure


def draw_convex_regions() -> Figure:
    """The responses of two latents to one feature: top-1 of ReLU has convex pieces, AbsTopK has not."""
    figure, axes = new_figure(2)
    side = torch.linspace(-1, 1, 300, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
    from matplotlib.colors import ListedColormap

    for axis, activation in zip(axes, (TopK(1), AbsTopK(1)), strict=True):
        fires = (sigma(activation, z) != 0).double()
        which = (fires @ torch.tensor([1.0, 2.0], dtype=torch.float64)).reshape(300, 300).numpy()
        axis.imshow(
            which, origin="lower", extent=(-1, 1, -1, 1), cmap=ListedColormap(["white", BLUE, ORANGE]), vmin=0, vmax=2
        )
        tidy(axis, "z of latent 1", "z of latent 2", f"{type(activation).__name__}(1)", legend=False)
        axis.text(0.45, -0.1, "1", color="white", weight="bold")
        axis.text(-0.1, 0.6, "2", color="black", weight="bold")
    return figure


def draw_construction() -> Figure:
    """L~ of the true dictionary over the zero dictionary's, with both bounds, as features are added."""
    figure, (axis,) = new_figure()
    sizes, width = [8, 12, 16, 24, 32, 48, 64, 96, 128], 24
    rng = philox(0, "figure/construction")
    W = draw_directions(rng, width, max(sizes))
    for (label, activation), colour in zip(
        (("ReLU", ReLU()), ("top-4", TopK(4)), ("top-1", TopK(1)), ("JumpReLU, theta = 0.4", JumpReLU(0.4))),
        CYCLE,
        strict=False,
    ):
        ratio, bound = [], []
        for n in sizes:
            problem = Problem(W[:, :n], W[:, :n], torch.ones(n), activation, n)
            ratio.append(float(loss(problem, *construction(problem))) / problem.zero_dictionary_loss)
            bound.append(construction_bounds(problem)[1] / problem.zero_dictionary_loss)
        axis.plot(sizes, ratio, "o-", markersize=3, color=colour, label=label)
        axis.plot(sizes, bound, ":", color=colour, linewidth=1)
    axis.axhline(1.0, color="black", linewidth=1, label="the zero dictionary")
    axis.set_yscale("symlog", linthresh=1e-2)
    axis.set_xscale("log")
    axis.set_ylim(-0.003, 3e3)
    tidy(axis, "n (in 24 dimensions)", "L~ / L~ of the zero dictionary", "dotted: M² Σ M_d (K_d - 1)²")
    return figure


def draw_zero_loss() -> Figure:
    """Four features in the plane, and a dictionary of loss zero that recovers none (figure 4)."""
    figure, axes = new_figure(2, 3.6)
    W = plane(0, 75, 170, 260)
    problem = Problem(W, W, torch.ones(4), ReLU(), 4)
    W_D, W_E = unrecovering(problem, philox(1, "figure/zero"), steps=600, starts=8)
    got = recovery(problem, W_D, W_E)
    text = f"L~ = {float(loss(problem, W_D, W_E)):.0e}, recovered {max(got.decoder, got.encoder):.0%}"
    for axis, rows, name in ((axes[0], W_E, "encoder rows"), (axes[1], W_D.T, "decoder columns")):
        for d in range(4):
            axis.annotate("", W[:, d].tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "lw": 1.5})
        for row in rows / rows.norm(dim=1, keepdim=True):
            axis.annotate("", row.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": ORANGE, "lw": 1.5})
        axis.plot([], [], color="black", label="true features")
        axis.plot([], [], color=ORANGE, label=f"{name}, normalised")
        axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
        tidy(axis, "dimension 1", "dimension 2", text)
    return figure


def draw_zero_without_recovery() -> Figure:
    """Best |cosine| of each feature in a mirrored pair: loss zero on any data, nothing recovered."""
    figure, (axis,) = new_figure()
    rng = philox(0, "figure/pair")
    for width, colour in ((4, ORANGE), (16, BLUE), (64, GREEN)):
        problem = draw_problem(rng, 200, width, 2 * width)
        Q = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, width))))[0]
        W_D, W_E = mirrored_pair(problem, Q)
        best = ((problem.W_r.T @ W_D) / W_D.norm(dim=0)).abs().amax(1)
        error = float(loss(problem, W_D, W_E)) / problem.zero_dictionary_loss
        axis.hist(
            best.numpy(),
            np.linspace(0, 1, 41),
            color=colour,
            alpha=0.6,
            label=f"n_p = {width}, L~ / zero = {error:.0e}",
        )
    axis.axvline(0.95, color="black", linestyle="--", linewidth=1, label="tau = 0.95")
    tidy(axis, "best |cosine| of a true feature with a decoder column", "features of 200", "W_E = [Q; -Q]")
    return figure


def draw_zero_dimension() -> Figure:
    """The zero set's dimension, measured and by the formula, against n, with and without anchors."""
    figure, (axis,) = new_figure()
    rng = philox(0, "figure/dimension")
    W = draw_directions(rng, 6, 12).abs()
    W = W / W.norm(dim=0)
    sizes, n_q = list(range(2, 13, 2)), 40
    for anchored, colour in ((0, BLUE), (2, ORANGE), (4, GREEN)):
        formula, measured = [], []
        for n in sizes:
            problem = Problem(W[:, :n], W[:, :n], torch.ones(n), ReLU(), n_q)
            W_E = draw_encoder(rng, problem)
            found = zero_set(problem, best_decoder(problem, W_E), W_E, anchored)
            measured.append(found.dimension)
            formula.append(found.formula)
        axis.plot(sizes, formula, color=colour, label=f"formula, {anchored} anchored")
        axis.plot(sizes, measured, "o", color=colour, markersize=4)
    tidy(axis, "n", "dimension of the zero set", "dots: rank of the Jacobian (n_q = 40, n_p = n_r = 6)")
    return figure

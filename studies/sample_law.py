"""How many rows recovery takes: a law over features, coherence and rows, fitted, and tried where nothing was fitted.

python -m studies sample_law        what the record lacks

Small worlds with n features in n / 2 dimensions, 1.8 active, in clusters of five at cosine v; rows by how often a
feature occurs in them. One thread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import least_squares

from monosem import task
from monosem.base import DataError
from monosem.bench import TaskSource, environment, recall_precision
from monosem.dictionary import CLASSICAL, discover
from monosem.report import PALETTE, fill, panels, plain_axes, table, write_figure
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE, FIGURE = Path("docs/recovery.md"), Path("docs/figures/sample-law.svg")
NAME, L0 = "recovery/law", 1.8
EVENTS = (8, 16, 32, 64)
FITTED = [(n, v) for n in (12, 24, 48) for v in (0.0, 0.6)]
APART = [(36, 0.4)]
"""Not fitted: what the law says of them is beside what was measured."""
SEEDS = {"discover": range(2000, 2008), "ksvd": range(2000, 2020)}
LEARNERS = {"discover": "discovery", "ksvd": "K-SVD"}


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks, seed by seed; discovery, which takes longer, last."""
    torch.set_num_threads(1)
    run_missing(NAME, {"command": "python -m studies sample_law", "env": environment()}, _runs())


def _runs() -> Iterator[tuple[str, Callable[[], float]]]:
    for learner in ("ksvd", "discover"):
        for seed in SEEDS[learner]:
            for n, v in (*FITTED, *APART):
                for events in EVENTS:
                    yield f"{learner}/{n}/{v}/{events}/{seed}", partial(_recall, learner, n, v, events, seed)


def _recall(learner: str, n: int, v: float, events: int, seed: int) -> float:
    rows = round(events * n / L0)
    source = TaskSource(task(f"lrb/grid(n={n}, d={n // 2}, l0={L0}, coherence={v}, rows={rows})", seed=seed))
    x = source.take(torch.arange(rows))[0]
    try:
        D = discover(x, seed=seed).anchors.p if learner == "discover" else CLASSICAL[learner](x, n, k=2, seed=seed)
    except DataError:  # nothing stood out
        return 0.0
    return float(recall_precision(D, source.W_p)["recall"])


def law(parameters: np.ndarray, n: np.ndarray, v: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Recall by the law.

    Equation: top / (1 + exp(-s (log E - c - a log(n / 24) - b log(1 / (1 - v))))),  E = events of a feature
    """
    s, c, a, b, top = parameters
    return np.asarray(top / (1 + np.exp(-s * (np.log(events) - c - a * np.log(n / 24) + b * np.log(1 - v)))))


def fit_law(points: np.ndarray) -> np.ndarray:
    """The parameters of least squared error; points [m, 4] hold n, v, events and recall."""
    start = np.array([2.0, np.log(20.0), 0.0, 0.0, 0.95])
    bounds = ([0.1, -2.0, -3.0, -3.0, 0.3], [20.0, 9.0, 3.0, 6.0, 1.0])
    return np.asarray(least_squares(lambda p: law(p, *points[:, :3].T) - points[:, 3], start, bounds=bounds).x)


def interval_of_fit(points: np.ndarray, seeds: np.ndarray, draws: int = 200) -> np.ndarray:
    """[2, 5]: 2.5 % and 97.5 % of the parameters over resampled worlds, cell by cell."""
    rng, which = np.random.default_rng(0), np.unique(seeds)
    cells = np.unique(points[:, :3], axis=0, return_inverse=True)[1].ravel()
    fits = []
    for _ in range(draws):
        picked = rng.choice(which, (cells.max() + 1, which.size))
        rows = [
            np.flatnonzero((cells == cell) & (seeds == seed))[0] for cell in range(len(picked)) for seed in picked[cell]
        ]
        fits.append(fit_law(points[rows]))
    return np.asarray(np.quantile(fits, [0.025, 0.975], axis=0))


def page() -> None:
    """Fill the page and draw the figure."""
    record = stored(NAME)
    points = {name: _points(record["runs"], name) for name in LEARNERS} if record else {}
    points = {name: p for name, p in points.items() if len(p)}
    parts = {"law": "Not run yet."}
    if record and points:
        fits = {name: _fit(p) for name, p in points.items()}
        parts["law"] = f"![Recall by events and the law](figures/sample-law.svg)\n\n{_table(points, fits)}\n\n"
        parts["law"] += f"One thread; {provenance([record])}."
        write_figure(FIGURE, _figure(points, fits), "Recall against events of a feature, measured and by the law")
    fill(PAGE, parts)


def _points(runs: Mapping[str, float], name: str) -> np.ndarray:
    """[m, 5]: n, v, events, recall and seed, of the seeds that every cell has."""
    cells = [(n, v, e) for n, v in (*FITTED, *APART) for e in EVENTS]
    key = f"{name}/{{}}/{{}}/{{}}/{{}}".format
    whole = [seed for seed in SEEDS[name] if all(key(*cell, seed) in runs for cell in cells)]
    return np.array([(*cell, runs[key(*cell, seed)], seed) for cell in cells for seed in whole], dtype=float)


def _among(points: np.ndarray, cells: Sequence[tuple[int, float]]) -> np.ndarray:
    return points[[(n, v) in cells for n, v in points[:, :2]]]


def _fit(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _among(points, FITTED)
    return fit_law(inside[:, :4]), interval_of_fit(inside[:, :4], inside[:, 4])


def _table(points: Mapping[str, np.ndarray], fits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    head = (
        "learner",
        "worlds a cell",
        "E_half at n = 24, v = 0",
        "a",
        "b",
        "s",
        "top",
        "error",
        "worst",
        "error apart",
    )
    rows: list[Sequence[object]] = [head]
    for name, (fit, (low, high)) in fits.items():
        inside, outside = (_errors(_among(points[name], cells), fit) for cells in (FITTED, APART))
        ranges = [f"{fit[i]:.2f} [{low[i]:.2f}, {high[i]:.2f}]" for i in (2, 3, 0, 4)]
        half = f"{np.exp(fit[1]):.1f} [{np.exp(low[1]):.1f}, {np.exp(high[1]):.1f}]"
        worst = max(inside, key=lambda cell: abs(inside[cell]))
        numbers = [f"{mean(map(abs, errors.values())):.3f}" for errors in (inside, outside)]
        where = "n = {:g}, v = {:g}, E = {:g}".format(*worst)
        worlds = len(np.unique(points[name][:, 4]))
        rows.append((LEARNERS[name], worlds, half, *ranges, numbers[0], f"{inside[worst]:+.2f} ({where})", numbers[1]))
    apart = ", ".join(f"n = {n}, v = {v}" for n, v in APART)
    return (
        f"{table(rows, numbers=True)}\n\nIn brackets: 95 % intervals over resampled worlds. Errors are those of mean "
        f"recall, in size, over cells; worst: measured less the law. Apart: {apart}, which was not fitted."
    )


def _errors(points: np.ndarray, fit: np.ndarray) -> dict[tuple[float, float, float], float]:
    """Measured mean recall less the law's, cell by cell."""
    cells, which = np.unique(points[:, :3], axis=0, return_inverse=True)
    left = points[:, 3] - law(fit, *points[:, :3].T)
    return {tuple(cell): float(left[which.ravel() == i].mean()) for i, cell in enumerate(cells.tolist())}


def _figure(points: Mapping[str, np.ndarray], fits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel a learner: means as points, hollow where nothing was fitted, the law as lines, dashed at v > 0."""
    figure, axes = panels(len(points), 3.0)
    fine = np.geomspace(EVENTS[0], EVENTS[-1], 60)
    for axis, (name, every) in zip(axes, points.items(), strict=True):
        for colour, (n, v) in zip(PALETTE * 2, (*FITTED, *APART), strict=False):
            some = _among(every, [(n, v)])
            means = [some[some[:, 2] == e, 3].mean() for e in EVENTS]
            inside = "none" if (n, v) in APART else colour
            axis.plot(EVENTS, means, "o", color=colour, markersize=4, markerfacecolor=inside)
            curve = law(fits[name][0], np.full(60, n), np.full(60, v), fine)
            axis.plot(fine, curve, "--" if v else "-", color=colour, linewidth=1.2, label=f"n = {n}, v = {v:g}")
        axis.set(xscale="log", xlabel="events of a feature", ylabel=f"recall of {LEARNERS[name]}", ylim=(-0.03, 1.05))
        axis.set_xticks(EVENTS, [str(e) for e in EVENTS])
        axis.minorticks_off()
        plain_axes(axis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure

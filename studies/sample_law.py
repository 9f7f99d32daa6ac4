"""How many rows recovery takes: a law over features, coherence and rows, fitted, and tried where nothing was fitted.

python -m studies sample_law        what the record lacks

Small worlds with n features in n / 2 dimensions, 1.8 active, in clusters of five at cosine v; rows by how often a
feature occurs in them. One thread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

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
SEEDS = range(2000, 2005)
EVENTS = (6, 12, 24, 48, 96)
FITTED = [(n, v) for n in (16, 32, 64) for v in (0.0, 0.5, 0.7)]
APART = [(48, 0.6)]
"""Not fitted: what the law says of them is beside what was measured."""
LEARNERS = {"discover": "discovery", "ksvd": "K-SVD"}
NAMES = ("steepness", "log events at half", "a", "b", "top")


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks."""
    torch.set_num_threads(1)
    run_missing(NAME, {"command": "python -m studies sample_law", "env": environment()}, _runs())


def _runs() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    for seed in SEEDS:
        for n, v in (*FITTED, *APART):
            for events in EVENTS:
                yield f"{n}/{v}/{events}/{seed}", partial(_one, n, v, events, seed)


def _one(n: int, v: float, events: int, seed: int) -> dict[str, float]:
    """Recall of every learner."""
    rows = round(events * n / L0)
    source = TaskSource(task(f"lrb/grid(n={n}, d={n // 2}, l0={L0}, coherence={v}, rows={rows})", seed=seed))
    x = source.take(torch.arange(rows))[0]
    learned = {
        "discover": lambda: discover(x, seed=seed).anchors.p,
        "ksvd": lambda: CLASSICAL["ksvd"](x, n, k=2, iterations=30, seed=seed),
    }
    recall = {}
    for name in LEARNERS:
        try:
            recall[name] = float(recall_precision(learned[name](), source.W_p)["recall"])
        except DataError:  # nothing stood out
            recall[name] = 0.0
    return recall


def law(parameters: np.ndarray, n: np.ndarray, v: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Recall by the law.

    Equation: top / (1 + exp(-s (log E - c - a log(n / 32) - b log(1 / (1 - v))))),  E = events of a feature
    """
    s, c, a, b, top = parameters
    return np.asarray(top / (1 + np.exp(-s * (np.log(events) - c - a * np.log(n / 32) + b * np.log(1 - v)))))


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
    parts = {"law": "Not run yet."}
    if record and (seeds := _whole(record)):
        fits = {name: _fit(record, seeds, name) for name in LEARNERS}
        parts["law"] = f"![Recall by events and the law](figures/sample-law.svg)\n\n{_table(record, seeds, fits)}"
        write_figure(
            FIGURE, _figure(record, seeds, fits), "Recall against events of a feature, measured and by the law"
        )
    fill(PAGE, parts)


def _whole(record: Mapping[str, Any]) -> list[int]:
    """The seeds that every cell has."""
    cells = [f"{n}/{v}/{e}" for n, v in (*FITTED, *APART) for e in EVENTS]
    return [seed for seed in SEEDS if all(f"{cell}/{seed}" in record["runs"] for cell in cells)]


def _points(
    record: Mapping[str, Any], seeds: Sequence[int], name: str, cells: Sequence[tuple[int, float]]
) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        (n, v, e, record["runs"][f"{n}/{v}/{e}/{seed}"][name], seed) for n, v in cells for e in EVENTS for seed in seeds
    ]
    values = np.array(rows, dtype=float)
    return values[:, :4], values[:, 4]


def _fit(record: Mapping[str, Any], seeds: Sequence[int], name: str) -> tuple[np.ndarray, np.ndarray]:
    points, which = _points(record, seeds, name, FITTED)
    return fit_law(points), interval_of_fit(points, which)


def _table(record: Mapping[str, Any], seeds: Sequence[int], fits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    head = ("learner", "events at half of top", "a", "b", "top", "error in a fitted cell", "worst", "cells apart")
    rows: list[Sequence[object]] = [head]
    for name, (fit, ends) in fits.items():
        inside, outside = (_errors(record, seeds, name, fit, cells) for cells in (FITTED, APART))
        low, high = ends
        ranges = [f"{fit[i]:.2f} [{low[i]:.2f}, {high[i]:.2f}]" for i in (2, 3, 4)]
        half = f"{np.exp(fit[1]):.1f} [{np.exp(low[1]):.1f}, {np.exp(high[1]):.1f}]"
        worst = max(inside, key=lambda cell: abs(inside[cell]))
        numbers = [f"{mean(map(abs, errors.values())):.3f}" for errors in (inside, outside)]
        where = "n = {}, v = {}, {} events".format(*worst)
        rows.append((LEARNERS[name], half, *ranges, numbers[0], f"{inside[worst]:+.2f} at {where}", numbers[1]))
    apart = ", ".join(f"n = {n}, v = {v}" for n, v in APART)
    return (
        f"{table(rows, numbers=True)}\n\nIn brackets: 95 % intervals over resampled worlds. Errors are of the mean "
        f"recall over {len(seeds)} worlds; cells apart ({apart}) were not fitted. {provenance([record])}."
    )


def _errors(
    record: Mapping[str, Any], seeds: Sequence[int], name: str, fit: np.ndarray, cells: Sequence[tuple[int, float]]
) -> dict[tuple[int, float, int], float]:
    """Measured mean recall less the law's, cell by cell."""
    errors = {}
    for n, v in cells:
        for e in EVENTS:
            measured = mean(record["runs"][f"{n}/{v}/{e}/{seed}"][name] for seed in seeds)
            errors[n, v, e] = measured - float(law(fit, *np.array([n, v, e], dtype=float)))
    return errors


def _figure(record: Mapping[str, Any], seeds: Sequence[int], fits: Mapping[str, Any]) -> Figure:
    """One panel a learner and coherence: means as points, the law as lines, the cells apart hollow."""
    values = sorted({v for _, v in (*FITTED, *APART)})
    figure, axes = panels(len(values), 2.4)
    fine = np.geomspace(EVENTS[0], EVENTS[-1], 60)
    for axis, v in zip(axes, values, strict=True):
        for n, colour in zip((16, 32, 48, 64), PALETTE, strict=False):
            if (n, v) not in (*FITTED, *APART):
                continue
            means = [mean(record["runs"][f"{n}/{v}/{e}/{seed}"]["discover"] for seed in seeds) for e in EVENTS]
            inside = "none" if (n, v) in APART else colour
            axis.plot(EVENTS, means, "o", color=colour, markersize=4, label=f"n = {n}", markerfacecolor=inside)
            axis.plot(fine, law(fits["discover"][0], np.full(60, n), np.full(60, v), fine), color=colour, linewidth=1.2)
        axis.set(xscale="log", xlabel=f"events of a feature, v = {v:g}", ylim=(-0.03, 1.05))
        axis.set_xticks(EVENTS, [str(e) for e in EVENTS])
        axis.minorticks_off()
        plain_axes(axis)
    axes[0].set_ylabel("recall of discovery")
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure

"""Figures of studies: curves over what a study varies, M_GT against tau, and recovery over training."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.base.registry import Registry
from monosem.report.style import GREY, INK, PALETTE, grid_of_axes
from monosem.report.summary import HEADLINE
from studies.bench.base import ARMS, Study
from studies.bench.queue import Outcome
from studies.report.study import Cell, cells

_Draw = Callable[[Study, Sequence[Outcome]], Figure]

_STYLES: Mapping[str, tuple[str, Any, str]] = {
    "paper": (PALETTE[1], "--", "s"),
    "paper+anchors": (PALETTE[3], "-", "D"),
    "ours": (PALETTE[5], "--", "^"),
    "ours+anchors": (PALETTE[0], "-", "v"),
    "ours+discovered": (PALETTE[2], "-", "o"),
}
"""Colour, stroke and marker of each arm; plain arms are dashed."""


def _ran(study: Study, found: Sequence[Outcome]) -> list[Cell]:
    return [cell for cell in cells(study, found) if cell.found and cell.arm in _STYLES]


def _crosses(study: Study, found: Sequence[Outcome]) -> list[tuple[Cell, float]]:
    """Cells whose M_GT the paper prints, run or not, with that share."""
    every = [(cell, study.printed.get((cell.row, cell.arm), (None, None))[0]) for cell in cells(study, found)]
    return [(cell, share / 100) for cell, share in every if share is not None]


def _x(row: str) -> float:
    """The number that a row's name holds: "n = 800" -> 800, "30 n rows, topk" -> 30."""
    found = re.search(r"\d+(\.\d+)?", row)
    assert found is not None
    return float(found[0])


def _apart(values: Sequence[float]) -> list[float]:
    """Those values that are far enough from the last one taken, of all drawn, to be read on a log axis."""
    taken: list[float] = []
    step = max(1.2, (values[-1] / values[0]) ** 0.15) if values else 1.2
    for value in values:
        if not taken or value >= step * taken[-1]:
            taken.append(value)
    return taken


def _score(cell: Cell) -> str:
    """Over every feature where the anchors were found in the rows and nothing was told, else over the scored ones."""
    return cell.told(HEADLINE)


def curve_figure(
    study: Study, found: Sequence[Outcome], x_label: str, log: bool = False, printed: bool = True
) -> Figure:
    """M_GT(.95) of decoder columns against what the study varies, a panel per method, with t intervals.

    Crosses are what the paper prints, in the colour of its arm.
    """
    made = _ran(study, found)
    panels = list(dict.fromkeys(cell.method for cell in made))
    crosses = _crosses(study, found) if printed else []
    figure, grid = grid_of_axes(panels, 3, (3.1, 2.5) if len(panels) > 1 else (5.4, 2.9))
    arms = [arm for arm in ARMS if any(cell.arm == arm for cell in made)]
    for panel, axes in zip(panels, grid, strict=True):
        for arm in arms:
            line = [cell for cell in made if cell.arm == arm and cell.method == panel]
            points = [(_x(cell.row), value) for cell in line if (value := cell.value(_score(cell))) is not None]
            colour, stroke, marker = _STYLES[arm]
            if points:
                axes.errorbar(
                    [x for x, _ in points],
                    [value.mean for _, value in points],
                    [value.half or 0.0 for _, value in points],
                    color=colour,
                    linestyle=stroke,
                    marker=marker,
                    markersize=4,
                    capsize=2,
                )
        for cell, share in crosses:
            if cell.method == panel:
                axes.plot(_x(cell.row), share, color=_STYLES[cell.arm][0], marker="x", markersize=7, linestyle="none")
        ticks = _apart(sorted({_x(cell.row) for cell in made}))
        if log:
            axes.set_xscale("log" if len(ticks) > 1 else "linear")
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.set_xticks([], minor=True)
        axes.set_ylim(-0.04, 1.06)
    figure.supxlabel(x_label, color=INK)
    figure.supylabel("M_GT(.95)", color=INK)
    _legend(figure, [*arms, *(cell.arm for cell, _ in crosses)], bool(crosses))
    return figure


def method_figure(study: Study, found: Sequence[Outcome]) -> Figure:
    """M_GT(.95) of every method, a mark per arm, crosses as printed."""
    made = _ran(study, found)
    rows = list(dict.fromkeys(cell.row for cell in made))[::-1]
    crosses = _crosses(study, found)
    arms = [arm for arm in ARMS if any(cell.arm == arm for cell in made)]
    figure, (axes,) = grid_of_axes([""], 1, (7.4, 0.6 + 0.55 * len(rows)))
    for cell in made:
        y = rows.index(cell.row) + 0.3 - 0.15 * list(_STYLES).index(cell.arm)
        colour, _, marker = _STYLES[cell.arm]
        value = cell.value(_score(cell))
        if value is not None:
            axes.errorbar(value.mean, y, xerr=value.half, color=colour, marker=marker, markersize=5, capsize=2)
    for cell, share in crosses:
        if cell.row in rows:
            place = rows.index(cell.row) + 0.3 - 0.15 * list(_STYLES).index(cell.arm)
            axes.plot(share, place, color=_STYLES[cell.arm][0], marker="x", markersize=7, linestyle="none")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("M_GT(.95)", color=INK)
    _legend(figure, [*arms, *(cell.arm for cell, _ in crosses)], bool(crosses))
    return figure


def tau_figure(study: Study, found: Sequence[Outcome], similarity: str = "decoder_cosine") -> Figure:
    """M_GT against tau, a panel per row, the mean over worlds of every arm, over the scored features."""
    made = _ran(study, found)
    rows = list(dict.fromkeys(cell.row for cell in made))
    figure, grid = grid_of_axes(rows, 4, (2.5, 2.1))
    for cell in made:
        assert cell.found is not None
        axes, (colour, stroke, _) = grid[rows.index(cell.row)], _STYLES[cell.arm]
        tau = cell.found.records[0]["curves"]["tau"]
        axes.plot(tau, cell.found.curve("curves", similarity), color=colour, linestyle=stroke, linewidth=1.6)
    for axes in grid:
        axes.axvline(0.95, color=GREY, linewidth=0.8)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.supxlabel("τ", color=INK)
    figure.supylabel("M_GT(τ)", color=INK)
    _legend(figure, [arm for arm in ARMS if any(cell.arm == arm for cell in made)], False)
    return figure


def convergence_figure(study: Study, found: Sequence[Outcome]) -> Figure:
    """M_GT(.95) of the scored features (above) and FVU (below) over training, a column per method."""
    made = _ran(study, found)
    rows = list(dict.fromkeys(cell.row for cell in made))
    figure = Figure(figsize=(1.95 * len(rows) + 0.6, 3.9), layout="constrained")
    grid = figure.subplots(2, len(rows), squeeze=False, sharex=True, sharey="row")
    for cell in made:
        assert cell.found is not None
        colour, stroke, _ = _STYLES[cell.arm]
        column = rows.index(cell.row)
        for axes, series in ((grid[0][column], "M_GT"), (grid[1][column], "fvu")):
            values = cell.found.curve("training", series)
            steps = cell.found.records[0]["training"]["step"][: len(values)]
            axes.plot(steps, values, color=colour, linestyle=stroke, linewidth=1.5)
    for column, row in enumerate(rows):
        _tidy(grid[0][column], row)
        _tidy(grid[1][column], "")
        grid[1][column].set_yscale("log")
        grid[0][column].set_ylim(-0.04, 1.06)
    grid[0][0].set_ylabel("M_GT(.95)", color=INK)
    grid[1][0].set_ylabel("FVU", color=INK)
    figure.supxlabel("step", color=INK)
    _legend(figure, [arm for arm in ARMS if any(cell.arm == arm for cell in made)], False)
    return figure


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.grid(True, color="#e6e8eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(figure: Figure, arms: Sequence[str], printed: bool) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=stroke, marker=marker, markersize=4, label=arm)
        for arm, (colour, stroke, marker) in _STYLES.items()
        if arm in arms
    ]
    if printed:
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="none", label="as printed"))
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.5)))
    figure.legend(handles=handles, loc="outside upper right", ncols=columns, frameon=False, fontsize=8)


def study_figure(study: Study, found: Sequence[Outcome]) -> Figure | None:
    """A study's figure; None where it has none, or no run to draw."""
    return FIGURES[study.name](study, found) if study.name in FIGURES and _ran(study, found) else None


def _over(x_label: str, log: bool = False) -> _Draw:
    return lambda study, found: curve_figure(study, found, x_label, log)


FIGURES: Registry[_Draw] = Registry("figure")
FIGURES.add("table1", method_figure)
FIGURES.add("table4", _over("n (smaller scales: in proportion)", log=True))
FIGURES.add("table5", _over("largest interference M", log=True))
FIGURES.add("table6", _over("activation probability 1 - S (the default is .01)", log=True))
FIGURES.add("table7", _over("k (10 features are active on average)", log=True))
FIGURES.add("figure6", tau_figure)
FIGURES.add("samples", _over("rows over n", log=True))
FIGURES.add("convergence", convergence_figure)

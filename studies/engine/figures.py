"""Figures of studies on the bench: curves over what a study varies, M_GT against tau, and recovery over training."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.report import GREY, HEADLINE, INK, PALETTE, Interval, grid_of_axes
from studies.engine.bench import ARMS
from studies.engine.cells import Cell, Results

_STYLES: Mapping[str, tuple[str, Any, str]] = {
    "paper": (PALETTE[1], "--", "s"),
    "paper+anchors": (PALETTE[3], "-", "D"),
    "ours": (PALETTE[5], "--", "^"),
    "ours+anchors": (PALETTE[0], "-", "v"),
    "ours+discovered": (PALETTE[2], "-", "o"),
}
"""Colour, stroke and marker of each arm; plain arms are dashed."""


def curve_figure(x_label: str, log: bool = False) -> Callable[[Results], Figure | None]:
    """M_GT(.95) of decoder columns against what the study varies, a panel per method, with t intervals.

    Crosses are what the paper prints, in the colour of its arm.
    """

    def draw(results: Results) -> Figure | None:
        cells, crosses = _styled(results), _crosses(results)
        panels = list(dict.fromkeys(cell.method for cell in cells))
        if not panels:
            return None
        figure, grid = grid_of_axes(panels, 3, (3.1, 2.5) if len(panels) > 1 else (5.4, 2.9))
        for panel, axes in zip(panels, grid, strict=True):
            own = [cell for cell in cells if cell.method == panel]
            for arm in ARMS:
                _curve(axes, own, arm)
            for cell, share in crosses:
                if cell.method == panel:
                    _cross(axes, _x(cell.row), share, cell.arm)
            if log:
                _log_axis(axes, _apart(sorted({_x(cell.row) for cell in cells})))
            axes.set_ylim(-0.04, 1.06)
        figure.supxlabel(x_label, color=INK)
        figure.supylabel("M_GT(.95)", color=INK)
        _legend(figure, cells, crosses)
        return figure

    return draw


def method_figure(results: Results) -> Figure | None:
    """M_GT(.95) of every method, a mark per arm, crosses as printed."""
    cells, crosses = _styled(results), _crosses(results)
    rows = list(dict.fromkeys(cell.row for cell in cells))[::-1]
    if not rows:
        return None
    figure, (axes,) = grid_of_axes([""], 1, (7.4, 0.6 + 0.55 * len(rows)))

    def y(cell: Cell) -> float:
        return rows.index(cell.row) + 0.3 - 0.15 * list(_STYLES).index(cell.arm)

    for cell in cells:
        colour, _, marker = _STYLES[cell.arm]
        value = _score(cell)
        if value is not None:
            axes.errorbar(value.mean, y(cell), xerr=value.half, color=colour, marker=marker, markersize=5, capsize=2)
    for cell, share in crosses:
        if cell.row in rows:
            _cross(axes, share, y(cell), cell.arm)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("M_GT(.95)", color=INK)
    _legend(figure, cells, crosses)
    return figure


def tau_figure(results: Results) -> Figure | None:
    """M_GT by |cos| of decoder columns against tau, a panel per row, the mean over worlds, over the scored features."""
    cells = _styled(results)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    if not rows:
        return None
    figure, grid = grid_of_axes(rows, 4, (2.5, 2.1))
    for cell in cells:
        assert cell.ran is not None
        axes, (colour, stroke, _) = grid[rows.index(cell.row)], _STYLES[cell.arm]
        tau = cell.ran.records[0]["curves"]["tau"]
        axes.plot(tau, cell.ran.curve("curves", "decoder_cosine"), color=colour, linestyle=stroke, linewidth=1.6)
    for axes in grid:
        axes.axvline(0.95, color=GREY, linewidth=0.8)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.supxlabel("τ", color=INK)
    figure.supylabel("M_GT(τ)", color=INK)
    _legend(figure, cells)
    return figure


def convergence_figure(results: Results) -> Figure | None:
    """M_GT(.95) of the scored features (above) and FVU (below) over training, a column per method."""
    cells = _styled(results)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    if not rows:
        return None
    figure = Figure(figsize=(1.95 * len(rows) + 0.6, 3.9), layout="constrained")
    grid = figure.subplots(2, len(rows), squeeze=False, sharex=True, sharey="row")
    for cell in cells:
        assert cell.ran is not None
        colour, stroke, _ = _STYLES[cell.arm]
        for axes, series in zip(grid[:, rows.index(cell.row)], ("M_GT", "fvu"), strict=True):
            values = cell.ran.curve("training", series)
            steps = cell.ran.records[0]["training"]["step"][: len(values)]
            axes.plot(steps, values, color=colour, linestyle=stroke, linewidth=1.5)
    for column, row in enumerate(rows):
        _tidy(grid[0][column], row)
        _tidy(grid[1][column], "")
        grid[1][column].set_yscale("log")
        grid[0][column].set_ylim(-0.04, 1.06)
    grid[0][0].set_ylabel("M_GT(.95)", color=INK)
    grid[1][0].set_ylabel("FVU", color=INK)
    figure.supxlabel("step", color=INK)
    _legend(figure, cells)
    return figure


def _styled(results: Results) -> list[Cell]:
    return [cell for cell in results.ran if cell.arm in _STYLES]


def _crosses(results: Results) -> list[tuple[Cell, float]]:
    """Cells whose M_GT the paper prints, run or not, with that share."""
    return [(cell, cell.printed[0] / 100) for cell in results.cells if cell.printed[0] is not None]


def _x(row: str) -> float:
    """The number that a row's name holds: "n = 800" -> 800, "30 n rows, topk" -> 30."""
    number = re.search(r"\d+(\.\d+)?", row)
    assert number is not None
    return float(number[0])


def _apart(values: Sequence[float]) -> list[float]:
    """Those values that are far enough from the last one taken, of all drawn, to be read on a log axis."""
    step = max(1.2, (values[-1] / values[0]) ** 0.15) if values else 1.2
    taken = list(values[:1])
    for value in values:
        taken += [value] * (value >= step * taken[-1])
    return taken


def _score(cell: Cell) -> Interval | None:
    """Over every feature where the anchors were discovered in the rows, else over the scored ones."""
    return cell.value(cell.fair(HEADLINE))


def _log_axis(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log" if len(ticks) > 1 else "linear")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xticks([], minor=True)


def _curve(axes: Axes, cells: Sequence[Cell], arm: str) -> None:
    points = [(_x(cell.row), value) for cell in cells if cell.arm == arm and (value := _score(cell)) is not None]
    colour, stroke, marker = _STYLES[arm]
    if points:
        x, values = zip(*points, strict=True)
        y, half = [value.mean for value in values], [value.half or 0.0 for value in values]
        axes.errorbar(x, y, half, color=colour, linestyle=stroke, marker=marker, markersize=4, capsize=2)


def _cross(axes: Axes, x: float, y: float, arm: str) -> None:
    axes.plot(x, y, color=_STYLES[arm][0], marker="x", markersize=7, linestyle="none")


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.grid(True, color="#e6e8eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(figure: Figure, cells: Sequence[Cell], crosses: Sequence[tuple[Cell, float]] = ()) -> None:
    arms = {cell.arm for cell in [*cells, *(cell for cell, _ in crosses)]}
    handles = [
        Line2D([], [], color=colour, linestyle=stroke, marker=marker, markersize=4, label=arm)
        for arm, (colour, stroke, marker) in _STYLES.items()
        if arm in arms
    ]
    if crosses:
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="none", label="as printed"))
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.5)))
    figure.legend(handles=handles, loc="outside upper right", ncols=columns, frameon=False, fontsize=8)

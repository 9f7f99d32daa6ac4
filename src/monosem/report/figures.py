"""Figures of one section of records: recovery, M_GT against tau, training, similarity, and the L0-FVU plane."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem.report.style import GREY, INK, Style, grid_of_axes, plain_axes, styles
from monosem.report.summary import HEADLINE, Arm, Line, Section


def recovery_figure(section: Section) -> Figure:
    """The headline: M_GT(0.95) of every method, plain and anchored, with its interval over the seeds."""
    lines = section.lines[::-1]
    arms = max(len(line.arms) for line in lines)
    figure = Figure(figsize=(7.6, 0.8 + 0.22 * (arms + 1) * len(lines)), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    ticks = []
    for number, (line, style) in enumerate(zip(lines, styles(len(lines))[::-1], strict=True)):
        ticks.append(number)
        for place, arm in enumerate(line.arms):
            value = arm.interval(HEADLINE)
            if value is None:
                continue
            y = number + 0.5 * (0.5 * (len(line.arms) - 1) - place)
            axes.errorbar(
                value.mean, y, xerr=value.half, color=style.colour, capsize=3, linewidth=1.5, **_dot(arm, style)
            )
    axes.set_yticks(ticks, [line.label for line in lines])
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("M_GT(0.95): share of held-out features recovered", color=INK)
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
    _arm_legend(figure, section)
    return figure


def tau_figure(section: Section, similarity: str = "decoder_cosine") -> Figure:
    """M_GT against tau, a panel per method (the paper's figure 6): plain dashed, anchored solid, and what chance gives.

    Bands run from the lowest to the highest seed; crosses are random directions, rings the anchors alone, at the
    thresholds that records hold. The true directions themselves would lie at 1 for every tau below 1.
    """
    figure, grid = grid_of_axes([line.label for line in section.lines], 4, (2.6, 2.1))
    for line, style, axes in zip(section.lines, styles(len(section.lines)), grid, strict=True):
        for arm in line.arms:
            tau = arm.records[0]["curves"]["tau"]
            every = [record["curves"][similarity] for record in arm.records]
            low, high = ([f(values) for values in zip(*every, strict=True)] for f in (min, max))
            axes.fill_between(tau, low, high, color=style.colour, alpha=0.15, linewidth=0)
            axes.plot(tau, arm.curve("curves", similarity), color=style.colour, **_stroke(arm))
        _marks(axes, section, line, similarity)
        axes.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
        axes.axvline(0.95, color=GREY, linewidth=0.8)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.supxlabel("τ", color=INK)
    figure.supylabel("M_GT(τ)", color=INK)
    marks = [
        Line2D([], [], color=GREY, marker="x", linestyle="none", label="random directions"),
        Line2D([], [], color=GREY, linestyle=":", label="true directions"),
    ]
    if any(arm.anchored for arm in section.arms):
        ring = Line2D([], [], color=GREY, marker="o", fillstyle="none", linestyle="none", label="anchors alone")
        marks.insert(1, ring)
    _arm_legend(figure, section, marks, lines=True)
    return figure


def l0_fvu_figure(section: Section) -> Figure:
    """Sparsity against fidelity on held-out rows, with the oracle and the true L0: a panel per pairing."""
    figure, grid = grid_of_axes(section.pairings, 3, (3.6, 3.0))
    for pairing, axes in zip(section.pairings, grid, strict=True):
        for line, style in zip(section.lines, styles(len(section.lines)), strict=True):
            if line.pairing != pairing:
                continue
            for arm in line.arms:
                x, y = arm.interval("l0"), arm.interval("fvu")
                if x is not None and y is not None:
                    axes.plot(x.mean, y.mean, color=style.colour, linestyle="none", **_dot(arm, style))
            axes.plot([], [], color=style.colour, marker=style.marker, linestyle="none", label=line.label)
        l0, fvu = (section.reference(pairing, name, "oracle") for name in ("l0", "fvu"))
        if l0 is not None and fvu is not None:
            axes.plot(l0.mean, fvu.mean, color=INK, marker="*", markersize=11, linestyle="none", label="oracle")
        truth = section.reference(pairing, "true_l0", "value")
        if truth is not None:
            axes.axvline(truth.mean, color=GREY, linestyle="--", linewidth=1, label="true L0")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
        axes.set_ylim(bottom=min(-0.01, axes.get_ylim()[0]))
        axes.tick_params(labelleft=True)
    figure.supxlabel("L0: active latents per row", color=INK)
    figure.supylabel("FVU", color=INK)
    _arm_legend(figure, section)
    _legend_below(figure, grid)
    return figure


def _legend_below(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend of all panels, off the data."""
    shown = {label: mark for axes in grid for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def similarity_figure(lines: Sequence[Line]) -> Figure | None:
    """cos of true features (rows) with their best latents (columns), the lowest seed of each arm, plain above anchored.

    Recovery shows as a diagonal of ones; two features that share a latent show as two bright cells in one row.
    None when no record holds a map.
    """
    maps = [[(arm, arm.records[0]["similarity"]) for arm in line.arms] for line in lines]
    rows = max(len(column) for column in maps)
    if not any(cosines for column in maps for _, cosines in column):
        return None
    figure = Figure(figsize=(1.55 * len(lines) + 0.9, 1.75 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, len(lines), squeeze=False)
    image = None
    for number, (line, column) in enumerate(zip(lines, maps, strict=True)):
        grid[0][number].set_title(line.label, fontsize=8.5, color=INK)
        for row in range(rows):
            axes = grid[row][number]
            axes.set_xticks([])
            axes.set_yticks([])
            if row >= len(column) or column[row][1] is None:
                axes.set_visible(False)
                continue
            arm, cosines = column[row]
            image = axes.imshow(cosines["cosine"], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_xlabel(arm.name, fontsize=8.5, color=INK)
    if image is not None:
        figure.colorbar(image, ax=grid, label="cos", fraction=0.03, pad=0.01)
    return figure


def _marks(axes: Axes, section: Section, line: Line, similarity: str) -> None:
    """Chance and the anchors alone, at the thresholds that records hold."""
    for which, marker in (("chance", "x"), ("anchors_alone", "o")):
        prefix = f"{similarity}.M_GT@"
        names = [name for name in line.arms[0].records[0]["metrics"] if name.startswith(prefix)]
        values = [(float(name.removeprefix(prefix)), section.reference(line.pairing, name, which)) for name in names]
        points = [(tau, value.mean) for tau, value in values if value is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=GREY, marker=marker, fillstyle="none", markersize=5, linestyle="none", zorder=1)


def _dot(arm: Arm, style: Style) -> dict[str, Any]:
    """Plain hollow, anchored filled."""
    return {"marker": style.marker, "markerfacecolor": style.colour if arm.anchored else "white"}


def _stroke(arm: Arm) -> dict[str, Any]:
    """Plain dashed, anchored solid."""
    return {"linestyle": "-" if arm.anchored else "--"}


def _arm_legend(figure: Figure, section: Section, more: Sequence[Line2D] = (), lines: bool = False) -> None:
    handles: list[Line2D] = []
    strokes: tuple[tuple[str, Any, str], ...] = (("plain", "--", "white"), ("anchored", "-", GREY))
    for name, stroke, fill in strokes:
        if any(arm.name == name for arm in section.arms):
            line = Line2D([], [], color=GREY, linestyle=stroke, label=name)
            dot = Line2D([], [], color=GREY, marker="o", markerfacecolor=fill, linestyle="none", label=name)
            handles.append(line if lines else dot)
    handles += more
    columns = max(1, int(figure.get_figwidth() / 1.5))
    figure.legend(handles=handles, loc="outside upper right", ncols=columns, frameon=False, fontsize=9)

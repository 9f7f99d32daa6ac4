"""How figures look: Okabe and Ito's colours, one font size, and SVG text that is the same for the same data."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PALETTE = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito (2008), apart from yellow, which is hard to see on white."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
GREY, INK = "#8a8f98", "#1f2328"

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 10.0,
}


@dataclass(frozen=True)
class Style:
    """The colour and marker of one method, the same in every figure of a section."""

    colour: str
    marker: str


def styles(count: int) -> tuple[Style, ...]:
    """One style per line of a section; after eight the markers change."""
    return tuple(
        Style(PALETTE[i % len(PALETTE)], _MARKERS[(i + i // len(PALETTE)) % len(_MARKERS)]) for i in range(count)
    )


def plain_axes(axes: Axes) -> None:
    """Two spines, a light grid, dark grey ink."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK, which="both")
    axes.grid(True, color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def grid_of_axes(titles: Sequence[str], columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, `columns` in a row, axes shared; `size` is one panel's, in inches."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten().tolist()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, color=INK, loc="left")
        plain_axes(axes)
    for number, axes in enumerate(grid):
        if number >= len(titles):
            axes.set_visible(False)
        elif number + columns >= len(titles):
            axes.tick_params(labelbottom=True)
    return figure, grid[: len(titles)]


def panels(count: int = 1, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, each with axes of its own."""
    figure = Figure(figsize=(4.6 * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def tidy(axes: Axes, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Labels, a title and a legend on plain axes."""
    plain_axes(axes)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", color=INK)
    if legend:
        axes.legend(fontsize=8, frameon=False)


def to_svg(figure: Figure, label: str, transparent: bool = False) -> str:
    """The figure as one <svg> element with `label` for readers that do not see it; no dates, no unstable names."""
    text = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(
            text,
            format="svg",
            transparent=transparent,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s+id="[A-Za-z0-9.]+_\d+"', "", svg)  # figure_1, axes_2 ...: nothing points at them
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)

"""How figures look: Okabe and Ito's colours, one font size, and SVG text that is the same for the same data."""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monosem.base.files import write_atomic

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
    """A figure with up to three panels side by side, more in rows, each with axes of its own."""
    rows = -(-count // 3)
    columns = -(-count // rows)
    figure = Figure(figsize=(4.6 * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def tidy(axes: Axes, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Labels, a title and, below the data, a legend on plain axes."""
    plain_axes(axes)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", color=INK)
    if legend:
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def to_svg(figure: Figure, label: str) -> str:
    """The figure as one <svg> element with `label` for readers that do not see it; no dates, no unstable names."""
    text = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s+id="[A-Za-z0-9.]+_\d+"', "", svg)  # figure_1, axes_2 ...: nothing points at them
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


_DARK = {INK: "#e6edf3", "#000000": "#e6edf3", "#e6e8eb": "#30363d", "#f4f5f7": "#161b22", "#ffffff": "#0d1117"}
"""Ink, grid and white of a figure -> on a dark page."""


def on_any_page(svg: str) -> str:
    """A figure of `to_svg` without a background, and with light ink on a dark page.

    Example:
        >>> "prefers-color-scheme: dark" in on_any_page("<svg><style></style></svg>")
        True
    """
    rules = [
        f'[style*="{what}: {light}"] {{{what}: {dark} !important}}'
        for light, dark in _DARK.items()
        for what in ("fill", "stroke")
    ]
    rules.append(f'text:not([style*="fill"]) {{fill: {_DARK[INK]}}}')
    dark = f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
    return svg.replace('style="fill: #ffffff"', 'style="fill: none"').replace("</style>", dark, 1)


def _headed(svg: str, text: str) -> str:
    """The figure below a heading, which matplotlib would draw over legends that lie outside the panels."""
    size = re.search(r'height="([0-9.]+)pt" viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    assert size is not None
    height, width = float(size[1]), float(size[2])
    lines = textwrap.wrap(text, int(width / 6))
    own = 8 + 13 * len(lines)
    style = f"font: 10.5px 'DejaVu Sans', sans-serif; fill: {INK}"
    spans = [f'<text x="6" y="{14 + 13 * i}" style="{style}">{escape(line)}</text>' for i, line in enumerate(lines)]
    whole = f'height="{height + own:g}pt" viewBox="0 {-own} {width:g} {height + own:g}"'
    inside = f'<g transform="translate(0 {-own})">{"".join(spans)}</g>'
    return svg.replace(size[0], whole, 1).replace("</svg>", f"{inside}</svg>")


def write_figure(path: str | Path, figure: Figure, label: str) -> Path:
    """Write a figure as SVG for light and dark pages, whole or not at all; `label` says what it shows.

    The label is the heading of a figure whose panels have no sentence of their own.
    """
    svg = to_svg(figure, label)
    titles = [axes.get_title(loc="left") for axes in figure.axes] + [figure.get_suptitle()]
    if not any(title.count(" ") > 2 for title in titles):
        svg = _headed(svg, label)
    return write_atomic(path, on_any_page(svg).encode())

"""How the figures look: colours that colour-blind readers tell apart (Okabe and Ito), and nothing in the way."""

from typing import Any

Figure = Any
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#999999",
)
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE)


def new_figure(panels: int = 1, height: float = 3.2) -> tuple[Figure, list[Any]]:
    """A figure with panels side by side; no window system is touched."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(4.6 * panels, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def tidy(axis: Any, x: str, y: str, title: str = "", legend: bool = True) -> None:
    """Labels, title, a light grid and a legend."""
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        axis.legend(fontsize=8, frameon=False)

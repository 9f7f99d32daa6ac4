"""The figure of a speed record: steps of monosem and of other libraries, and how a step grows with each size."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import PEER_NAMES
from benchmarks.sizes import CASES
from benchmarks.summary import exponent, milliseconds, ratios, spread
from monosem.report import GREY, INK, PALETTE, plain_axes

_LABELS = {
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu_dense": "JumpReLU, dense",
    "relu_l1_dense": "ReLU, dense",
    "topk_auxk": "TopK, AuxK, half dead",
}


def speed_figure(record: Mapping[str, Any], size: str = "paper") -> Figure:
    """Left: steps in encoder products, one thread, lines from quartile to quartile. Right: growth of a TopK step."""
    cases = {name: c for name, c in record["sizes"][size]["cases"].items() if name in _LABELS}
    curves = record["curves"]
    figure = Figure(figsize=(11.0 if curves else 6.4, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(3, 2)).tolist() if curves else [figure.subplots()]
    _steps(panels[0], cases, size)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=8, frameon=False)
    if curves:
        _growth(panels[1], curves)
    return figure


def _steps(axes: Axes, cases: Mapping[str, Any], size: str) -> None:
    names = {"monosem": "monosem", **PEER_NAMES}
    colours = dict(zip(names, PALETTE, strict=False))
    height = 0.84 / len(names)
    labelled = set()
    for row, (name, contenders) in enumerate(cases.items()):
        present = [who for who in names if who in contenders]
        for place, who in enumerate(present):
            step = spread(ratios(contenders[who], CASES[name].states[0]).values())
            if step is None:
                continue
            y = row + (place - (len(present) - 1) / 2) * height
            label = None if who in labelled else names[who]
            labelled.add(who)
            axes.plot([step.low, step.high], [y, y], color=colours[who], linewidth=2.0)
            axes.plot(step.median, y, "o", color=colours[who], label=label, markersize=5)
            axes.annotate(
                f"{step.median:.1f}", (step.high, y), (6, 0), textcoords="offset points", va="center", fontsize=7
            )
        axes.axhspan(row - 0.48, row + 0.48, color="#f4f5f7" if row % 2 else "white", zorder=0)
    axes.set_yticks(range(len(cases)), [_LABELS[name] for name in cases])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.axvline(1.0, color=GREY, linewidth=1.2, linestyle="--")
    axes.set_xlim(0.85, 60)
    axes.set_xlabel("one step, in fp32 encoder products (one thread, processor time)")
    axes.set_title(f"monosem's training steps take the fewest products ({size} size)", color=INK, loc="left")
    plain_axes(axes)
    axes.grid(False, axis="y")


def _growth(axes: Axes, curves: Mapping[str, Any]) -> None:
    for (axis, points), colour in zip(curves.items(), PALETTE, strict=False):
        there = [(point["value"], ms.median) for point in points if (ms := milliseconds(point, "trained"))]
        values, costs = [value for value, _ in there], [cost for _, cost in there]
        slope, half = exponent(values, costs)
        label = f"{axis}: {slope:.2f} ± {half:.2f}"
        axes.plot([value / values[0] for value in values], costs, "o-", color=colour, label=label, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("size, over the least of its axis")
    axes.set_ylabel("ms of processor time")
    axes.set_title("Steps grow more slowly than sizes", color=INK, loc="left")
    plain_axes(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)

"""The table and figure of where discovery ends, from the records of its limits."""

from pathlib import Path
from statistics import mean
from typing import Any

from monosem.report.style import PALETTE, plain_axes, to_svg

FIGURE = Path("docs/figures/discovery-limits.svg")
AXES = (
    ("events", "events per feature"),
    ("noise", "noise, % of the energy"),
    ("active", "active features per row"),
    ("features", "features, 1.6 active"),
    ("ratio", "features per dimension"),
)
WAYS = (("one", "one run"), ("two_of_three", "two of three runs"), ("any_of_three", "any of three runs"))


def limits_table(records: list[dict[str, Any]], order: list[str]) -> str:
    """One line per cell: recall and precision, the mean over its worlds."""
    head = "| | worlds | rows | one run: recall | precision | L0 found, true | two of three: recall | precision |"
    lines = [head + " any of three: recall | precision |", "|---|" + "---:|" * 9]
    for axis, what in AXES:
        for place, record in _along(records, axis):
            one, *more = (_mean(record, way) for way, _ in WAYS)
            true = mean(world["true_l0"] for world in record["worlds"])
            cells = [f"{what}: {place:g}", str(len(record["worlds"])), str(record["rows"])]
            cells += [f"{one[0]:.2f}", f"{one[1]:.2f}", f"{one[2]:.2f}, {true:.2f}"]
            cells += [f"{value:.2f}" for scores in more for value in scores[:2]]
            lines.append("| " + " | ".join(cells) + " |")
    missing = [name for name in order if name not in {record["name"] for record in records}]
    return "\n".join([*lines, *(["", "Not run: " + ", ".join(missing) + "."] if missing else [])])


def limits_figure(records: list[dict[str, Any]]) -> None:
    """Recall (full) and precision (dashed) against what grows, one run beside what several agree on."""
    from matplotlib.figure import Figure

    drawn = [(axis, what) for axis, what in AXES[:3] if len(_along(records, axis)) > 1]
    figure = Figure(figsize=(2.8 * len(drawn), 3.0), layout="constrained")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, (axis, what) in zip(panels, drawn, strict=True):
        along = _along(records, axis)
        for colour, (way, label) in zip(PALETTE, WAYS, strict=False):
            places = [place for place, _ in along]
            for kind, line in ((0, "-"), (1, "--")):
                heights = [_mean(record, way)[kind] for _, record in along]
                axes.plot(places, heights, line, color=colour, linewidth=1.4, label=None if kind else label)
        axes.set(xlabel=what, ylim=(0, 1.03))
        if axis == "events":
            axes.set(xscale="log", ylabel="recall (full), precision (dashed)")
            axes.set_xticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
            axes.minorticks_off()
        plain_axes(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    FIGURE.write_text(to_svg(figure, "Recall and precision of discovery against events, noise and active features"))


def _along(records: list[dict[str, Any]], axis: str) -> list[tuple[float, dict[str, Any]]]:
    """The cells of one axis in order; noise begins at the cell without it."""
    found = [(float(r["name"].partition("/")[2]), r) for r in records if r["name"].startswith(axis + "/")]
    if axis == "noise":
        found += [(0.0, r) for r in records if r["name"] == "events/40"]
    return sorted(found, key=lambda pair: pair[0])


def _mean(record: dict[str, Any], way: str) -> tuple[float, float, float]:
    worlds = [world[way] for world in record["worlds"]]
    return mean(w["recall"] for w in worlds), mean(w["precision"] for w in worlds), mean(w["l0"] for w in worlds)

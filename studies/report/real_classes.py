"""Table 2 on real rows as a table and a figure: classes found by plain and anchored dictionaries."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.report.interval import interval
from studies.bench.printed import TABLE2
from studies.real.classes import CLASS_ARMS, CLASS_METHODS
from studies.report.study import NOT_RUN, StudyTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Record = Mapping[str, Any]
_PARTS = ("held_out", "anchored", "all")
_NONE = "-"
_HEAD = (
    "row",
    "arm",
    "runs",
    "paper",
    "held out",
    "anchored",
    "all",
    "held out >.8",
    "all >.8",
    "FVU",
    "gain",
    "beyond joined",
)


def _score(record: _Record, part: str, what: str = "M_IP", who: str = "value") -> float:
    return float(record["metrics"][f"{part}.decoder_cosine.{what}"][who])


def class_tables(records: Sequence[_Record]) -> tuple[StudyTable, StudyTable]:
    """Per set and method, plain and anchored: mean best |cos| of class means, counted over held-out, anchored and all
    classes, and the gains on held-out classes, paired by seed; beside them the paper's table (other rows: CLIP)."""
    lines = []
    for data, name in [(data, name) for data in _sets(records) for name in CLASS_METHODS]:
        arms = {kind: _arm(records, data, name, kind == "anchored") for kind in CLASS_ARMS}
        plain = {r["seed"]["train"]: r for r in arms["plain"]}
        pairs = [(plain[r["seed"]["train"]], r) for r in arms["anchored"] if r["seed"]["train"] in plain]
        gains = [
            interval(_score(anchored, "held_out") - _score(before, part) for before, anchored in pairs).text(sign=True)
            if pairs
            else _NONE
            for part in ("held_out", "held_out_joined")
        ]
        row = f"{data.removeprefix('real/')}, {name}"
        for kind, arm in arms.items():
            share, mean = TABLE2[name, kind]
            if not arm:
                lines.append((row, kind, NOT_RUN, f"{share:g} / {mean:.3f}", *[_NONE] * 8))
                continue
            shown = [f"{np.mean([_score(r, part) for r in arm]):.3f}" for part in _PARTS]
            shown += [f"{np.mean([_score(r, part, 'M_GT@0.8') for r in arm]):.1%}" for part in _PARTS[::2]]
            shown.append(f"{np.mean([r['metrics']['fvu']['value'] for r in arm]):.3f}")
            added = gains if kind == "anchored" else [_NONE, _NONE]
            lines.append((row, kind, str(len(arm)), f"{share:g} / {mean:.3f}", *shown, *added))
        if name == CLASS_METHODS[-1]:
            lines += _untrained(records, data)
    return (
        StudyTable("Classes found", _HEAD[:7], tuple(line[:7] for line in lines)),
        StudyTable(
            "Shares, error and gains", (*_HEAD[:2], *_HEAD[7:]), tuple((*line[:2], *line[7:]) for line in lines)
        ),
    )


def _untrained(records: Sequence[_Record], data: str) -> list[tuple[str, ...]]:
    """The anchors alone and random directions, on the classes of a set."""
    first = next((r for r in records if r["task"]["name"] == data and r["anchors"]), None)
    if first is None:
        return []
    lines = []
    for who, title in (("anchors_alone", "the anchors alone"), ("chance", "random directions")):
        shown = [f"{_score(first, part, 'M_IP', who):.3f}" for part in _PARTS]
        shown += [f"{_score(first, part, 'M_GT@0.8', who):.1%}" for part in _PARTS[::2]]
        lines.append((f"{data.removeprefix('real/')}, untrained", title, _NONE, _NONE, *shown, *[_NONE] * 3))
    return lines


def _sets(records: Sequence[_Record]) -> list[str]:
    return list(dict.fromkeys(r["task"]["name"] for r in records))


def _arm(records: Sequence[_Record], data: str, name: str, anchored: bool) -> list[_Record]:
    own = [r for r in records if (r["task"]["name"], r["method"]["name"]) == (data, name)]
    return sorted((r for r in own if bool(r["anchors"]) == anchored), key=lambda r: r["seed"]["train"])


def class_figure(records: Sequence[_Record]) -> "Figure":
    """Per set a panel: held-out and all classes, plain and anchored; every seed a point."""
    from matplotlib.figure import Figure

    from monosem.report.style import GREY, PALETTE, plain_axes

    sets = _sets(records)
    figure = Figure(figsize=(2.8 + 3.2 * len(sets), 3.4), layout="constrained")
    for axes, data in zip(np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True):
        for place, name in enumerate(CLASS_METHODS):
            for arm, part, colour, marker, shift, label in (
                ("plain", "held_out", GREY, "o", -0.26, "plain, held out"),
                ("plain", "held_out_joined", PALETTE[1], "D", -0.13, "plain joined with anchors, held out"),
                ("anchored", "held_out", PALETTE[0], "o", 0.0, "anchored, held out"),
                ("plain", "all", GREY, "s", 0.2, "plain, all"),
                ("anchored", "all", PALETTE[0], "s", 0.33, "anchored, all"),
            ):
                own = _arm(records, data, name, arm == "anchored")
                x, fill = np.full(len(own), place + shift), "none" if part == "all" else colour
                axes.plot(
                    x, [_score(r, part) for r in own], marker, c=colour, mfc=fill, ms=5, label=label * (not place)
                )
        own = [r for r in records if r["task"]["name"] == data]
        first = next((r for r in own if r["anchors"]), own[0])
        for who, dashes in (("anchors_alone", "--"), ("chance", ":")):
            label = f"{who.replace('_', ' ')}, held out"
            if who == "chance" or first["anchors"]:
                axes.axhline(_score(first, "held_out", "M_IP", who), color=PALETTE[1], linestyle=dashes, label=label)
        axes.set_title(f"{data.removeprefix('real/')}, {first['task']['spec']['classes']} classes")
        axes.set_xticks(range(len(CLASS_METHODS)), CLASS_METHODS)
        plain_axes(axes)
    figure.axes[0].set(ylabel="best |cos| of a class mean, averaged", ylim=(0, 1))
    shown = [handle for handle in figure.axes[-1].get_legend_handles_labels()[0] if handle.get_label()]
    figure.axes[-1].legend(handles=shown, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure

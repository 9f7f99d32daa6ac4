"""Figure 7 on real rows as a table and a figure: what died in training, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.report.interval import interval
from studies.real.resampling import REMEDIES
from studies.report.study import NOT_RUN, StudyTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Record = Mapping[str, Any]
_HEAD = (
    "row",
    "arm",
    "runs",
    "highest",
    "at the end",
    "silent",
    "FVU",
    "against none",
)


def _arm(records: Sequence[_Record], arm: str) -> list[_Record]:
    """The records of an arm, by seed."""
    own = [r for r in records if r["method"]["name"].partition("-")[2] == arm.replace(" ", "_")]
    return sorted(own, key=lambda record: record["seed"]["train"])


def remedy_tables(records: Sequence[_Record]) -> tuple[StudyTable]:
    """Per arm what died and what it cost, at the end of training and on fresh rows, with 95 % t intervals."""
    plain = {r["seed"]["train"]: r for r in _arm(records, REMEDIES[0])}
    data = str(records[0]["task"]["name"]).removeprefix("real/")
    lines: list[tuple[str, ...]] = []
    for arm in REMEDIES:
        own = _arm(records, arm)
        if not own:
            lines.append((data, arm, NOT_RUN, *["-"] * 5))
            continue
        shown = [
            interval(max(r["training"]["dead"]) for r in own),
            interval(r["training"]["dead"][-1] for r in own),
            interval(r["metrics"]["dead"]["value"] for r in own),
            interval(_fvu(r) for r in own),
        ]
        pairs = [_fvu(r) - _fvu(plain[r["seed"]["train"]]) for r in own if r["seed"]["train"] in plain]
        against = interval(pairs).text(sign=True) if pairs and arm != REMEDIES[0] else "-"
        lines.append((data, arm, str(len(own)), *(one.text() for one in shown), against))
    return (StudyTable("Dead latents", _HEAD, tuple(lines)),)


def _fvu(record: _Record) -> float:
    return float(record["metrics"]["fvu"]["value"])


def remedy_figure(records: Sequence[_Record]) -> "Figure":
    """Two panels over training: the share of dead latents, and the error on the rows of the step."""
    from matplotlib.figure import Figure

    from monosem.report.style import plain_axes, styles

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, style in zip(REMEDIES, styles(len(REMEDIES)), strict=True):
        own = [record["training"] for record in _arm(records, arm)]
        if not own:
            continue
        for axes, name in ((left, "dead"), (right, "fvu")):
            values = np.array([training[name] for training in own])
            axes.plot(own[0]["step"], values.mean(0), color=style.colour, label=arm)
            axes.fill_between(own[0]["step"], values.min(0), values.max(0), color=style.colour, alpha=0.2, linewidth=0)
    left.set(xlabel="step", ylabel="share of latents that are dead", ylim=(0, None))
    right.set(xlabel="step", ylabel="FVU of the step's rows", yscale="log")
    right.set_yticks([0.3, 0.4, 0.6, 1.0, 2.0], ["0.3", "0.4", "0.6", "1", "2"])
    right.minorticks_off()
    for axes in (left, right):
        plain_axes(axes)
    left.legend(frameon=False)
    return figure

"""Curves of one section of records as data that the page's script draws: M_GT against tau, and logged series."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from monosem.report.style import GREY, INK, styles
from monosem.report.summary import Arm, Line, Section

SIMILARITY_NAMES = {
    "decoder_cosine": "decoder columns, |cos| (headline)",
    "decoder_signed": "decoder columns, cos",
    "encoder_raw": "encoder rows, inner product (the paper's)",
    "encoder_cosine": "encoder rows, |cos|",
}
"""Kinds of similarity that every record holds a curve of."""
SERIES = {"fvu": "FVU", "loss": "total loss", "l0": "L0", "dead": "share of dead latents"}
"""Series over training that every record holds. The total loss of anchored runs holds the anchoring term."""

Chart = dict[str, Any]
"""title, x (a label), log, perhaps range (of y), at (places); lines: label, colour, dash or points, values or None."""


def tau_charts(section: Section) -> list[Chart]:
    """M_GT against tau by similarity: the mean over seeds, chance, and the anchors alone at the stored thresholds."""
    charts = []
    for kind, title in SIMILARITY_NAMES.items():
        tau = section.records[0]["curves"]["tau"]
        lines = [_line(line, arm, colour, arm.curve("curves", kind)) for line, arm, colour in _arms(section)]
        for pairing in section.pairings:
            for which, name, colour in (("chance", "random directions", GREY), ("anchors_alone", "anchors alone", INK)):
                values = _stored(section, pairing, which, kind, tau)
                if any(value is not None for value in values):
                    lines.append({"label": f"{name}, {pairing}", "colour": colour, "points": True, "values": values})
        charts.append({"title": title, "x": "τ", "log": False, "range": [0, 1.02], "at": list(tau), "lines": lines})
    return charts


def training_charts(section: Section) -> list[Chart]:
    """Every logged series over training, the mean over seeds."""
    charts = []
    for series, title in SERIES.items():
        arms = list(_arms(section))
        steps = sorted({step for _, arm, _ in arms for step in arm.records[0]["training"]["step"]})
        lines = []
        for line, arm, colour in arms:
            by_step = dict(zip(arm.records[0]["training"]["step"], arm.curve("training", series), strict=False))
            lines.append(_line(line, arm, colour, (by_step.get(step) for step in steps)))
        values = [value for line in lines for value in line["values"] if value is not None]
        positive = bool(values) and min(values) > 0
        charts.append({"title": title, "x": "step", "log": positive, "at": steps, "lines": lines})
    return charts


def _arms(section: Section) -> Iterable[tuple[Line, Arm, str]]:
    for line, style in zip(section.lines, styles(len(section.lines)), strict=True):
        for arm in line.arms:
            yield line, arm, style.colour


def _line(line: Line, arm: Arm, colour: str, values: Iterable[float | None]) -> dict[str, Any]:
    """Plain dashed, anchored solid."""
    rounded = [None if value is None or math.isnan(value) else float(f"{value:.4g}") for value in values]
    return {"label": f"{line.label} {arm.name}", "colour": colour, "dash": not arm.anchored, "values": rounded}


def _stored(section: Section, pairing: str, which: str, kind: str, tau: Sequence[float]) -> list[float | None]:
    """The references of M_GT, at every tau that has a score."""
    stored = (section.reference(pairing, f"{kind}.M_GT@{at}", which) for at in tau)
    return [None if value is None else float(f"{value.mean:.4g}") for value in stored]

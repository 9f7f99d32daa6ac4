"""Tables for the terminal: the scores of a bench, of one model, of one training."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from monosem.report.interval import Interval
from monosem.report.summary import HEADLINE, Arm, Line, Section

COLUMNS = (
    ("M_GT", HEADLINE, 3),
    ("M_IP", "decoder_cosine.M_IP", 3),
    ("signed", "decoder_signed.M_IP", 3),
    ("E raw", "encoder_raw.M_IP", 3),
    ("E cos", "encoder_cosine.M_IP", 3),
    ("L0", "l0", 1),
    ("FVU", "fvu", 3),
    ("dead", "dead", 2),
)
"""Columns of the second table: title, metric, digits."""


def section_table(section: Section) -> RenderableType:
    """The headline (plain, anchored, gain), every other score, and what the columns mean; 80 columns wide."""
    return Group(_headline(section), _scores(section), _legend(section))


def _headline(section: Section) -> Table:
    table = _table(f"{section.task}: M_GT(.95) of decoder columns on held-out features")
    for column in ("plain", "anchored", "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    for line in section.lines:
        plain = "" if line.plain is None else _score(line.plain)
        for arm in line.anchored:
            table.add_row(line.label, plain, _score(arm), _gain(line, arm))
        if not line.anchored:
            table.add_row(line.label, plain, "", "")
    return table


def _scores(section: Section) -> Table:
    table = _table("")
    table.add_column("", no_wrap=True)
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for line in section.lines:
        for arm in line.arms:
            values = (_text(arm.interval(metric), digits) for _, metric, digits in COLUMNS)
            table.add_row(line.label if arm is line.arms[0] else "", "anch." if arm.anchored else "plain", *values)
    table.add_section()
    for pairing in section.pairings:
        for which, name in (("chance", "chance"), ("anchors_alone", "anch."), ("oracle", "oracle")):
            cells = [_text(section.reference(pairing, metric, which), digits) for _, metric, digits in COLUMNS]
            if any(cells):
                table.add_row(pairing, name, *cells, style="dim")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    table.add_column("method", style="cyan", no_wrap=True)
    return table


def _score(arm: Arm) -> str:
    value = arm.interval(HEADLINE)
    return "" if value is None else value.text()


def _gain(line: Line, arm: Arm) -> Text:
    """Green or red only where the interval leaves out 0."""
    gain = line.gain(arm)
    if gain is None:
        return Text("")
    sure = gain.half is not None and abs(gain.mean) > gain.half
    return Text(gain.text(sign=True), style="" if not sure else "green" if gain.mean > 0 else "red")


def _text(value: Interval | None, digits: int) -> str:
    return "" if value is None else f"{value.mean:.{digits}f}"


def _legend(section: Section) -> Table:
    worlds = len({record["seed"]["world"] for record in section.records})
    truth = section.reference(section.pairings[0], "true_l0", "value")
    over = f"mean ± 95 % t interval over {worlds} worlds" if worlds > 1 else "one world, so without interval"
    lines = {
        "M_GT(.95)": f"share of held-out features that a decoder column meets at |cos| > .95; {over}",
        "gain": "anchored - plain, world by world" + ("; coloured where the interval leaves out 0" * (worlds > 1)),
        "M_IP": "mean best |cos| of decoder columns; signed: the same of cos",
        "E raw": "the paper's inner product of encoder rows, not scale free; E cos: their |cos|",
        "L0": "active latents" + (f" (true: {truth.mean:.1f})" if truth else "") + "; dead: share that never fires",
        "below": "random directions; the anchors alone, untrained; true directions with nonnegative OMP",
    }
    grid = Table.grid(padding=(0, 1))
    for name, text in lines.items():
        grid.add_row(name, text, style="dim")
    return grid


def score_table(metrics: Mapping[str, Mapping[str, Any]], title: str) -> RenderableType:
    """One model's scores: every similarity by threshold, then the other metrics, with chance and oracle."""
    kinds = list(dict.fromkeys(name.removesuffix(".M_IP") for name in metrics if name.endswith(".M_IP")))
    return Group(_recovery(metrics, kinds, title), _others(metrics, kinds))


def _recovery(metrics: Mapping[str, Mapping[str, Any]], kinds: list[str], title: str) -> Table:
    thresholds = [name.partition("@")[2] for name in metrics if name.startswith(f"{kinds[0]}.M_GT@")]
    recovery = _table(title)
    recovery.columns[0].header = "similarity"
    for column in (*(f"M_GT({tau[1:]})" for tau in thresholds), "M_IP", "chance"):
        recovery.add_column(column, justify="right", no_wrap=True)
    for kind in kinds:
        names = [*(f"{kind}.M_GT@{tau}" for tau in thresholds), f"{kind}.M_IP"]
        cells = [_cell(metrics[name], "value") for name in names]
        style = "bold" if HEADLINE.startswith(f"{kind}.") else ""
        recovery.add_row(kind, *cells, _cell(metrics[names[-1]], "chance"), style=style)
    return recovery


def _others(metrics: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> Table:
    others = _table("")
    others.columns[0].header = ""
    columns = ("value", "chance", "oracle")
    for column in columns:
        others.add_column(column, justify="right")
    for name, row in metrics.items():
        if not name.startswith(tuple(f"{kind}." for kind in kinds)):
            others.add_row(name, *(_cell(row, column) for column in columns))
    return others


def _cell(row: Mapping[str, Any], which: str) -> str:
    value = row.get(which)
    return "" if value is None else f"{value:.3f}"


def values_table(rows: Mapping[str, str], title: str = "") -> Table:
    """Names and values, one per line."""
    table = Table(title=title or None, title_style="bold", title_justify="left", box=None, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table

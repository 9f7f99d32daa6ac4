"""Tables for the terminal, as wide as it is: the scores of a bench, of one model, of one training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
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
_GAP = 2
_LEAST = 14
"""To how few places the first column is folded, so that all others fit."""

Cell = str | Text


@dataclass
class Sheet:
    """A table that no terminal cuts: where columns do not fit, the first is folded, or else they follow below.

    There the first `keys` columns come again.
    """

    title: str
    heads: Sequence[str]
    keys: int = 1
    rows: list[tuple[Sequence[Cell], str]] = field(default_factory=list)

    def add(self, *cells: Cell, style: str = "") -> None:
        """One row."""
        self.rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """A table for each set of columns that fits."""
        for number, columns in enumerate(self._sets(options.max_width)):
            title = self.title if number == 0 else None
            table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
                          padding=(0, _GAP, 0, 0))  # fmt: skip
            for column in columns:
                key = column < self.keys
                table.add_column(
                    self.heads[column],
                    style="cyan" if column == 0 else None,
                    justify="left" if key else "right",
                    overflow="fold",
                    no_wrap=not key,
                )
            for cells, style in self.rows:
                table.add_row(*(cells[column] for column in columns), style=style)
            yield table

    def _sets(self, width: int) -> list[list[int]]:
        """The columns of each table."""
        wide = [
            max(cell_len(str(cell)) for cell in (head, *(cells[column] for cells, _ in self.rows))) + _GAP
            for column, head in enumerate(self.heads)
        ]
        spare = width - sum(wide[1:])
        if spare >= _LEAST:
            wide[0] = min(wide[0], spare)
        keys = list(range(self.keys))
        sets, left = [list(keys)], width - sum(wide[: self.keys])
        for column in range(self.keys, len(self.heads)):
            if wide[column] > left and len(sets[-1]) > self.keys:
                sets.append(list(keys))
                left = width - sum(wide[: self.keys])
            sets[-1].append(column)
            left -= wide[column]
        return sets


def section_table(section: Section) -> RenderableType:
    """The headline (plain, anchored, gain), every other score, and what the columns mean."""
    return Group(_headline(section), _scores(section), _legend(section))


def _headline(section: Section) -> Sheet:
    title = f"{section.task}: M_GT(.95) of decoder columns on held-out features"
    sheet = Sheet(title, ("method", "plain", "anchored", "gain"))
    for line in section.lines:
        plain = "" if line.plain is None else _score(line.plain)
        for arm in line.anchored:
            sheet.add(line.label, plain, _score(arm), _gain(line, arm))
        if not line.anchored:
            sheet.add(line.label, plain, "", "")
    return sheet


def _scores(section: Section) -> Sheet:
    sheet = Sheet("", ("method", "", *(title for title, _, _ in COLUMNS)), keys=2)
    for line in section.lines:
        for arm in line.arms:
            values = (_text(arm.interval(metric), digits) for _, metric, digits in COLUMNS)
            sheet.add(line.label if arm is line.arms[0] else "", "anch." if arm.anchored else "plain", *values)
    for pairing in section.pairings:
        for which, name in (("chance", "chance"), ("anchors_alone", "anch."), ("oracle", "oracle")):
            cells = [_text(section.reference(pairing, metric, which), digits) for _, metric, digits in COLUMNS]
            if any(cells):
                sheet.add(pairing, name, *cells, style="dim")
    return sheet


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


def _recovery(metrics: Mapping[str, Mapping[str, Any]], kinds: list[str], title: str) -> Sheet:
    thresholds = [name.partition("@")[2] for name in metrics if name.startswith(f"{kinds[0]}.M_GT@")]
    sheet = Sheet(title, ("similarity", *(f"M_GT({tau[1:]})" for tau in thresholds), "M_IP", "chance"))
    for kind in kinds:
        names = [*(f"{kind}.M_GT@{tau}" for tau in thresholds), f"{kind}.M_IP"]
        cells = [_cell(metrics[name], "value") for name in names]
        style = "bold" if HEADLINE.startswith(f"{kind}.") else ""
        sheet.add(kind, *cells, _cell(metrics[names[-1]], "chance"), style=style)
    return sheet


def _others(metrics: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> Sheet:
    columns = ("value", "chance", "oracle")
    sheet = Sheet("", ("", *columns))
    for name, row in metrics.items():
        if not name.startswith(tuple(f"{kind}." for kind in kinds)):
            sheet.add(name, *(_cell(row, column) for column in columns))
    return sheet


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

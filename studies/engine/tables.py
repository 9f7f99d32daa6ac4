"""A study as tables: what the paper prints, what our runs give, and what anchors add to the plain runs next to them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from monosem.report import HEADLINE, Interval, table
from studies.engine.cells import COS_IP, RAW_GT, RAW_IP, Cell, Results
from studies.page import provenance

NONE = "-"
MEANING = {
    "paper": "M_GT in percent / M_IP as printed; - where the paper prints none",
    "raw": "M_GT(.95) in percent / M_IP of the scored features by the inner product of encoder rows, as the paper "
    "defines them: not scale free",
    "cosine": "the same by |cos| of decoder columns, the headline, ± half the 95 % t interval of M_GT over the worlds",
    "all": "the same by |cos| of decoder columns over every feature, anchored ones included",
    "gain": "M_GT in points and M_IP (|cos| of decoder columns) minus the plain run of the same settings in the same "
    "world, on the same features, ± half the 95 % t interval of the differences",
    "anchors": "how many; where discovered also (precision, recall) at |cos| > .95",
    "alone": "M_GT / M_IP of the untrained anchors as the whole dictionary: over every feature where they were "
    "discovered, over the scored ones where they are true features",
    "beyond": "M_GT in points and M_IP of the run minus those of its anchors alone, over the same features",
    "chance": "M_GT / M_IP of as many random unit directions as there are latents",
    "FVU": "fraction of variance unexplained on held-out rows",
    "L0": "active latents per held-out row",
}
"""What the columns of the usual tables are."""


@dataclass(frozen=True)
class Table:
    """A table: its title, the names of its columns (row and arm come first), and its lines."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown."""
        return table([self.head, *self.lines])

    def text(self) -> str:
        """For a terminal of 80 columns: a line for each arm below the name of its row."""
        head, lines = ("", *self.head[2:]), [(f"  {line[1]}", *map(_short, line[2:])) for line in self.lines]
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

        def line(row: Sequence[str]) -> str:
            first = f"{row[0]:<{widths[0]}}"
            return "  ".join([first, *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()

        shown, last = [self.title, line(head)], ""
        for whole, short in zip(self.lines, lines, strict=True):
            shown += [whole[0]] * (whole[0] != last) + [line(short)]
            last = whole[0]
        return "\n".join(shown)


def tables(results: Results) -> list[Table]:
    """The tables of a study that have lines."""
    made = (results.study.tables or bench_tables)(results)
    return [one for one in made if one.lines]


def bench_tables(results: Results) -> list[Table]:
    """Three tables: ours beside the paper's numbers, what anchors add, and what else is known of the runs."""
    place = ("row", "arm")
    first = [(cell.row, cell.arm, cell.runs, printed_text(*cell.printed), *_scores(cell)) for cell in results.cells]
    second = [(cell.row, cell.arm, *_added(cell)) for cell in results.ran if cell.ran and cell.ran.anchored]
    third = [(cell.row, cell.arm, *_references(cell)) for cell in results.ran]
    return [
        Table("Beside the paper", (*place, "runs", "paper", "raw", "cosine", "all"), tuple(first)),
        Table("What anchors add", (*place, "gain", "alone", "beyond"), tuple(second)),
        Table("Beside the runs", (*place, "anchors", "chance", "FVU", "L0"), tuple(third)),
    ]


def markdown(results: Results) -> str:
    """The tables as Markdown, each under its title."""
    return "\n\n".join(f"**{one.title}**\n\n{one.markdown()}" for one in tables(results))


def text(results: Results) -> str:
    """The tables for a terminal, and what their columns are."""
    study, made = results.study, tables(results)
    total = len(results.outcomes)
    ran = f"{results.there} of {total} runs." if results.there else f"Not run ({total} runs)."
    shown = [one.text() for one in made] or ([study.says(results)] if study.says and results.there else [])
    return "\n\n".join([study.title, ran, *shown, *([_legend(results, made)] if made else [])]) + "\n"


def _legend(results: Results, made: Sequence[Table]) -> str:
    """What the columns of these tables are."""
    named = {name for one in made for name in one.head}
    meaning = results.study.columns or MEANING
    return "\n".join(f"{name}: {what}" for name, what in meaning.items() if named & set(name.split(", ")))


def facts(results: Results) -> str:
    """What was run, in a sentence: how many runs of how many, their task, length, machines and commits."""
    total, runs = len(results.outcomes), results.records
    if not runs:
        return f"Not run ({total} cells)."
    tasks = sorted({record["task"]["name"] for record in runs})
    steps = sorted({f"{record['config']['steps']} steps of {record['config']['batch_size']} rows" for record in runs})
    worlds = sorted({record["seed"]["world"] for record in runs})
    minutes = sum(record["wall_time_s"] / record["env"].get("stacked", 1) for record in runs) / 60
    return (
        f"{results.there} of {total} cells run, {len(runs)} runs of {', '.join(f'`{name}`' for name in tasks)}, "
        f"worlds {', '.join(map(str, worlds))}; {'; '.join(steps)}; {minutes:.0f} minutes of run time in all; "
        f"{provenance(runs)}."
    )


def _short(cell: str) -> str:
    """ "25.0 ± 6.5 / 0.625" -> "25.0±6.5/.625"."""
    return re.sub(r"(?<![\d.])0\.(?=\d{3})", ".", cell).replace(" ± ", "±").replace(" / ", "/")


def printed_text(share: float | None, mean: float | None) -> str:
    """A printed cell: M_GT in percent / M_IP."""
    if share is None and mean is None:
        return NONE
    return f"{NONE if share is None else f'{share:g}'} / {NONE if mean is None else f'{mean:.3f}'}"


def _pair(share: Interval | None, mean: Interval | None, spread: bool = False, sign: bool = False) -> str:
    """M_GT in percent and M_IP, of which either may be missing."""
    if share is None and mean is None:
        return NONE
    percent = share and scaled(share, 100)
    left = NONE if percent is None else percent.text(1, sign) if spread else f"{percent.mean:{'+' * sign}.1f}"
    right = NONE if mean is None else f"{mean.mean:{'+' * sign}.3f}"
    return f"{left} / {right}"


def scaled(value: Interval, factor: float) -> Interval:
    """The interval of a multiple."""
    return Interval(factor * value.mean, None if value.half is None else factor * value.half, value.n)


def _scores(cell: Cell) -> tuple[str, str, str]:
    """By the raw inner product, by the decoder cosine, and by that over every feature."""
    pairs = ((RAW_GT, RAW_IP), (HEADLINE, COS_IP), (f"all.{HEADLINE}", f"all.{COS_IP}"))
    raw, cosine, every = ((cell.value(share), cell.value(mean)) for share, mean in pairs)
    return _pair(*raw), _pair(*cosine, spread=True), _pair(*every)


def _added(cell: Cell) -> tuple[str, str, str]:
    """Gain over plain, what the anchors are alone, and what the run is beyond them."""
    share, mean = (cell.value(cell.fair(metric), "anchors_alone") for metric in (HEADLINE, COS_IP))
    gain = _pair(cell.gain(), cell.gain(COS_IP), spread=True, sign=True)
    return gain, _pair(share, mean), _pair(cell.beyond(), cell.beyond(COS_IP), spread=True, sign=True)


def _references(cell: Cell) -> tuple[str, str, str, str]:
    chance = _pair(cell.value(HEADLINE, "chance"), cell.value(COS_IP, "chance"))
    fvu, l0 = cell.value("fvu"), cell.value("l0")
    return (
        _anchors(cell),
        chance,
        NONE if fvu is None else f"{fvu.mean:.3f}",
        NONE if l0 is None else f"{l0.mean:.1f}",
    )


def _anchors(cell: Cell) -> str:
    if cell.ran is None or not cell.ran.anchored:
        return NONE
    count, precision, recall = (cell.value(f"anchors.{name}") for name in ("count", "precision", "recall"))
    shown = str(cell.ran.records[0]["anchors"]["k"]) if count is None else f"{count.mean:.0f}"
    if cell.discovered and precision is not None and recall is not None:
        shown += f" ({precision.mean:.3f}, {recall.mean:.3f})"
    return shown

"""A study as tables: what the paper prints, what our runs give, and what anchors add to the plain runs beside them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monosem.base.spec import parse_call
from monosem.bench.records import outdated
from monosem.report.interval import Interval, interval_of
from monosem.report.summary import HEADLINE, Arm, Record
from studies.bench.base import ARMS, Study
from studies.bench.queue import Outcome, run_key

NOT_RUN = "not run"
_IP, _RAW_GT, _RAW_IP = "decoder_cosine.M_IP", "encoder_raw.M_GT@0.95", "encoder_raw.M_IP"
_NONE = "-"

MEANING = {
    "paper": "M_GT in percent / M_IP as printed; - where the paper prints none",
    "raw": "M_GT(.95) in percent / M_IP of the scored features by the inner product of encoder rows, as the paper "
    "defines them: not scale free",
    "cosine": "the same by |cos| of decoder columns, the headline, ± half the 95 % t interval of M_GT over the worlds",
    "all": "the same by |cos| of decoder columns over every feature, anchored ones included",
    "gain": "M_GT in points and M_IP (|cos| of decoder columns) minus the plain run of the same settings in the same "
    "world, on the same features that are anchored in neither, ± half the 95 % t interval of the differences",
    "anchors": "how many; for a found set also (precision, recall) at |cos| > .95",
    "alone": "M_GT / M_IP of the untrained anchors as the whole dictionary: over every feature where the anchors were "
    "found in the rows, over the scored ones where they are true features",
    "beyond": "M_GT in points and M_IP of the run minus those of its anchors alone, over the same features",
    "chance": "M_GT / M_IP of as many random unit directions as there are latents",
    "FVU": "fraction of variance unexplained on held-out rows",
    "L0": "active latents per held-out row",
}
"""What the columns of a study's tables are."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One row and arm of a study: its runs where there are some, how many are wanted, and the plain run of each."""

    row: str
    arm: str
    method: str
    wanted: int
    found: Arm | None
    plain: Mapping[tuple[int, int], Record]

    @property
    def runs(self) -> str:
        """ "3", "2 of 3" or "not run"."""
        count = len(self.found.records) if self.found else 0
        return NOT_RUN if not count else str(count) if count == self.wanted else f"{count} of {self.wanted}"

    def value(self, metric: str, which: str = "value") -> Interval | None:
        """A metric, or what stands beside it, over the worlds."""
        return self.found.interval(metric, which) if self.found else None

    def gain(self, metric: str = HEADLINE) -> Interval | None:
        """This arm - the plain run of the same settings, world by world; None without such runs."""
        return self._differences(metric, lambda record, seed: _number(self.plain.get(seed), metric))

    @property
    def discovered(self) -> bool:
        """Whether the anchors were found in the rows, so that no feature is told and every one counts."""
        anchors = self.found.records[0]["anchors"] if self.found else None
        return anchors is not None and str(anchors["kind"]).startswith("discovered")

    def told(self, metric: str) -> str:
        """The metric over the features on which the anchors alone may be compared."""
        return f"all.{metric}" if self.discovered else metric

    def beyond(self, metric: str = HEADLINE) -> Interval | None:
        """This arm - its untrained anchors as the whole dictionary, world by world."""
        name = self.told(metric)
        return self._differences(name, lambda record, seed: _number(record, name, "anchors_alone"))

    def _differences(self, metric: str, other: Callable[[Record, tuple[int, int]], float | None]) -> Interval | None:
        found = []
        for record in self.found.records if self.found else ():
            here, there = _number(record, metric), other(record, _seed(record))
            found.append(None if here is None or there is None else here - there)
        return interval_of(found)


@dataclass(frozen=True)
class StudyTable:
    """A table: its title, the names of its columns (row and arm come first), and its lines."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown."""
        rows = [self.head, tuple("---" for _ in self.head), *self.lines]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

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


def cells(study: Study, outcomes: Iterable[Outcome]) -> tuple[Cell, ...]:
    """A study's cells, rows in order, arms as in `ARMS`; a printed row without runs has its cells too."""
    records: dict[tuple[str, str], list[Record | None]] = {}
    methods: dict[tuple[str, str], str] = {}
    for entry, _, record in outcomes:
        records.setdefault((entry.row, entry.arm), []).append(record)
        methods[entry.row, entry.arm] = parse_call(entry.job.method)[0]
    for key in study.printed:
        records.setdefault(key, [])
    plain = {run_key(one): one for found in records.values() for one in found if one and one["anchors"] is None}
    rows = list(dict.fromkeys(row for row, _ in records))
    ranks = {arm: i for i, arm in enumerate(dict.fromkeys([*ARMS, *(arm for _, arm in records)]))}
    made = []
    for row, arm in sorted(records, key=lambda key: (rows.index(key[0]), ranks[key[1]])):
        found = [one for one in records[row, arm] if one is not None]
        beside = {_seed(one): plain.get(run_key({**one, "anchors": None})) for one in found if one["anchors"]}
        pairs = {seed: one for seed, one in beside.items() if one is not None}
        runs = Arm(tuple(found)) if found else None
        made.append(Cell(row, arm, methods.get((row, arm), ""), len(records[row, arm]), runs, pairs))
    return tuple(made)


def study_tables(study: Study, outcomes: Iterable[Outcome]) -> tuple[StudyTable, StudyTable, StudyTable]:
    """Three tables of a study: beside the paper, what anchors add, and what else stands beside the runs."""
    found = cells(study, outcomes)
    ran = [cell for cell in found if cell.found]
    place = ("row", "arm")
    first = [(*_place(cell), cell.runs, _printed(study, cell), _raw(cell), _cosine(cell), _all(cell)) for cell in found]
    second = [(*_place(cell), *_added(cell)) for cell in ran if cell.found and cell.found.anchored]
    third = [(*_place(cell), *_beside(cell)) for cell in ran]
    return (
        StudyTable("Beside the paper", (*place, "runs", "paper", "raw", "cosine", "all"), tuple(first)),
        StudyTable("What anchors add", (*place, "gain", "alone", "beyond"), tuple(second)),
        StudyTable("Beside the runs", (*place, "anchors", "chance", "FVU", "L0"), tuple(third)),
    )


def study_table(study: Study, outcomes: Iterable[Outcome]) -> str:
    """The tables of a study as Markdown, each under its title; what has no record says "not run"."""
    made = study_tables(study, outcomes)
    return "\n\n".join(f"**{one.title}**\n\n{one.markdown()}" for one in made if one.lines) + "\n"


def study_text(study: Study, outcomes: Iterable[Outcome]) -> str:
    """The tables for a terminal, and what their columns are."""
    made = [one for one in study_tables(study, outcomes) if one.lines]
    named = dict.fromkeys(name for one in made for name in one.head if name in MEANING)
    legend = "\n".join(f"{name}: {MEANING[name]}" for name in named)
    return "\n\n".join([study.title, *(one.text() for one in made), legend]) + "\n"


def facts(outcomes: Iterable[Outcome]) -> str:
    """What was run, in a sentence: how many runs of how many, their task, length, hardware and commits."""
    every = [record for _, _, record in outcomes]
    found = {run_key(record): record for record in every if record is not None}
    if not found:
        return f"Not run ({len(every)} cells)."
    runs = list(found.values())
    tasks = sorted({record["task"]["name"] for record in runs})
    steps = sorted({f"{record['config']['steps']} steps of {record['config']['batch_size']} rows" for record in runs})
    commits = sorted({str(record["env"]["commit"])[:12] for record in runs})
    machines = sorted({str(record["env"]["cpu"]) for record in runs} | _devices(runs))
    torches = sorted({str(record["env"]["torch"]) for record in runs})
    worlds = sorted({record["seed"]["world"] for record in runs})
    minutes = sum(record["wall_time_s"] / record["env"].get("stacked", 1) for record in runs) / 60
    there = sum(record is not None for record in every)
    older = outdated(runs)
    return (
        f"{there} of {len(every)} cells run, {len(runs)} runs of {', '.join(f'`{name}`' for name in tasks)}, "
        f"worlds {', '.join(map(str, worlds))}; {'; '.join(steps)}; {minutes:.0f} minutes of run time in all; "
        f"{', '.join(machines)}; torch {', '.join(torches)}; commit {', '.join(commits)}."
        + f" Older bits: {older}."
        * bool(older)
    )


def _short(cell: str) -> str:
    """ "25.0 ± 6.5 / 0.625" -> "25.0±6.5/.625"."""
    return re.sub(r"(?<![\d.])0\.(?=\d{3})", ".", cell).replace(" ± ", "±").replace(" / ", "/")


def _devices(runs: Iterable[Record]) -> set[str]:
    return {str(device) for run in runs if (device := run["config"].get("device", "cpu")) != "cpu"}


def _seed(record: Record) -> tuple[int, int]:
    return record["seed"]["world"], record["seed"]["train"]


def _number(record: Record | None, metric: str, which: str = "value") -> float | None:
    number: Any = (record or {}).get("metrics", {}).get(metric, {}).get(which)
    return None if number is None else float(number)


def _place(cell: Cell) -> tuple[str, str]:
    return cell.row, cell.arm


def _printed(study: Study, cell: Cell) -> str:
    share, mean = study.printed.get((cell.row, cell.arm), (None, None))
    if share is None and mean is None:
        return _NONE
    left, right = _NONE if share is None else f"{share:g}", _NONE if mean is None else f"{mean:.3f}"
    return f"{left} / {right}"


def _pair(share: Interval | None, mean: Interval | None, spread: bool = False, sign: bool = False) -> str:
    """M_GT in percent and M_IP, of which either may be missing."""
    if share is None and mean is None:
        return _NONE
    percent = share and Interval(100 * share.mean, None if share.half is None else 100 * share.half, share.n)
    left = _NONE if percent is None else percent.text(1, sign) if spread else f"{percent.mean:{'+' * sign}.1f}"
    right = _NONE if mean is None else f"{mean.mean:{'+' * sign}.3f}"
    return f"{left} / {right}"


def _raw(cell: Cell) -> str:
    return _pair(cell.value(_RAW_GT), cell.value(_RAW_IP))


def _cosine(cell: Cell) -> str:
    return _pair(cell.value(HEADLINE), cell.value(_IP), spread=True)


def _all(cell: Cell) -> str:
    return _pair(cell.value(f"all.{HEADLINE}"), cell.value(f"all.{_IP}"))


def _added(cell: Cell) -> tuple[str, str, str]:
    """Gain over plain, what the anchors are alone, and what the run is beyond them."""
    alone = _pair(cell.value(cell.told(HEADLINE), "anchors_alone"), cell.value(cell.told(_IP), "anchors_alone"))
    gain = _pair(cell.gain(), cell.gain(_IP), spread=True, sign=True)
    return gain, alone, _pair(cell.beyond(), cell.beyond(_IP), spread=True, sign=True)


def _beside(cell: Cell) -> tuple[str, str, str, str]:
    chance = _pair(cell.value(HEADLINE, "chance"), cell.value(_IP, "chance"))
    fvu, l0 = cell.value("fvu"), cell.value("l0")
    return (
        _anchors(cell),
        chance,
        _NONE if fvu is None else f"{fvu.mean:.3f}",
        _NONE if l0 is None else f"{l0.mean:.1f}",
    )


def _anchors(cell: Cell) -> str:
    if cell.found is None or not cell.found.anchored:
        return _NONE
    count, precision, recall = (cell.value(f"anchors.{name}") for name in ("count", "precision", "recall"))
    text = str(cell.found.records[0]["anchors"]["k"]) if count is None else f"{count.mean:.0f}"
    if cell.discovered and precision is not None and recall is not None:
        text += f" ({precision.mean:.3f}, {recall.mean:.3f})"
    return text

"""Results of a study: its cells (a row and an arm), with values, gains and what anchors add, over the worlds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from monosem.methods import name_of
from monosem.report import HEADLINE, Arm, Interval, interval_of
from studies.engine.bench import ARMS
from studies.engine.records import Record, Records
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study

COS_IP, RAW_GT, RAW_IP = "decoder_cosine.M_IP", "encoder_raw.M_GT@0.95", "encoder_raw.M_IP"
NOT_RUN = "not run"

Outcome = tuple[Entry, Record | None]
"""A run, and its record where there is one."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One row and arm: what is printed, its runs, how many are wanted, and the plain run of each."""

    row: str
    arm: str
    method: str
    wanted: int
    printed: tuple[float | None, float | None]
    ran: Arm | None
    plain: Mapping[tuple[int, int], Record]

    @property
    def runs(self) -> str:
        """ "3", "2 of 3" or "not run"."""
        count = len(self.ran.records) if self.ran else 0
        return NOT_RUN if not count else str(count) if count == self.wanted else f"{count} of {self.wanted}"

    @property
    def discovered(self) -> bool:
        """Whether the anchors were discovered in the rows, so that every feature counts."""
        anchors = self.ran.records[0]["anchors"] if self.ran else None
        return anchors is not None and str(anchors["kind"]).startswith("discovered")

    def fair(self, metric: str) -> str:
        """The metric over the features on which the anchors alone may be compared."""
        return f"all.{metric}" if self.discovered else metric

    def value(self, metric: str, which: str = "value") -> Interval | None:
        """A metric, or one of its references, over the worlds."""
        return self.ran.interval(metric, which) if self.ran else None

    def gain(self, metric: str = HEADLINE, over: str | None = None) -> Interval | None:
        """This arm - the plain run of the same settings (its metric `over`), world by world; None without such runs."""
        return self._difference(metric, lambda record: _number(self.plain.get(_seeds(record)), over or metric))

    def beyond(self, metric: str = HEADLINE) -> Interval | None:
        """This arm - its untrained anchors as the whole dictionary, world by world."""
        name = self.fair(metric)
        return self._difference(name, lambda record: _number(record, name, "anchors_alone"))

    def _difference(self, metric: str, other: Callable[[Record], float | None]) -> Interval | None:
        differences = []
        for record in self.ran.records if self.ran else ():
            here, there = _number(record, metric), other(record)
            differences.append(None if here is None or there is None else here - there)
        return interval_of(differences)


class Results:
    """The runs of a study at a scale, with their records."""

    def __init__(self, study: Study, scale: Scale, outcomes: Iterable[Outcome]) -> None:
        self.study, self.scale, self.outcomes = study, scale, tuple(outcomes)

    @staticmethod
    def of(study: Study, scale: Scale, records: Records, seeds: int | None = None) -> "Results":
        """Every run, looked up in a folder's records."""
        return Results(study, scale, [(entry, entry.run.find(records)) for entry in study.entries(scale, seeds)])

    @cached_property
    def records(self) -> list[Record]:
        """The record of every run that has one; a run that stands in several cells counts once."""
        return list({entry.run.key: record for entry, record in self.outcomes if record is not None}.values())

    @property
    def there(self) -> int:
        """How many cells have their run."""
        return sum(record is not None for _, record in self.outcomes)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Rows in order, arms as in `ARMS`; a printed row without runs has its cells too."""
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome[0].row, outcome[0].arm), []).append(outcome)
        for place in self.study.printed:
            groups.setdefault(place, [])
        rows = list(dict.fromkeys(row for row, _ in groups))
        order = list(dict.fromkeys([*ARMS, *(arm for _, arm in groups)]))
        plain = {entry.run.key: record for entry, record in self.outcomes if record and record["anchors"] is None}
        places = sorted(groups, key=lambda place: (rows.index(place[0]), order.index(place[1])))
        return tuple(_cell(place, groups[place], plain, self.study) for place in places)

    @property
    def ran(self) -> list[Cell]:
        """The cells that have runs."""
        return [cell for cell in self.cells if cell.ran]

    @property
    def by_place(self) -> dict[tuple[str, str], Cell]:
        """The same by row and arm."""
        return {(cell.row, cell.arm): cell for cell in self.ran}


def _cell(place: tuple[str, str], outcomes: list[Outcome], plain: Mapping[str, Record], study: Study) -> Cell:
    records = tuple(record for _, record in outcomes if record is not None)
    pairs = {
        _seeds(record): plain[entry.run.plain_key]
        for entry, record in outcomes
        if record is not None and record["anchors"] and entry.run.plain_key in plain
    }
    method = name_of(outcomes[0][0].run.method) if outcomes else ""
    printed = study.printed.get(place, (None, None))
    return Cell(*place, method, len(outcomes), printed, Arm(records) if records else None, pairs)


def _seeds(record: Record) -> tuple[int, int]:
    return record["seed"]["world"], record["seed"]["train"]


def _number(record: Record | None, metric: str, which: str = "value") -> float | None:
    number: Any = (record or {}).get("metrics", {}).get(metric, {}).get(which)
    return None if number is None else float(number)


@dataclass(frozen=True)
class Summary:
    """An arm over the rows of a study: how many ran, its lowest and highest row, and what its intervals say.

    `up`, `down`, `open`: rows whose interval of a difference lies above 0, below, or holds it; `single`: one world;
    `range`: the least and the largest mean difference of a row.
    """

    rows: int
    low: tuple[str, float]
    high: tuple[str, float]
    reached: int
    up: int
    down: int
    open: int
    single: int
    range: tuple[float, float] | None

    @property
    def compared(self) -> int:
        """Rows that have a difference at all."""
        return self.up + self.down + self.open + self.single


def summary(
    cells: Iterable[Cell], arm: str, target: float = 0.99, beyond: bool = False, metric: str = HEADLINE
) -> Summary | None:
    """An arm's metric over the rows, its gain over plain runs or, `beyond`, over its anchors alone; None if not run.

    Where the anchors were discovered in the rows the value is over every feature, else over the scored ones.
    """
    pairs = [(cell, cell.value(cell.fair(metric))) for cell in cells if cell.arm == arm]
    values = [(cell.row, value.mean) for cell, value in pairs if value]
    if not values:
        return None
    difference = Cell.beyond if beyond else Cell.gain
    gains = [gain for cell, _ in pairs if (gain := difference(cell, metric))]
    sides, means = list(map(_side, gains)), sorted(gain.mean for gain in gains)
    low, high = min(values, key=_second), max(values, key=_second)
    reached = sum(value >= target for _, value in values)
    up, down, neither, single = map(sides.count, (1, -1, 0, None))
    between = (means[0], means[-1]) if means else None
    return Summary(len(values), low, high, reached, up, down, neither, single, between)


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _side(gain: Interval) -> int | None:
    """Whether an interval lies above 0, below, or holds it; None without an interval."""
    if gain.half is None:
        return None
    return int(gain.mean > gain.half) - int(-gain.mean > gain.half)

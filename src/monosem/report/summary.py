"""Records in order: sections by task, lines by method, arms plain and anchored, values over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monosem.base.errors import DataError, check
from monosem.base.spec import canonical
from monosem.methods import METHODS, brief, recipe_of
from monosem.report.interval import Interval, interval_of, paired

Record = Mapping[str, Any]
HEADLINE = "decoder_cosine.M_GT@0.95"
"""The score that comes first: the share of held-out features that a decoder column meets at |cos| > 0.95."""


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs of one method on one task that differ in their seeds only."""

    records: tuple[Record, ...]

    @property
    def anchored(self) -> bool:
        """Whether the runs were anchored."""
        return self.records[0]["anchors"] is not None

    @property
    def name(self) -> str:
        """ "plain" or "anchored"."""
        return "anchored" if self.anchored else "plain"

    @property
    def note(self) -> str:
        """How it was anchored, in words."""
        anchors = self.records[0]["anchors"]
        if anchors is None:
            return "no anchors"
        start = "start there" if anchors["init"] else "start elsewhere"
        return f"{anchors['k']} {anchors['kind']}, weight {anchors['weight']}, {anchors['form']}, slots {start}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """World seeds."""
        return tuple(record["seed"]["world"] for record in self.records)

    def by_seed(self, metric: str, which: str = "value") -> dict[tuple[int, int], float]:
        """A metric (or what stands beside it) by the pair of seeds, where it is defined."""
        numbers = {}
        for record in self.records:
            number = record["metrics"].get(metric, {}).get(which)
            if number is not None:
                numbers[record["seed"]["world"], record["seed"]["train"]] = float(number)
        return numbers

    def interval(self, metric: str, which: str = "value") -> Interval | None:
        """Mean and interval of a metric over the seeds; None where it is not defined."""
        return interval_of(self.by_seed(metric, which).values())

    def curve(self, group: str, name: str) -> list[float]:
        """The mean over seeds of a curve; seeds of another length are left out."""
        series = [record[group][name] for record in self.records]
        series = [one for one in series if len(one) == len(series[0])]
        return [
            sum(values) / len(values) if None not in values else float("nan") for values in zip(*series, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Line:
    """One method on one task: its plain runs and its anchored ones, several if anchored in several ways."""

    label: str
    spec: str
    pairing: str
    config: Mapping[str, Any]
    plain: Arm | None
    anchored: tuple[Arm, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Plain first."""
        return ((self.plain,) if self.plain else ()) + self.anchored

    def gain(self, arm: Arm, metric: str = HEADLINE) -> Interval | None:
        """anchored - plain, seed by seed; None without shared seeds."""
        if self.plain is None or arm is self.plain:
            return None
        return paired(self.plain.by_seed(metric), arm.by_seed(metric))


@dataclass(frozen=True, eq=False)
class Section:
    """All runs of one study on one task, in one world but for its seed."""

    study: str
    task: str
    version: int
    spec: Mapping[str, Any]
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.task} (version {self.version})" + ("" if self.study == "bench" else f", study {self.study}")

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Of every line, in order."""
        return tuple(arm for line in self.lines for arm in line.arms)

    @property
    def records(self) -> tuple[Record, ...]:
        """Of every arm, in order."""
        return tuple(record for arm in self.arms for record in arm.records)

    @property
    def pairings(self) -> tuple[str, ...]:
        """In order of appearance."""
        return tuple(dict.fromkeys(line.pairing for line in self.lines))

    def reference(self, pairing: str, metric: str, which: str) -> Interval | None:
        """A reference of a metric, one value per world."""
        arms = [arm for line in self.lines if line.pairing == pairing for arm in line.arms]
        by_world: dict[int, float] = {}
        for record in (record for arm in arms for record in arm.records):
            number = record["metrics"].get(metric, {}).get(which)
            if number is not None:
                by_world.setdefault(record["seed"]["world"], float(number))
        return interval_of(by_world.values())


def sections(records: Iterable[Record]) -> tuple[Section, ...]:
    """Records in order. Raises: DataError when there are none."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        task = record["task"]
        world = {k: v for k, v in task["spec"].get("world", {}).items() if k != "seed"}
        same = {k: v for k, v in task["spec"].items() if k not in ("world", "pairing")}
        groups.setdefault(canonical([task["name"], task["version"], record["study"], same, world]), []).append(record)
    check(
        bool(groups), "there are no records; run `monosem bench` first, or give the folder that holds them", DataError
    )
    return tuple(_section(groups[key]) for key in sorted(groups))


def _section(records: Sequence[Record]) -> Section:
    lines: dict[str, list[Record]] = {}
    for record in records:
        same = [record["method"]["spec"], record["task"]["pairing"], _config(record)]
        lines.setdefault(canonical(same), []).append(record)
    rank = {name: i for i, name in enumerate(METHODS)}
    pairings = ("sae", "transcoder", "crosscoder")

    def order(line: Line) -> tuple[Any, ...]:
        row = next((name for name in METHODS if METHODS[name] is _recipe(line.spec)), "")
        at = pairings.index(line.pairing) if line.pairing in pairings else len(pairings)
        return at, rank.get(row, len(rank)), line.spec, canonical(line.config)

    made = sorted((_line(lines[key]) for key in sorted(lines)), key=order)
    first = records[0]
    spec = first["task"]["spec"]
    task = first["task"]
    return Section(first["study"], task["name"], task["version"], spec, tuple(_labelled(made)))


def _line(records: Sequence[Record]) -> Line:
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(canonical(record["anchors"]), []).append(record)
    made = [
        Arm(tuple(sorted(arms[key], key=lambda r: (r["seed"]["world"], r["seed"]["train"])))) for key in sorted(arms)
    ]
    plain = next((arm for arm in made if not arm.anchored), None)
    first = records[0]
    anchored = tuple(arm for arm in made if arm.anchored)
    method = first["method"]
    spec = method["spec"] if isinstance(method["spec"], str) else method["name"]
    return Line(method["name"], spec, first["task"]["pairing"], _config(first), plain, anchored)


def _labelled(lines: Sequence[Line]) -> list[Line]:
    """Names where they are unique, else arguments that are not the defaults, else what differs in the training."""
    for shorter in (_short, _long):
        taken = [line.label for line in lines]
        lines = [replace(line, label=shorter(line, lines)) if taken.count(line.label) > 1 else line for line in lines]
    return list(lines)


def _short(line: Line, lines: Sequence[Line]) -> str:
    return brief(line.spec, [other.spec for other in lines if other.label == line.label])


def _long(line: Line, lines: Sequence[Line]) -> str:
    others = [other.config for other in lines if other.label == line.label]
    own = [f"{k}={v}" for k, v in line.config.items() if any(other.get(k) != v for other in others)]
    return " ".join([line.label, *own])


def _recipe(spec: str) -> Any:
    try:
        return recipe_of(spec)[0]
    except ValueError:  # a method of another version, or of a plug-in
        return None


def _config(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record["config"].items() if name != "seed"}

"""Values that change over a run, as functions of the step and the number of steps."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from monosem.base.errors import check
from monosem.base.registry import Registry

SCHEDULES: Registry[type[Any]] = Registry("schedule")
"""What may stand in a method's text where a weight stands, beside a number."""


class Course(ABC):
    """A value as a function of the step; a frozen dataclass that is registered stands in text by its name."""

    @abstractmethod
    def at(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`."""


@dataclass(frozen=True)
class _Between(Course):
    """From `start` to `stop` between two fractions of the run, `begin` and `end`; constant outside."""

    start: float
    stop: float
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_span(self.begin, self.end)


@SCHEDULES.register("ramp")
@dataclass(frozen=True)
class Ramp(_Between):
    """Linear from `start` to `stop` between two fractions of the run, constant outside.

    Equation: start + (stop - start) * clip((t/T - begin) / (end - begin), 0, 1) at step t of T.
    """

    def at(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`."""
        return self.start + (self.stop - self.start) * _share(self, step, steps)


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(_Between):
    """Half a cosine from `start` to `stop` between two fractions of the run, constant outside.

    Equation: start + (stop - start) (1 - cos(pi s)) / 2, s = clip((t/T - begin) / (end - begin), 0, 1).
    """

    def at(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`."""
        return self.start + (self.stop - self.start) * (1 - math.cos(math.pi * _share(self, step, steps))) / 2


@SCHEDULES.register("warmup_decay")
@dataclass(frozen=True)
class WarmupDecay(Course):
    """Linear from 0 to 1 over the first `warmup` of the run, linear to `floor` over its last `decay`.

    Equation: min(1, (t+1) / (warmup T)) * (1 - (1 - floor) * clip((t/T - (1 - decay)) / decay, 0, 1)).
    """

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def at(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`."""
        up = min(1.0, (step + 1) / max(self.warmup * steps, 1.0))
        if self.decay == 0:
            return up
        done = min(max((step / max(steps, 1) - (1 - self.decay)) / self.decay, 0.0), 1.0)
        return up * (1 - (1 - self.floor) * done)


Schedule = float | Course


def at_step(value: Schedule, step: int, steps: int) -> float:
    """The value of a number or a schedule at `step` of `steps`."""
    return float(value) if isinstance(value, int | float) else value.at(step, steps)


def _check_span(begin: float, end: float) -> None:
    check(0 <= begin <= end <= 1, f"begin={begin}, end={end}: need 0 <= begin <= end <= 1")


def _share(span: Ramp | Cosine, step: int, steps: int) -> float:
    """How far the run is between begin and end."""
    done = step / max(steps, 1)
    width = span.end - span.begin
    return float(done >= span.end) if width == 0 else min(max((done - span.begin) / width, 0.0), 1.0)

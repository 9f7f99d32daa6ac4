"""Statistics of a speed record: ratios to the product of the same turn, their median and their spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import mean, median, quantiles
from typing import Any

CPU, WALL = 0, 1
"""Which of a span's two times: processor seconds of the process, or wall clock."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some numbers."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """1.43 (1.41-1.46)."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def spread(numbers: Iterable[float]) -> Spread | None:
    """Median and quartiles (of one number: itself thrice); None of nothing.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0]).text()
        '3.00 (2.00-4.00)'
    """
    ordered = sorted(numbers)
    if not ordered:
        return None
    low, _, high = quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else (ordered[0],) * 3
    return Spread(median(ordered), low, high, len(ordered))


def turns(contender: Mapping[str, Any], state: str, threads: int = 1) -> list[Mapping[str, Any]]:
    """A contender's turns in one state with one number of threads, in the order of the rounds."""
    return [turn for turn in contender["turns"] if (turn["state"], turn["threads"]) == (state, threads)]


def _ratio(turn: Mapping[str, Any], time: int) -> float:
    step, product = (mean(float(span[time]) for span in turn[what]) for what in ("steps", "product"))
    return step / product


def ratios(contender: Mapping[str, Any], state: str, threads: int = 1, time: int = CPU) -> dict[int, float]:
    """By round: mean step of a turn / mean product around it, in the same process."""
    return {turn["round"]: _ratio(turn, time) for turn in turns(contender, state, threads)}


def over_ours(case: Mapping[str, Any], peer: str, state: str, threads: int = 1, time: int = CPU) -> Spread | None:
    """The peer's ratio over ours in the same state, round by round."""
    theirs = ratios(case[peer], state, threads, time)
    mine = ratios(case["monosem"], state, threads, time)
    return spread(theirs[r] / mine[r] for r in theirs if r in mine)


def scaling(contender: Mapping[str, Any], state: str, threads: int) -> Spread | None:
    """How well a step uses `threads` threads, relative to the product in the same process and round.

    Equation: (step_1 / step_t) / (product_1 / product_t), wall clock; 1 is as well as the product.
    """
    one = ratios(contender, state, 1, WALL)
    many = ratios(contender, state, threads, WALL)
    return spread(one[r] / many[r] for r in one if r in many)


def milliseconds(contender: Mapping[str, Any], state: str, what: str = "steps") -> Spread | None:
    """Processor time of a step (or of a product, "product") with one thread."""
    return spread(1e3 * mean(float(span[CPU]) for span in turn[what]) for turn in turns(contender, state))


def exponent(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """How cost grows with a size: the slope and half its 95 % interval.

    Equation: least squares of log cost = a + b log value; half = t_{0.975, n-2} times b's standard error.
    """
    from scipy.special import stdtrit

    x, y = [log(value) for value in values], [log(cost) for cost in costs]
    x_mean, y_mean, n = mean(x), mean(y), len(x)
    spread_x = sum((a - x_mean) ** 2 for a in x)
    slope = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread_x
    residuals = [b - y_mean - slope * (a - x_mean) for a, b in zip(x, y, strict=True)]
    error = sqrt(sum(r * r for r in residuals) / max(n - 2, 1) / spread_x)
    return slope, float(stdtrit(max(n - 2, 1), 0.975)) * error


def floor_pieces(floor: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[Spread, Spread]]:
    """By piece, with one thread: (ms of processor time, share of the turn's product)."""
    rows, pieces = turns(floor, "floor"), {}
    for name in names:
        ms = spread(turn["facts"][name] for turn in rows)
        share = spread(turn["facts"][name] / 1e3 / mean(span[CPU] for span in turn["product"]) for turn in rows)
        if ms is not None and share is not None:
            pieces[name] = (ms, share)
    return pieces

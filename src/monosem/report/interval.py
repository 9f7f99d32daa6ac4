"""A mean over seeds and its t interval."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LEVEL = 0.95
"""The coverage of every interval in a report."""


@dataclass(frozen=True)
class Interval:
    """A mean of n values; `half` is half the width of its interval, None for a single value."""

    mean: float
    half: float | None
    n: int

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """ "0.431 ± 0.052", or the mean alone for a single value."""
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def interval(values: Iterable[float]) -> Interval:
    """Mean and Student's t interval.

    Equation: mean +- t_{0.975, n-1} s / sqrt(n), s the sample standard deviation (n - 1).
    Source: Student (1908); right for normal values that are independent, a guide for the few seeds of a bench.

    Example:
        >>> interval([1.0, 2.0, 3.0]).text(2)
        '2.00 ± 2.48'
    """
    from scipy.special import stdtrit

    numbers = list(values)
    n = len(numbers)
    mean = math.fsum(numbers) / n
    if n == 1:
        return Interval(mean, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (n - 1))
    return Interval(mean, float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * spread / math.sqrt(n), n)


def interval_of(values: Iterable[float | None]) -> Interval | None:
    """The same, leaving out values that are undefined; None when none is left."""
    numbers = [value for value in values if value is not None]
    return interval(numbers) if numbers else None


def paired(before: Mapping[Any, float], after: Mapping[Any, float]) -> Interval | None:
    """The interval of after - before over the keys (seeds) that both have; None when they share none."""
    shared = sorted(set(before) & set(after))
    return interval(after[seed] - before[seed] for seed in shared) if shared else None

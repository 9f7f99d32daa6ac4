"""What printed numbers betray: cells that their own metric forbids, and the counts that percentages can come from."""

from collections.abc import Iterable
from dataclasses import dataclass

from monosem.report.summary import HEADLINE
from studies.bench.printed import Printed
from studies.report.study import Cell


def least_mean(share: float, tau: float = 0.95) -> float:
    """The least M_IP that goes with M_GT(tau) = share.

    Equation: s_i >= 0 and s_i > tau for a share of the features, so M_IP = mean s_i >= tau M_GT(tau).

    Example:
        >>> round(least_mean(1.0), 2), round(least_mean(0.855), 5)
        (0.95, 0.81225)
    """
    return tau * share


def forbidden(printed: Printed, tau: float = 0.95) -> list[tuple[str, str, float, float, float]]:
    """Cells that cannot be: (row, arm, M_GT in percent, M_IP, the least M_IP), beyond the printed rounding.

    Example:
        >>> forbidden({("n = 800", "anchored"): (100.0, 0.436), ("n = 1400", "anchored"): (8.57, 0.207)})
        [('n = 800', 'anchored', 100.0, 0.436, 0.95)]
    """
    both = [(*key, share, mean) for key, (share, mean) in printed.items() if share is not None and mean is not None]
    least = [(*one, least_mean(one[2] / 100, tau)) for one in both]
    return [one for one in least if one[3] + 0.0005 < one[4] - 0.00005]


def fits(percent: float, n: int, digits: int = 2) -> bool:
    """Whether a percentage, rounded to some digits, can be a count out of n.

    Example:
        >>> fits(87.63, 970), fits(87.63, 1000)
        (True, False)
    """
    return round(100 * round(percent * n / 100) / n, digits) == round(percent, digits)


def shared_counts(percents: Iterable[float], candidates: Iterable[int], digits: int = 2) -> list[int]:
    """The candidates n of which every percentage can be a count.

    Example:
        >>> shared_counts([87.63, 89.38, 87.32, 25.05], range(900, 1001))
        [970]
    """
    numbers = list(percents)
    return [n for n in candidates if all(fits(percent, n, digits) for percent in numbers)]


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


def summary(
    cells: Iterable[Cell], arm: str, target: float = 0.99, beyond: bool = False, metric: str = HEADLINE
) -> Summary | None:
    """An arm's metric over the rows, its gain over plain runs or, `beyond`, over its anchors alone; None if not run.

    Where the anchors were found in the rows the value is over every feature, else over the scored ones.
    """
    ran = [cell for cell in cells if cell.arm == arm and cell.found]
    values = [(cell.row, value.mean) for cell in ran if (value := cell.value(cell.told(metric))) is not None]
    if not values:
        return None
    gains = [gain for cell in ran if (gain := cell.beyond(metric) if beyond else cell.gain(metric)) is not None]
    several = [gain for gain in gains if gain.half is not None]
    up = sum(gain.mean > (gain.half or 0.0) for gain in several)
    down = sum(-gain.mean > (gain.half or 0.0) for gain in several)
    low, high = (pick(values, key=lambda one: one[1]) for pick in (min, max))
    reached = sum(value >= target for _, value in values)
    means = [gain.mean for gain in gains]
    range_ = (min(means), max(means)) if means else None
    single = len(gains) - len(several)
    return Summary(len(values), low, high, reached, up, down, len(several) - up - down, single, range_)

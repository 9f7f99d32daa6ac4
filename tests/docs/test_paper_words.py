"""What docs/paper says of its tables follows the numbers, and is not said where they do not bear it."""

from collections.abc import Sequence
from typing import cast

import pytest

from monosem.report.interval import Interval
from studies.engine.cells import Cell, Summary
from studies.engine.words import DIFFERENCES, difference, order, repeats
from studies.paper.table5 import PRINTED as TABLE5
from studies.paper.table6 import PRINTED as TABLE6
from studies.paper.table6 import k_by_rate


class _Scored:
    """A cell that scores a number whatever is asked."""

    def __init__(self, row: str, arm: str, mean: float) -> None:
        self.row, self.arm, self._mean = row, arm, mean
        self.printed = TABLE6.get((row, arm), (None, None))

    def value(self, metric: str) -> Interval:
        return Interval(self._mean, None, 1)


def _cells(scores: dict[tuple[str, str], float]) -> Sequence[Cell]:
    return cast(Sequence[Cell], [_Scored(row, arm, score) for (row, arm), score in scores.items()])


def _printed(sign: float) -> dict[tuple[str, str], float]:
    return {key: sign * share / 100 for key, (share, _) in TABLE6.items() if share is not None}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_order_of_the_rows_is_a_rank_correlation(sign: float) -> None:
    assert f"rank correlation {sign:.2f} with ours" in order(_cells(_printed(sign)))


def test_few_rows_have_no_order() -> None:
    assert order(_cells(dict(list(_printed(1.0).items())[:9]))) == ""


def test_k_against_the_true_l0_is_said_where_it_is_seen_and_nowhere_else() -> None:
    said = k_by_rate(_cells(_printed(1.0)))
    assert "5 active, 82.2" in said
    assert "100 active, 98.8" in said
    assert "16.6 points" in said
    assert k_by_rate(_cells(_printed(-1.0))) == ""
    assert k_by_rate(_cells(dict.fromkeys(TABLE5, 0.5))) == ""


def test_rows_of_the_same_runs_are_counted_once() -> None:
    scores = {("M = 0.1", "paper"): 0.5, ("M = 0.2", "paper"): 0.6, ("M = 0.5", "paper"): 0.6}
    assert "1 of 3 rows repeat others to the bit** (same data, same seeds): M = 0.5." in repeats(_cells(scores))
    assert "below, 2 are distinct" in repeats(_cells(scores))
    assert repeats(_cells(scores | {("M = 0.5", "paper"): 0.61})) == ""


def test_a_difference_has_its_range_and_its_sides_and_one_world_has_no_interval() -> None:
    where = ("a row", 0.5)
    (line,) = difference("ours", "`plain`", "M_GT", Summary(3, where, where, 1, 1, 0, 1, 1, (-0.1, 0.2)))
    assert dict(zip(DIFFERENCES, line, strict=True)) == {
        "arm": "`ours`",
        "minus": "`plain`",
        "score": "M_GT",
        "least": "-0.1",
        "most": "+0.2",
        "above 0": 1,
        "below 0": 0,
        "holds 0": 1,
        "one world": 1,
    }
    assert not difference("ours", "`plain`", "M_GT", None)

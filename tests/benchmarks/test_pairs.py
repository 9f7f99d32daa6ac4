"""An older checkout beside this one: turns, intervals, and whether both compute the same."""

from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.driver import ROOT
from benchmarks.pairs import WHO, Options, compare, line, median_interval
from benchmarks.pairs import _summary as summary
from monosem.base.errors import ArgumentError, MonosemError
from monosem.base.files import read_json

SHAPES = {"n_p": 16, "n_q": 64, "k": 4, "batch": 64, "features": 24, "turn": 2}


def test_this_checkout_beside_itself(tmp_path: Path) -> None:
    """Three processes take turns; the same code trains to the same loss, and its ratios are around one."""
    lines: list[str] = []
    options, path = Options(ROOT, ("topk",), "small", pairs=2, warm=2, changes=SHAPES), tmp_path / "pairs.json"
    record = compare(options, "pairs", lines.append, path)
    assert compare(options, "pairs", lines.append, path) == record == read_json(path)  # what is there is kept
    with pytest.raises(ArgumentError, match="has pairs 2, not 3; name another file"):
        compare(replace(options, pairs=3), "pairs", lines.append, path)
    case = record["cases"]["topk"]
    assert case["equal_losses"]
    assert set(case["turns"]) == set(WHO)
    assert [turn["round"] for turn in case["turns"]["after"]] == [0, 1]
    assert all(len(turn["steps"]) == 2 and not turn["product"] for turn in case["turns"]["after"])
    assert 0.01 < case["after / before"]["median"] < 100
    assert lines == [f"topk: {line(case)}"]


def test_another_place_and_a_failing_case_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has no src/monosem"):
        compare(Options(tmp_path, ("topk",)))
    package = tmp_path / "src" / "monosem"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('an old one')")
    with pytest.raises(MonosemError, match="topk, before: ImportError: an old one"):
        compare(Options(tmp_path, ("topk",), "small", pairs=1, warm=1, changes=SHAPES))


def _turns(seconds: list[float], loss: float = 1.0) -> list[dict[str, Any]]:
    return [{"steps": [[s, 2 * s], [s, 2 * s]], "facts": {"loss": loss}} for s in seconds]


def test_ratios_are_of_the_same_round() -> None:
    turns = {
        "before": _turns([1.0, 2.0, 4.0]),
        "after": _turns([1.1, 2.2, 4.4], 1.5),
        "before again": _turns([1, 2, 4]),
    }
    case = summary(turns, threads=1)
    assert case["after / before"]["median"] == pytest.approx(1.1)
    assert case["before / before"]["median"] == 1.0
    assert case["ms"]["before"] == 2000.0
    assert summary(turns, threads=2)["ms"]["before"] == 4000.0
    assert not case["equal_losses"]
    assert "logged losses DIFFERENT" in line(case)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Against the binomial law for every number of pairs, and against draws for one."""
    for n in range(1, 60):
        ratio = median_interval([float(i) for i in range(n)])
        j = int(ratio.low) + 1
        assert ratio.high == n - j
        assert ratio.coverage == pytest.approx(1 - 2 * sum(comb(n, i) for i in range(j)) / 2**n)
        assert (ratio.coverage >= 0.95) == (n >= 6)
    draws = np.random.default_rng(0).exponential(size=(2000, 30))
    inside = [r.low <= np.log(2) <= r.high for r in (median_interval(row.tolist()) for row in draws)]
    assert np.mean(inside) == pytest.approx(median_interval(draws[0].tolist()).coverage, abs=0.02)

"""The law of rows: planted exponents come back with intervals that hold them, and another form shows as errors."""

import numpy as np
import pytest

from studies.sample_law import APART, EVENTS, FITTED, SEEDS, _fit, _points, _table, fit_law, interval_of_fit, law

PLANTED = np.array([2.5, np.log(15.0), 0.3, 0.8, 0.97])
CELLS = np.array([(n, v, e) for n in (16, 32, 64) for v in (0.0, 0.5, 0.7) for e in (6, 12, 24, 48, 96)], dtype=float)


def test_planted_exponents_come_back() -> None:
    fit = fit_law(np.column_stack([CELLS, law(PLANTED, *CELLS.T)]))
    assert fit == pytest.approx(PLANTED, abs=1e-4)


def test_intervals_over_worlds_hold_the_planted_exponents_and_are_narrow() -> None:
    rng = np.random.default_rng(1)
    many = np.concatenate(
        [np.column_stack([CELLS, law(PLANTED, *CELLS.T) + rng.normal(0, 0.03, 45)]) for _ in range(4)]
    )
    low, high = interval_of_fit(many, np.repeat(np.arange(4), 45), draws=25)
    assert (low <= PLANTED + 0.05).all()
    assert (high >= PLANTED - 0.05).all()
    assert (high - low)[2:4].max() < 0.2


def test_recall_that_turns_with_features_in_another_way_leaves_errors() -> None:
    recall = law(PLANTED, *CELLS.T) - 0.2 * (CELLS[:, 0] == 32)
    left = recall - law(fit_law(np.column_stack([CELLS, recall])), *CELLS.T)
    assert np.abs(left).max() > 0.08


def test_the_table_holds_whole_seeds_and_the_error_where_nothing_was_fitted() -> None:
    runs = {
        f"ksvd/{n}/{v}/{e}/{seed}": float(law(PLANTED, *np.array([n, v, e], dtype=float)) + 0.1 * ((n, v) in APART))
        for n, v in (*FITTED, *APART)
        for e in EVENTS
        for seed in SEEDS["ksvd"][:2]
    }
    runs["ksvd/12/0.0/8/2002"] = 0.0  # a seed that is not whole
    points = {"ksvd": _points(runs, "ksvd")}
    assert len(points["ksvd"]) == len(runs) - 1
    text = _table(points, {"ksvd": _fit(points["ksvd"])})
    assert "| 0.30 [0.30, 0.30] | 0.80 [0.80, 0.80] |" in text
    assert text.split("|")[-2].strip() == "0.100"

"""What checks make of numbers that go wrong, which on true claims they never do."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monosem.theory.checks import stationary
from monosem.theory.checks.base import Report, Verdict
from monosem.theory.descent import DescentConfig
from monosem.theory.landscape import Place
from monosem.theory.law import independent


def test_a_trap_is_measured_against_the_least_of_other_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, pattern, point = _trap()
    fair = stationary._trap_violation(problem, pattern, point, np.random.default_rng(0))
    assert fair < 1e-6
    losses: Iterator[float] = iter([point.loss, point.loss - 2.0, *[point.loss] * 8])
    monkeypatch.setattr(stationary, "loss", lambda *_: torch.tensor(next(losses), dtype=torch.float64))
    wrong = stationary._trap_violation(problem, pattern, point, np.random.default_rng(0))
    assert wrong == pytest.approx(2.0 / problem.zero_dictionary_loss)


def _trap() -> tuple[Any, Any, Any]:
    """A problem, a pattern whose stationary point is a trap, and that point."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        case = stationary._repaired_case(rng)
        pattern = stationary.draw_partition(rng, case.problem.n, case.problem.n_q)
        point = stationary.trichotomy(case.problem, pattern)
        if point.verdict == "trap" and point.W_D is not None:
            return case.problem, pattern, point
    raise AssertionError("no trap in 200 draws")


def test_a_gradient_below_zero_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stationary, "autograd", lambda problem, W_D, W_E: [torch.full((2,), -7.0)] * 2)
    monkeypatch.setattr(stationary, "disagreement", lambda *_: 0.0)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        measured = stationary._measure_repaired(stationary._repaired_case(rng), rng)
        if measured.witness.startswith("trap"):
            assert measured.residual > 1e-6
            return
    raise AssertionError("no trap in 200 draws")


def test_one_counter_case_that_holds_is_not_caught() -> None:
    fails, holds = (Verdict(residual, 1e-8, 1, "", 0.0, 1e-8) for residual in (1.0, 0.0))
    report = Report("name", "claim", "statement", "confirmed", holds, {"a": fails, "b": holds})
    assert not report.caught
    assert Report("name", "claim", "statement", "confirmed", holds, {"a": fails}).caught


def test_latents_start_again_after_the_first_step() -> None:
    config = DescentConfig(steps=10, revive="resample", every=1)
    assert [config.resamples(step) for step in (0, 1, 5, 6)] == [False, True, True, False]


def test_a_place_without_a_point_has_no_loss() -> None:
    _, pattern, point = _trap()
    assert Place(pattern, point, point.W_E).loss == point.loss
    assert math.isnan(Place(pattern, replace(point, W_E=None), None).loss)


def test_two_features_or_more() -> None:
    """Three independent features of rate p: 3 p^2 (1 - p) + p^3."""
    law = independent(torch.full((3,), 0.2, dtype=torch.float64))
    assert law.several == pytest.approx(3 * 0.04 * 0.8 + 0.008)

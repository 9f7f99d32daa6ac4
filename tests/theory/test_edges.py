"""What checks make of numbers that go wrong, which on true claims they never do."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monosem.core.activations import ReLU
from monosem.theory.checks import convexity, stationary, walls
from monosem.theory.checks.base import Report, Verdict, draw_encoder, draw_problem
from monosem.theory.descent import DescentConfig
from monosem.theory.hierarchy import hierarchical
from monosem.theory.landscape import Place
from monosem.theory.law import independent
from monosem.theory.patterns import pattern_of, region, walk
from monosem.theory.search.certified import in_gauge


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
    monkeypatch.setattr(stationary, "_autograd", lambda problem, W_D, W_E: [torch.full((2,), -7.0)] * 2)
    monkeypatch.setattr(stationary, "_disagreement", lambda *_: 0.0)
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


def test_signs_decide_a_verdict_where_one_singular_value_vanishes_at_most() -> None:
    rng = np.random.default_rng(0)
    assert [stationary._generic(draw_problem(rng, 4, 5, 4, n_r)) for n_r in (2, 3, 4)] == [False, True, True]


def test_top_2_without_relu_lies_above_its_chord() -> None:
    """Latents of values 1, a, b: the loss is (1 + max(a, b))^2 at both ends and (1 + (a + b) / 2)^2 between them."""
    rng = np.random.default_rng(0)
    case = convexity._selected(rng)
    measured = convexity._measure(case, rng)
    a, b = convexity._pair(case, np.random.default_rng(0))[0][1:, 0].tolist()
    chord = (1 + max(a, b)) ** 2
    assert measured.residual == pytest.approx(((1 + (a + b) / 2) ** 2 - chord) / (1 + chord))


def test_a_lower_encoder_of_the_region_counts_relative_to_the_zero_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    case = walls._case(np.random.default_rng(3))
    fair = walls._measure(case, np.random.default_rng(0))
    assert fair.residual < 1e-8
    monkeypatch.setattr(walls, "_within", lambda *_: torch.tensor([-5.0, 40.0]))
    wrong = walls._measure(case, np.random.default_rng(0))
    at = walls.closed_minimum(
        case.problem, walls.draw_partition(np.random.default_rng(0), case.problem.n, case.problem.n_q), depth=1.0
    )
    assert wrong.residual == pytest.approx((at.loss + 5.0) / case.problem.zero_dictionary_loss)


def test_two_features_are_enough_for_a_wall() -> None:
    one, two = (draw_problem(np.random.default_rng(0), n, 3, 2, 3) for n in (1, 2))
    assert "two features" in walls._independent(one)
    assert walls._independent(two) == ""


class _Ends(np.random.Generator):
    """Draws one end of every chord."""

    end = 0

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return (low, high)[self.end]


@pytest.mark.parametrize("end", [0, 1])
def test_a_walk_that_goes_to_the_ends_of_its_chords_stays_in_its_region(end: int) -> None:
    rng = np.random.default_rng(0)
    problem = draw_problem(rng, 3, 3, 2, 3)
    W_E = draw_encoder(rng, problem)
    where = region(problem, pattern_of(problem, W_E))
    ends = _Ends(np.random.PCG64(0))
    ends.end = end
    assert all(where.contains(walk(where, W_E, ends, reach=1e3)) for _ in range(20))


def test_encoder_rows_of_a_relu_have_unit_norm_in_the_gauge() -> None:
    rng = np.random.default_rng(0)
    problem = draw_problem(rng, 3, 3, 2, 3, ReLU())
    _, W_E, _ = in_gauge(problem, 5.0 * draw_encoder(rng, problem))
    assert torch.allclose(W_E.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_hierarchy_whose_parents_fire_alone_is_a_law() -> None:
    law = hierarchical((2, 1), 0.1, alone=0.2)
    assert float(law.chance.sum()) == pytest.approx(1.0)
    parents, others = law.supports[:, :2].sum(1), law.supports[:, 2:].sum(1)
    assert float(law.chance[(parents == 1) & (others == 0)].sum()) == pytest.approx(0.2)

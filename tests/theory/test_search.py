"""Search: monotone, its quadratic programmes and lower bounds against sampling, its optima against a fine grid."""

import numpy as np
import pytest
import torch

from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import draw_encoder, draw_problem
from monosem.theory.descent import DescentConfig, basins, descend, run_losses, starts, wilson
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Atoms, Problem, best_decoder, loss
from monosem.theory.search.acs import acs, kkt_residual, sampled_acs, solve_qp
from monosem.theory.search.atlas import partitions


def test_quadratic_programme_meets_its_conditions_and_beats_samples() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        B, A = rng.standard_normal((5, 4)), rng.standard_normal((6, 4))
        H, f, start = B.T @ B, rng.standard_normal(4), rng.standard_normal(4)
        b = A @ start - rng.uniform(0, 1, 6)
        w = solve_qp(H, f, A, b, start, prox=1e-10)
        assert (A @ w - b).min() > -1e-8
        value = w @ H @ w / 2 - f @ w
        for _ in range(200):
            other = start + rng.standard_normal(4) * 2
            if (A @ other >= b).all():
                assert other @ H @ other / 2 - f @ other >= value - 1e-6 * (1 + abs(value))
        assert kkt_residual(H @ w - f, A, A @ w - b, 1e-6) < 1e-5 * (1 + np.abs(f).max())


@pytest.mark.parametrize("activation", [ReLU(), TopK(1), JumpReLU(theta=0.2)], ids=repr)
def test_acs_never_rises_and_names_its_certificate(activation: Activation) -> None:
    rng = np.random.default_rng(1)
    for _ in range(2):
        problem = draw_problem(rng, 4, 3, 3, None, activation)
        found = acs(problem, draw_encoder(rng, problem), steps=60)
        assert all(b <= a * (1 + 1e-12) + 1e-15 for a, b in zip(found.history, found.history[1:], strict=False))
        assert found.loss == pytest.approx(float(loss(problem, found.W_D, found.W_E)))
        assert found.stop != "partial minimum" or found.kkt < 0.05 * problem.zero_dictionary_loss


def test_acs_finds_the_trap_of_example_3_5() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(2), TopK(1), 2)
    found = acs(problem, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert found.loss == pytest.approx(1.0)
    assert found.stop == "partial minimum"


def test_sampled_search_never_rises_and_gives_no_certificate() -> None:
    rng = np.random.default_rng(2)
    problem = draw_problem(rng, 8, 5, 8, None, TopK(2))
    x = torch.from_numpy(rng.exponential(size=(300, 8)) * (rng.random((300, 8)) < 0.2))
    data = Atoms(x @ problem.W_p.T, x @ problem.W_r.T, torch.full((300,), 1 / 300, dtype=torch.float64))
    found = sampled_acs(problem, draw_encoder(rng, problem), data)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.history[-1] < 0.7 * found.history[0]
    assert found.stop == "steps"


def test_partitions_are_counted_by_stirling_numbers() -> None:
    assert len(partitions(4, 4)) == 15
    assert len(partitions(4, 2)) == 8
    assert all(p.is_partition for p in partitions(5, 3))
    assert len(set(partitions(5, 3))) == len(partitions(5, 3))


def test_descent_runs_are_those_of_single_losses() -> None:
    rng = np.random.default_rng(5)
    problem = draw_problem(rng, 4, 3, 4, 2, TopK(2))
    W_D, W_E = starts(problem, 3, 0)
    each = [float(loss(problem, W_D[r], W_E[r])) for r in range(3)]
    assert run_losses(problem, W_D, W_E, problem.atoms).tolist() == pytest.approx(each)
    ended = descend(problem, DescentConfig(steps=100), 3, begin=(W_D, W_E))
    assert float(ended.loss.mean()) < sum(each) / 3


def test_dead_latents_escape_by_resampling_and_anchors_but_not_by_auxk_under_relu() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), ReLU(), 4)
    W_D, W_E = starts(problem, 8, 0)
    W_E[:, :2] = -1.0  # silent on every feature
    dead = {}
    for name in ("none", "auxk", "resample"):
        plan = DescentConfig(steps=120, lr=0.03, revive=name, every=20)  # type: ignore[arg-type]
        dead[name] = int(descend(problem, plan, 8, begin=(W_D, W_E)).dead[:, :2].sum())
    anchored = descend(problem, DescentConfig(steps=60, lr=0.03, anchors=2), 8, begin=(W_D, W_E))
    assert dead["none"] == dead["auxk"] == 16
    assert dead["resample"] < 12
    assert int(anchored.dead[:, :2].sum()) == 0


def test_auxk_revives_outranked_latents() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), TopK(1), 4)
    W_D, W_E = starts(problem, 8, 0)
    W_E[:, 0], W_E[:, 1:] = 1.0, W_E[:, 1:].abs() * 1e-3  # latent 0 outranks the others everywhere
    still = [
        int(descend(problem, DescentConfig(steps=120, lr=0.03, revive=way), 8, begin=(W_D, W_E)).dead.sum())
        for way in ("none", "auxk")
    ]  # type: ignore[arg-type]
    assert still[1] < still[0]


def test_basins_count_what_is_not_anchored() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), TopK(1), 12)
    plain, held = basins(problem, (0, 3), plan=DescentConfig(steps=100, lr=0.03), runs=16)
    assert held.full >= plain.full
    assert plain.low <= plain.full <= plain.high
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=1e-3)


def test_rescaling_does_not_change_a_relu_pattern() -> None:
    rng = np.random.default_rng(6)
    problem = draw_problem(rng, 4, 3, 3)
    W_E = draw_encoder(rng, problem)
    assert pattern_of(problem, 7 * W_E) == pattern_of(problem, W_E)
    again = float(loss(problem, best_decoder(problem, 7 * W_E), 7 * W_E))
    assert again == pytest.approx(float(loss(problem, best_decoder(problem, W_E), W_E)))
    assert ActivationPattern.of([[0]], 1).dead == ()

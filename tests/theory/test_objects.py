"""Losses, gradients, patterns and realizability against autograd, sampling and brute force."""

import itertools

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError
from monosem.core.activations import Activation, BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import draw_directions, draw_encoder, draw_problem, plane
from monosem.theory.checks.optima import construction_bounds
from monosem.theory.landscape import landscape
from monosem.theory.law import exact_loss, independent, truncated
from monosem.theory.patterns import ActivationPattern, certificate_residual, pattern_of, realize, region
from monosem.theory.problem import Atoms, Problem, best_decoder, estimate_weights, feature_losses, gradients, loss

ACTIVATIONS = [ReLU(), JumpReLU(theta=0.2), TopK(1), TopK(2), BatchTopK(1.0), GroupMax(2)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_gradients_are_those_of_autograd(activation: Activation) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        problem = draw_problem(rng, 5, 4, 4, 3, activation, threshold=0.1)
        W_E = draw_encoder(rng, problem).requires_grad_()
        W_D = torch.from_numpy(rng.standard_normal((3, 4))).requires_grad_()
        by_D, by_E = torch.autograd.grad(loss(problem, W_D, W_E), (W_D, W_E))
        ours = gradients(problem, W_D.detach(), W_E.detach())
        assert torch.allclose(ours[0], by_D, rtol=0, atol=1e-10)
        assert torch.allclose(ours[1], by_E, rtol=0, atol=1e-10)


def test_best_decoder_has_no_gradient_left() -> None:
    rng = np.random.default_rng(1)
    problem = draw_problem(rng, 6, 4, 3, 4)
    W_E = draw_encoder(rng, problem)
    assert float(gradients(problem, best_decoder(problem, W_E), W_E)[0].abs().max()) < 1e-12


def test_bounds_of_the_construction_are_their_equations() -> None:
    problem = draw_problem(np.random.default_rng(5), 5, 3, 6)
    gram = (problem.W_p.T @ problem.W_p).numpy()
    others = gram[~np.eye(5, dtype=bool)]
    M, K, weights = max(others.max(), 0.0), (gram > 0).sum(0), problem.weights.numpy()
    assert M > 0
    assert K.max() > 2
    wanted = 25 * M**2 * weights.sum(), M**2 * (weights * (K - 1) ** 2).sum()
    assert construction_bounds(problem) == pytest.approx(wanted, rel=1e-12)


def test_a_landscape_takes_as_many_patterns_as_it_may() -> None:
    problem = Problem(torch.eye(2), torch.eye(2), torch.ones(2), n_q=2)
    assert len(landscape(problem, most=2).places) == 2
    with pytest.raises(ArgumentError, match="2 features have 2 patterns"):
        landscape(problem, most=1)


def test_sampled_losses_meet_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    law = independent(torch.tensor([0.3, 0.2, 0.1]).double(), truncated(levels=2))
    problem = Problem(draw_directions(rng, 3, 3), draw_directions(rng, 2, 3), law.weights, JumpReLU(theta=0.3), 4)
    W_E, W_D = draw_encoder(rng, problem), torch.from_numpy(rng.standard_normal((2, 4)))
    exact = exact_loss(problem, law, W_D, W_E)
    x = law.supports[rng.choice(len(law.chance), size=40_000, p=law.chance.numpy())]
    x = x * torch.from_numpy(rng.choice(law.magnitude.levels, size=tuple(x.shape), p=law.magnitude.chances))
    errors = feature_losses(problem, W_D, W_E, Atoms(x @ problem.W_p.T, x @ problem.W_r.T, torch.ones(40_000)))
    assert exact.error == 0
    assert abs(exact.value - float(errors.mean())) < 5 * float(errors.std()) / 40_000**0.5
    part = exact_loss(problem, independent(law.rates, law.magnitude, at_most=2), W_D, W_E)
    assert part.value <= exact.value <= part.value + part.error


def test_weights_estimated_from_rows() -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.exponential(size=(100_000, 3)) * (rng.random((100_000, 3)) < 0.2))
    mean, error = estimate_weights(x)
    assert bool(((mean - 0.2 * 0.8**2 * 2.0).abs() < 5 * error).all())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_an_encoder_lies_in_the_region_of_its_pattern_only(activation: Activation) -> None:
    rng = np.random.default_rng(4)
    problem = draw_problem(rng, 3, 2, 4, 2, activation, threshold=0.1)
    encoders = [draw_encoder(rng, problem) for _ in range(30)]
    patterns = [pattern_of(problem, W_E) for W_E in encoders]
    for P in patterns:
        inside = region(problem, P)
        assert [inside.contains(W_E) for W_E in encoders] == [Q == P for Q in patterns]


@pytest.mark.parametrize("activation", [ReLU(), TopK(1), TopK(2), JumpReLU(theta=0.4)], ids=repr)
def test_realizable_patterns_are_those_that_drawing_finds(activation: Activation) -> None:
    """n = 3 in the plane, two latents: all 64 patterns against 100,000 random encoders."""
    W = plane(10, 130, 275)
    problem = Problem(W, W, torch.ones(3), activation, 2)
    rng = np.random.default_rng(5)
    draws = torch.from_numpy(rng.standard_normal((100_000, 2, 2)) * rng.exponential(2.0, (100_000, 1, 1)))
    codes = problem.codes(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert codes.shape == (2, 2)
    from monosem.theory.problem import sigma

    z = torch.einsum("bqp,pd->bdq", draws, W).reshape(-1, 2)
    fires = (sigma(activation, z) != 0).reshape(-1, 3, 2)
    seen = set(map(tuple, fires.reshape(-1, 6).unique(dim=0).int().tolist()))
    for bits in itertools.product((0, 1), repeat=6):
        pattern = ActivationPattern.of([[d for d in range(3) if bits[2 * d + i]] for i in range(2)], 3)
        answer = realize(problem, pattern)
        if answer.encoder is not None:
            assert pattern_of(problem, answer.encoder) == pattern
        else:
            assert answer.certificate is not None
            assert certificate_residual(region(problem, pattern), answer.certificate) < 1e-9
        if bits in seen:
            assert answer.realizable, str(pattern)
        elif answer.realizable:  # only patterns of empty interior escape drawing
            assert not answer.interior, str(pattern)


def test_a_wrong_certificate_is_refused() -> None:
    W = plane(0, 90)
    problem = Problem(W, W, torch.ones(2), ReLU(), 1)
    where = region(problem, ActivationPattern.of([(0, 1)], 2))
    assert certificate_residual(where, torch.tensor([0.5, 0.5])) > 0.4
    assert certificate_residual(where, torch.tensor([-1.0, 2.0])) >= 1.0


def test_relu_absorption_counterexample() -> None:
    """Directions at 0, 10, 95, -85 degrees: {0, 10} is realizable, {0} and {10} alone are not."""
    W = plane(0, 10, 95, -85)
    problem = Problem(W, W, torch.ones(4), ReLU(), 1)
    assert [realize(problem, ActivationPattern.of([s], 4)).realizable for s in ((0, 1), (0,), (1,))] == [
        True,
        False,
        False,
    ]

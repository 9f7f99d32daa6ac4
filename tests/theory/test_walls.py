"""Closed regions: the exact maximum over nonnegative vectors, minima on walls, and latents that sit in one."""

import numpy as np
import pytest
import torch

from monosem.base.errors import RefusedError, ShapeError
from monosem.core.activations import JumpReLU, ReLU, TopK
from monosem.theory.checks.base import draw_directions, draw_partition, draw_problem, plane
from monosem.theory.checks.stationary import example_35
from monosem.theory.descent import DescentConfig, descend
from monosem.theory.minima import trichotomy
from monosem.theory.patterns import ActivationPattern, pattern_of, realize, region
from monosem.theory.problem import Problem, best_decoder, gradients, loss
from monosem.theory.walls import closed_minimum, nonnegative_maximum, standing
from monosem.theory.zeroset import mirrored_pair, recovery, unrecovering


def test_nonnegative_maximum_is_that_of_a_fine_grid() -> None:
    A = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 2, 3)))
    gram = A.transpose(1, 2) @ A
    z, mu = nonnegative_maximum(gram)
    assert torch.allclose(torch.einsum("bd,bde,be->b", z, gram, z), mu)
    assert torch.allclose(z.norm(dim=1), torch.ones(40).double())
    assert bool((z >= 0).all())
    angle = torch.linspace(0, np.pi / 2, 200, dtype=torch.float64)
    polar, turn = torch.meshgrid(angle, angle, indexing="ij")
    grid = torch.stack([polar.sin() * turn.cos(), polar.sin() * turn.sin(), polar.cos()], -1).reshape(-1, 3)
    best = torch.einsum("gd,bde,ge->bg", grid, gram, grid).amax(1)
    assert bool((best <= mu * (1 + 1e-12)).all())
    assert bool((best >= mu * (1 - 1e-3)).all())
    with pytest.raises(ShapeError, match="at most 12"):
        nonnegative_maximum(torch.eye(13)[None].double())


def test_every_verdict_has_its_closed_minimum_and_a_trap_is_its_own() -> None:
    rng, verdicts = np.random.default_rng(1), set()
    for _ in range(40):
        n = int(rng.integers(2, 5))
        problem = draw_problem(rng, n, n + 1, n, n)
        pattern = draw_partition(rng, n, n)
        open_region, closed = trichotomy(problem, pattern), closed_minimum(problem, pattern)
        verdicts.add(open_region.verdict)
        assert closed.loss == pytest.approx(float(loss(problem, closed.W_D, closed.W_E)))
        assert bool((closed.slopes <= 1e-12).all())
        if open_region.verdict == "trap":
            assert closed.silent == ()
            assert closed.loss == pytest.approx(open_region.loss)
        elif open_region.verdict == "saddle":
            assert closed.loss < open_region.loss
        else:
            assert closed.silent
    assert verdicts == {"trap", "saddle", "none"}


def test_example_with_unequal_weights_has_its_minimum_on_the_wall() -> None:
    """M = (2, 1): feature 1 falls silent, <w_D, w_r^1> = 0: the wall attracts."""
    problem, _, _ = example_35((2.0, 1.0))
    closed = closed_minimum(problem, ActivationPattern.of([[0, 1], []], 2))
    assert closed.silent == (1,)
    assert closed.slopes.tolist() == [0.0]
    assert closed.loss == pytest.approx(1.0)


def test_at_the_wall_of_jump_relu_the_loss_jumps() -> None:
    """M_d (|w_r|^2 - |w_r - theta w|^2) is lost when a feature of the wall falls silent; no infimum is reached."""
    problem = Problem(torch.eye(2), torch.eye(2), torch.tensor([2.0, 1.0]), JumpReLU(theta=0.5), 2)

    def at(first: float, second: float) -> float:
        W_E = torch.tensor([[first, second], [-1.0, -1.0]], dtype=torch.float64)
        return float(loss(problem, best_decoder(problem, W_E), W_E))

    inside = [at(size, 0.5 + 1e-9) for size in (1.0, 10.0, 100.0, 1000.0)]
    assert inside == sorted(inside, reverse=True)
    assert inside[-1] > 1.0  # only in the limit of a long row and a short column
    assert inside[-1] == pytest.approx(1.0, abs=1e-3)
    W_E = torch.tensor([[1.0, 0.5 + 1e-9], [-1.0, -1.0]], dtype=torch.float64)
    W_D, w_r = best_decoder(problem, W_E), problem.W_r[:, 1]
    silent = W_E - torch.tensor([[0.0, 2e-9], [0.0, 0.0]])
    jump = float(loss(problem, W_D, silent) - loss(problem, W_D, W_E))
    assert jump == pytest.approx(float(w_r.square().sum() - (w_r - 0.5 * W_D[:, 0]).square().sum()))
    closed = closed_minimum(problem, ActivationPattern.of([[0, 1], []], 2))
    assert closed.loss == pytest.approx(1.0)
    assert pattern_of(problem, closed.W_E) == ActivationPattern.of([[0], []], 2)


def test_closed_minima_refuse_dependent_directions() -> None:
    W = plane(0, 100, 200)
    with pytest.raises(RefusedError, match="rank 2"):
        closed_minimum(Problem(W, W, torch.ones(3), ReLU(), 3), ActivationPattern.of([[0, 1], [2], []], 3))


@pytest.mark.parametrize("activation", [ReLU(), TopK(1)], ids=repr)
def test_where_descent_ends_is_told_latent_by_latent(activation: ReLU | TopK) -> None:
    rng = np.random.default_rng(2)
    W = draw_directions(rng, 8, 6)
    problem = Problem(W, W, torch.ones(6), activation, 3)
    ended = descend(problem, DescentConfig(steps=250, lr=0.05), 4, seed=1)
    kinds = torch.zeros(5)
    for W_D, W_E in zip(ended.W_D, ended.W_E, strict=True):
        codes = problem.codes(W_E)
        stands = standing(W_D, codes, problem.W_r, problem.weights)
        each = torch.stack([stands.silent, stands.single, stands.shared, stands.trapped, stands.moving])
        assert bool((each.sum(0) == 1).all())
        kinds += each.float().mean(1)
        assert bool((stands.excess[stands.trapped] >= -1e-9).all())
    assert float(kinds[3]) > 0  # six features, three latents: some share a latent for good


def test_a_trap_stands_as_one_and_a_shift_moves_it() -> None:
    problem = draw_problem(np.random.default_rng(5), 4, 5, 4, 4)
    closed = closed_minimum(problem, ActivationPattern.of([[0, 1, 2], [3], [], []], 4))
    stands = standing(closed.W_D, problem.codes(closed.W_E), problem.W_r, problem.weights)
    polysemantic = len(closed.pattern.sets[0]) > 1
    assert bool(stands.trapped[0]) == polysemantic
    assert stands.silent.tolist()[2:] == [True, True]
    assert stands.shares()["silent"] == 0.5
    moved = standing(2 * closed.W_D, problem.codes(closed.W_E), problem.W_r, problem.weights)
    assert bool(moved.moving[0]) == polysemantic


def test_a_mirrored_pair_maps_inputs_to_targets() -> None:
    """A transcoder with W_r = T W_p: T, not its inverse, stands before the columns."""
    rng = np.random.default_rng(6)
    W_p, T = draw_directions(rng, 3, 5), torch.from_numpy(rng.standard_normal((3, 3)))
    problem = Problem(W_p, T @ W_p, torch.ones(5), ReLU(), 6)
    W_D, W_E = mirrored_pair(problem, torch.linalg.qr(T)[0])
    assert float(loss(problem, W_D, W_E)) < 1e-20


def test_unrecovering_turns_encoder_rows_away_too() -> None:
    """From a start whose rows lie near features; without the encoder's part of the objective they stay there."""
    W = plane(0, 75, 170, 260)
    for n_q in (5, 6):
        problem = Problem(W, W, torch.ones(4), ReLU(), n_q)
        reached = recovery(problem, *unrecovering(problem, np.random.default_rng(1), steps=120, starts=1))
        assert reached.encoder == 0.0
        assert reached.decoder_mean < 1.0


def test_a_margin_is_that_of_the_tightest_group() -> None:
    W = plane(0, 10, 95, 160)
    problem = Problem(W, W, torch.ones(4), ReLU(), 2)
    pattern = ActivationPattern.of([[0, 1, 2], [3]], 4)
    answer = realize(problem, pattern)
    assert answer.encoder is not None
    slack = region(problem, pattern).slack(answer.encoder)
    assert answer.margin == pytest.approx(float(slack.min()), abs=1e-9)
    assert float(slack.max()) > answer.margin + 0.01


def test_interference_may_be_negative() -> None:
    W = plane(0, 120, 240)
    assert Problem(W, W, torch.ones(3)).max_interference == pytest.approx(-0.5)


def test_gradients_at_a_closed_minimum_vanish() -> None:
    problem = draw_problem(np.random.default_rng(9), 5, 6, 5, 3, TopK(2))
    closed = closed_minimum(problem, draw_partition(np.random.default_rng(3), 5, 5))
    assert max(float(g.abs().max()) for g in gradients(problem, closed.W_D, closed.W_E)) < 1e-12

"""The certified search: its cones, its bounds, and its optima against grids, random encoders and many descents."""

import math

import numpy as np
import pytest
import torch

from monosem.base.errors import RefusedError
from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import draw_encoder, draw_problem, plane
from monosem.theory.descent import DescentConfig, descend
from monosem.theory.problem import Problem, best_decoder, loss
from monosem.theory.search.certified import certified_optimum, in_gauge
from monosem.theory.search.cones import code_cones
from monosem.theory.search.pairs import lower_bounds


def planes(G: torch.Tensor, Z: torch.Tensor) -> torch.Tensor:
    """tr(G) - tr(G P) for many pairs of codes Z [pairs, n, 2], by orthonormal bases."""
    Q = torch.linalg.qr(Z)[0]
    return G.trace() - torch.einsum("bnk,nm,bmk->b", Q, G, Q)


def test_lower_bounds_are_below_every_plane_of_their_node() -> None:
    rng = np.random.default_rng(3)
    A = torch.from_numpy(rng.standard_normal((3, 4)))
    G = A.T @ A
    for size in (1.0, 0.3, 0.05):
        first = torch.from_numpy(rng.exponential(size=(20, 1, 4)) + size * rng.exponential(size=(20, 3, 4)))
        second = torch.from_numpy(rng.standard_normal((20, 1, 4)) + size * rng.standard_normal((20, 3, 4)))
        bound = lower_bounds(G, first, second)
        shares = torch.from_numpy(rng.dirichlet(np.ones(3), size=(2, 20, 200)))
        z, y = shares[0] @ first, shares[1] @ second
        values = planes(G, torch.stack([z, y], 3).flatten(0, 1)).reshape(20, 200)
        assert bool((values.amin(1) >= bound).all())
    assert float((values.amin(1) - bound).median()) < 0.05 * float(G.trace())


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(theta=0.4)], ids=repr)
def test_cones_hold_the_codes_of_every_row_and_no_other(activation: Activation) -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(8)
    problem = draw_problem(rng, 4, 3, 1, None, activation)
    cones, root = {c.members: c for c in code_cones(problem)}, problem.weights.sqrt().numpy()
    for _ in range(300):
        W_E = draw_encoder(rng, problem)
        code = problem.codes(W_E)[:, 0].numpy() * root
        members = tuple(np.flatnonzero(code).tolist())
        if members:
            assert nnls(cones[members].codes.T, code)[1] < 1e-8 * np.linalg.norm(code)
    for members, cone in cones.items():
        _, _, value = in_gauge(problem, torch.from_numpy(cone.inside)[None])
        Z = torch.from_numpy(np.atleast_2d(problem.W_p.T.numpy() @ cone.inside * root))
        Z = Z * torch.from_numpy(np.isin(np.arange(4), members))
        A = problem.W_r * problem.weights.sqrt()
        expected = float(A.square().sum() - ((A @ Z.T) ** 2).sum() / Z.square().sum())
        assert value <= expected * (1 + 1e-9)


def test_one_latent_is_that_of_a_fine_grid() -> None:
    """One latent in the plane: 36,000 directions."""
    rng = np.random.default_rng(4)
    for _ in range(4):
        problem = draw_problem(rng, 4, 2, 1)
        found = certified_optimum(problem)
        assert found.complete
        angles = torch.arange(36_000, dtype=torch.float64) * 2 * math.pi / 36_000
        Z = (torch.stack([angles.cos(), angles.sin()], 1) @ problem.W_p).clamp(min=0)  # [angles, n]
        m = problem.weights
        gain = ((Z * m) @ problem.W_r.T).square().sum(1) / (Z.square() @ m).clamp(min=1e-12)
        grid = problem.zero_dictionary_loss - float(gain.max())
        assert found.lower <= grid + 1e-9
        assert grid <= found.loss * (1 + 1e-5)


@pytest.mark.parametrize(
    ("n", "n_p", "n_q"), [(2, 2, 1), (3, 2, 2), (3, 3, 2), (4, 2, 2), (4, 2, 3), (4, 3, 3), (3, 3, 4)]
)
def test_every_small_problem_is_certified_and_descent_is_never_better(n: int, n_p: int, n_q: int) -> None:
    """SAE and transcoder, ReLU and a threshold, against 4,000 random encoders and 64 starts of Adam."""
    rng = np.random.default_rng(10 * n + n_q)
    for n_r, activation in ((None, ReLU()), (3, ReLU()), (3, JumpReLU(theta=0.3))):
        problem = draw_problem(rng, n, n_p, n_q, n_r, activation)
        found = certified_optimum(problem, starts=8, steps=150)
        assert found.complete, (found.loss, found.lower)
        assert found.loss == pytest.approx(float(loss(problem, found.W_D, found.W_E)))
        Z = torch.from_numpy(rng.standard_normal((4000, n_q, n_p)) * rng.exponential(2.0, (4000, n_q, 1)))
        root = problem.weights.sqrt()
        codes = root[:, None] * problem.codes(Z.reshape(-1, n_p)).T.reshape(4000, n_q, n).transpose(1, 2)
        P = codes @ torch.linalg.pinv(codes)
        A = problem.W_r * root
        drawn = (A - A @ P).square().sum((1, 2))
        assert float(drawn.min()) >= found.lower - 1e-9
    problem = draw_problem(rng, n, n_p, n_q, 3)
    found = certified_optimum(problem, starts=8, steps=150)
    for W_E in descend(problem, DescentConfig(steps=150, lr=0.05), 64, seed=5).W_E:
        assert float(loss(problem, best_decoder(problem, W_E), W_E)) >= found.lower - 1e-9


@pytest.mark.slow
def test_three_dimensions_two_latents_are_certified() -> None:
    """The largest case of branch and bound, against 512 starts of Adam."""
    rng = np.random.default_rng(12)
    for n_r in (None, 3):
        problem = draw_problem(rng, 4, 3, 2, n_r)
        found = certified_optimum(problem)
        assert found.complete, (found.loss, found.lower)
        for W_E in descend(problem, DescentConfig(steps=600, lr=0.03), 512, seed=5).W_E:
            assert float(loss(problem, best_decoder(problem, W_E), W_E)) >= found.lower - 1e-9


def test_the_infimum_may_need_columns_that_grow() -> None:
    """Two latents draw together: the certified loss is far below Adam's, with long decoder columns."""
    problem = draw_problem(np.random.default_rng(1), 4, 2, 2)
    found = certified_optimum(problem)
    descended = descend(problem, DescentConfig(steps=400, lr=0.03), 32, 0)
    least = min(float(loss(problem, best_decoder(problem, W_E), W_E)) for W_E in descended.W_E)
    assert found.complete
    assert found.loss < 0.95 * least
    assert found.columns > 10


def test_certified_search_says_where_it_ends() -> None:
    with pytest.raises(RefusedError, match="latents compete"):
        certified_optimum(Problem(plane(0, 90), plane(0, 90), torch.ones(2), TopK(1), 2))
    with pytest.raises(RefusedError, match="one direction"):
        certified_optimum(Problem(plane(0, 90, 90), plane(0, 90, 45), torch.ones(3), n_q=2))
    rng = np.random.default_rng(0)
    with pytest.raises(RefusedError, match="three dimensions"):
        certified_optimum(draw_problem(rng, 4, 4, 2))
    with pytest.raises(RefusedError, match="n <= 4"):
        certified_optimum(draw_problem(rng, 6, 3, 3))

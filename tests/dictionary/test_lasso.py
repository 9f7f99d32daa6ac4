"""The nonnegative lasso against scikit-learn's coordinate descent, its optimality conditions, and scipy's nnls."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from monosem.base.errors import DataError, ShapeError
from monosem.dictionary.coding import duality_gap, nonnegative_lasso


def problem(rows: int, d: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((d, n)) * rng.uniform(0.5, 2.0, n)
    x = (rng.exponential(size=(rows, n)) * (rng.random((rows, n)) < 4 / n)) @ D.T
    return torch.from_numpy(x + 0.05 * rng.standard_normal((rows, d))), torch.from_numpy(D)


@pytest.mark.parametrize(("d", "n", "l1"), [(12, 30, 0.1), (12, 30, 1.0), (30, 12, 0.3)])
def test_equals_scikit_learn(d: int, n: int, l1: float) -> None:
    x, D = problem(20, d, n, seed=d + n)
    z = nonnegative_lasso(x, D, l1, 3000, 1e-10, chunk=7)
    solver = Lasso(alpha=l1 / d, fit_intercept=False, positive=True, tol=1e-10, max_iter=100_000)
    expected = np.stack([solver.fit(D.numpy(), row).coef_ for row in x.numpy()])
    np.testing.assert_allclose(z.numpy(), expected, atol=1e-4)


def test_meets_the_optimality_conditions() -> None:
    """<d_j, r> = l1 where z_j > 0, at most l1 elsewhere."""
    x, D = problem(30, 15, 40, seed=1)
    z = nonnegative_lasso(x, D, 0.2, 3000, 1e-10)
    pull = (x - z @ D.T) @ D
    assert (z >= 0).all()
    assert float((pull - 0.2).max()) < 1e-5
    assert float((pull - 0.2)[z > 1e-4].abs().max()) < 1e-4


def test_the_gap_bounds_the_distance_to_the_optimum_and_stops_rows() -> None:
    x, D = problem(30, 15, 40, seed=2)

    def value(z: torch.Tensor) -> torch.Tensor:
        return (x - z @ D.T).square().sum(1) / 2 + 0.3 * z.sum(1)

    best = value(nonnegative_lasso(x, D, 0.3, 3000, 1e-10))
    for tol in (1e-1, 1e-3, 1e-5):
        z = nonnegative_lasso(x, D, 0.3, 3000, tol)
        gap = duality_gap(x, D, z, 0.3)
        assert (gap <= tol * x.square().sum(1) / 2 * (1 + 1e-9)).all()
        assert (value(z) - best <= gap + 1e-9).all()
    few = nonnegative_lasso(x, D, 0.3, 3, 0.0)
    assert (value(few) - best <= duality_gap(x, D, few, 0.3)).all()  # also of codes far from the optimum


def test_without_a_penalty_it_is_nonnegative_least_squares() -> None:
    x, D = problem(20, 20, 8, seed=3)
    z = nonnegative_lasso(x, D, 0.0, 1500, 0.0)
    np.testing.assert_allclose(z.numpy(), np.stack([nnls(D.numpy(), row)[0] for row in x.numpy()]), atol=1e-6)


def test_a_row_does_not_depend_on_the_others_and_any_start_ends_alike() -> None:
    x, D = problem(12, 20, 10, seed=4)
    whole = nonnegative_lasso(x, D, 0.1, 1500, 1e-10, chunk=5)
    alone = torch.cat([nonnegative_lasso(x[i : i + 1], D, 0.1, 1500, 1e-10) for i in range(12)])
    torch.testing.assert_close(whole, alone, atol=1e-9, rtol=0)
    elsewhere = nonnegative_lasso(x, D, 0.1, 1500, 1e-10, start=torch.ones(12, 10))
    torch.testing.assert_close(whole, elsewhere, atol=1e-4, rtol=0)
    again = nonnegative_lasso(x, D, 0.1, 1, 1e-9, start=whole)
    assert torch.equal(again, whole)  # converged rows stay as they are


def test_float32_zero_rows_and_zero_atoms() -> None:
    D = torch.eye(3)
    D[:, 1] = 0.0
    z = nonnegative_lasso(torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, -1.0]]), D, 0.5)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]))
    assert nonnegative_lasso(torch.ones(2, 3), torch.zeros(3, 4), 0.1).tolist() == [[0.0] * 4] * 2


def test_bad_input_is_named() -> None:
    with pytest.raises(ShapeError, match="d = 3 in x but 4 in D"):
        nonnegative_lasso(torch.zeros(2, 3), torch.zeros(4, 5), 1.0)
    with pytest.raises(ValueError, match=r"l1 = -1"):
        nonnegative_lasso(torch.zeros(2, 3), torch.zeros(3, 5), -1.0)
    with pytest.raises(ValueError, match="iterations = 0"):
        nonnegative_lasso(torch.zeros(2, 3), torch.zeros(3, 5), 1.0, 0)
    with pytest.raises(ShapeError, match=r"start has shape \(2, 4\), codes \(2, 5\)"):
        nonnegative_lasso(torch.zeros(2, 3), torch.zeros(3, 5), 1.0, start=torch.zeros(2, 4))
    with pytest.raises(DataError, match="NaN"):
        nonnegative_lasso(torch.full((2, 3), torch.nan), torch.zeros(3, 5), 1.0)

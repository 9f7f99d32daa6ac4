"""Nonnegative orthogonal matching pursuit against a naive loop, scipy's nnls, and planted codes."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from monosem.base.errors import DataError, ShapeError
from monosem.dictionary.coding import nonnegative_omp


def naive(x: np.ndarray, D: np.ndarray, k: int, tol: float) -> np.ndarray:
    """One row: the published algorithm, written with lists and lstsq."""
    unit = D / np.linalg.norm(D, axis=0)
    support: list[int] = []
    z: dict[int, float] = {}
    residual = x
    while len(support) < k and np.linalg.norm(residual) > tol * np.linalg.norm(x):
        correlation = unit.T @ residual
        correlation[support] = -1.0
        atom = int(correlation.argmax())
        if correlation[atom] <= 1e-12 * np.linalg.norm(x):
            break
        trial, now = [*support, atom], {**z, atom: 0.0}
        while True:
            target = dict(zip(trial, np.linalg.lstsq(unit[:, trial], x, rcond=None)[0], strict=True))
            blocked = [i for i in trial if target[i] <= 0]
            if not blocked:
                break
            stride = min(now[i] / (now[i] - target[i]) if now[i] else 0.0 for i in blocked)
            drop = [i for i in blocked if (now[i] / (now[i] - target[i]) if now[i] else 0.0) <= stride]
            now = {i: now[i] + stride * (target[i] - now[i]) for i in trial if i not in drop}
            trial = list(now)
        support, z = trial, {i: target[i] for i in trial}
        residual = x - unit[:, trial] @ np.array([target[i] for i in trial])
    code = np.zeros(D.shape[1])
    code[support] = [z[i] for i in support]
    return code / np.linalg.norm(D, axis=0)


def problem(rows: int, d: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((d, n)) * rng.uniform(0.5, 2.0, n)
    x = (rng.exponential(size=(rows, n)) * (rng.random((rows, n)) < 4 / n)) @ D.T
    return x + 0.05 * rng.standard_normal((rows, d)), D


@pytest.mark.parametrize(("d", "n", "k"), [(12, 30, 1), (12, 30, 5), (20, 60, 12), (8, 6, 6)])
def test_equals_the_naive_loop(d: int, n: int, k: int) -> None:
    x, D = problem(60, d, n, seed=d + k)
    z = nonnegative_omp(torch.from_numpy(x), torch.from_numpy(D), k, 1e-6, chunk=23).numpy()
    expected = np.stack([naive(row, D, k, 1e-6) for row in x])
    np.testing.assert_allclose(z, expected, atol=1e-8)
    assert (z >= 0).all()
    assert ((z > 0).sum(1) <= k).all()


def test_atoms_that_leave_the_support() -> None:
    """Coherent atoms: on many of these rows plain greedy least squares goes negative, so atoms must be dropped."""
    rng = np.random.default_rng(3)
    x, D = rng.uniform(size=(60, 10)), rng.uniform(size=(10, 40))
    unit, negative = D / np.linalg.norm(D, axis=0), 0
    for row in x:
        support: list[int] = []
        residual, least = row, np.zeros(0)
        while len(support) < 6 and (least >= 0).all():
            support.append(int((unit.T @ residual).argmax()))
            least = np.linalg.lstsq(unit[:, support], row, rcond=None)[0]
            residual = row - unit[:, support] @ least
        negative += bool((least < 0).any())
    assert negative > 20
    for k in (6, 10):  # at 10 two atoms are blocked at once on some rows, and only the first may go
        z = nonnegative_omp(torch.from_numpy(x), torch.from_numpy(D), k).numpy()
        np.testing.assert_allclose(z, np.stack([naive(row, D, k, 1e-6) for row in x]), atol=1e-8)


def test_is_the_nonnegative_least_squares_solution_on_its_support() -> None:
    x, D = problem(40, 15, 50, seed=1)
    for row, z in zip(x, nonnegative_omp(torch.from_numpy(x), torch.from_numpy(D), 6).numpy(), strict=True):
        support = np.flatnonzero(z)
        np.testing.assert_allclose(z[support], nnls(D[:, support], row)[0], atol=1e-8)


def test_without_a_limit_it_is_nonnegative_least_squares() -> None:
    x, D = problem(40, 20, 12, seed=2)
    z = nonnegative_omp(torch.from_numpy(x), torch.from_numpy(D), 12, 0.0).numpy()
    np.testing.assert_allclose(z, np.stack([nnls(D, row)[0] for row in x]), atol=1e-8)


def test_finds_planted_codes() -> None:
    rng = np.random.default_rng(0)
    D = rng.standard_normal((64, 100)).astype(np.float32)
    planted = np.zeros((50, 100), np.float32)
    for row in planted:
        row[rng.choice(100, 3, replace=False)] = rng.uniform(1, 2, 3)
    z = nonnegative_omp(torch.from_numpy(planted @ D.T), torch.from_numpy(D), 10, 1e-5)
    assert z.dtype == torch.float32
    np.testing.assert_allclose(z.numpy(), planted, atol=1e-5)


def test_nearly_opposite_atoms_stay_sound() -> None:
    """Codes of 1e4 that nearly cancel, condition number 1e8: still solved to three digits."""
    D = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1e-4, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
    z = nonnegative_omp(x, D, 3, 0.0)
    torch.testing.assert_close(z, torch.tensor([[1e4, 1e4, 1.0]], dtype=torch.float64), rtol=1e-3, atol=0)


def test_zero_rows_and_zero_atoms_stay_silent() -> None:
    D = torch.eye(3)
    D[:, 1] = 0.0
    z = nonnegative_omp(torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, -2.0], [2.0, 1.0, 0.0]]), D, 3)
    assert z.tolist() == [[0.0] * 3, [0.0] * 3, [2.0, 0.0, 0.0]]


def test_a_row_does_not_depend_on_the_others() -> None:
    x, D = (torch.from_numpy(part) for part in problem(30, 10, 25, seed=5))
    whole = nonnegative_omp(x, D, 6)
    alone = torch.cat([nonnegative_omp(x[i : i + 1], D, 6) for i in range(30)])
    torch.testing.assert_close(whole, alone, atol=1e-10, rtol=0)


def test_bad_input_is_named() -> None:
    with pytest.raises(ShapeError, match="d = 3 in x but 4 in D"):
        nonnegative_omp(torch.zeros(2, 3), torch.zeros(4, 5), 1)
    with pytest.raises(ValueError, match="k = 0"):
        nonnegative_omp(torch.zeros(2, 3), torch.zeros(3, 5), 0)
    with pytest.raises(DataError, match="NaN"):
        nonnegative_omp(torch.full((2, 3), torch.nan), torch.zeros(3, 5), 1)

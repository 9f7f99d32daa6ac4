"""Classical learners: each recovers an easy dictionary, and one step of each against an independent reference."""

import inspect
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

from monosem.base.errors import ArgumentError, DataError
from monosem.base.seeds import key
from monosem.dictionary.atoms import Learner, coder, first_atoms, gram_omp, refreshed, settled
from monosem.dictionary.classical import CLASSICAL, itkrm, ksvd, leading_pair, least_squares_atoms, mod, residual_means
from monosem.dictionary.coding import nonnegative_omp

SPARSITY = {"ksvd": {"k": 2}, "mod": {"k": 2}, "itkrm": {"k": 2}, "online": {"l1": 0.2}, "batch_lasso": {"l1": 0.2}}


def planted(rows: int, n: int, d: int, seed: int, rate: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((d, n))
    W /= np.linalg.norm(W, axis=0)
    z = (0.5 + rng.exponential(size=(rows, n))) * (rng.random((rows, n)) < rate)
    return torch.from_numpy(z @ W.T).float(), torch.from_numpy(W).float()


def test_every_learner_has_the_same_signature() -> None:
    wanted = list(inspect.signature(Learner.__call__).parameters)[1:]
    for name, learner in CLASSICAL.items():
        assert list(inspect.signature(learner).parameters)[: len(wanted)] == wanted, name


@pytest.mark.parametrize("name", CLASSICAL)
def test_recovers_an_easy_dictionary(name: str) -> None:
    n, n_atoms = (12, 12) if name == "fast_ica" else (20, 30)
    x, W = planted(1500, n, 16, seed=1)
    told: list[float] = []
    D = CLASSICAL[name](x, n_atoms, **SPARSITY.get(name, {}), seed=2, progress=lambda share, _: told.append(share))
    assert D.shape == (16, n_atoms)
    assert D.dtype == x.dtype
    torch.testing.assert_close(D.norm(dim=0), torch.ones(n_atoms))
    assert told == sorted(told)
    assert told[-1] == 1.0
    best = (W.T @ D).amax(1)  # signed: nonnegative codes leave no freedom of sign
    assert float(best.mean()) >= 0.97
    assert float((best > 0.95).double().mean()) >= 0.85
    again = CLASSICAL[name](x, n_atoms, **SPARSITY.get(name, {}), seed=2)
    assert torch.equal(D, again)


def test_lasso_codes_serve_least_squares_too() -> None:
    x, W = planted(1200, 20, 16, seed=3)
    assert float(((W.T @ mod(x, 30, l1=0.2)).amax(1) > 0.95).float().mean()) >= 0.9


@pytest.mark.parametrize(("d", "n", "k"), [(12, 30, 1), (12, 30, 5), (20, 60, 8)])
def test_fast_pursuit_gives_the_codes_of_the_plain_one(d: int, n: int, k: int) -> None:
    rng = np.random.default_rng(d + k)
    x, D = (torch.from_numpy(rng.uniform(size=shape)) for shape in ((70, d), (d, n)))
    x[3], D[:, 5] = 0.0, 0.0  # all positive: on many rows atoms leave the support again
    torch.testing.assert_close(gram_omp(x, D, k, chunk=23), nonnegative_omp(x, D, k, 1e-3), atol=1e-8, rtol=0)


def test_an_update_of_ksvd_is_the_leading_singular_pair() -> None:
    rng = np.random.default_rng(4)
    E = np.outer(rng.uniform(1, 2, 30), rng.standard_normal(8)) + 0.1 * rng.standard_normal((30, 8))
    u, s, v = np.linalg.svd(E)
    sign = np.sign(u[:, 0].sum())
    assert (sign * u[:, 0] > 0).all()
    z, d = leading_pair(torch.from_numpy(E), torch.from_numpy(sign * v[0] + 0.3), sweeps=30)
    np.testing.assert_allclose(z.numpy(), sign * s[0] * u[:, 0], atol=1e-9)
    np.testing.assert_allclose(d.numpy(), sign * v[0], atol=1e-9)


def test_with_signs_mixed_it_is_the_best_nonnegative_pair() -> None:
    """min over d of |E|^2 - |(E d)_+|^2 / |d|^2, by a general minimiser from many starts."""
    rng = np.random.default_rng(5)
    E = rng.standard_normal((12, 3))

    def lost(d: np.ndarray) -> float:
        return float(-(np.clip(E @ d, 0, None) ** 2).sum() / (d @ d))

    best = min(minimize(lost, rng.standard_normal(3)).fun for _ in range(30))
    starts = torch.from_numpy(rng.standard_normal((30, 3)))
    pairs = [leading_pair(torch.from_numpy(E), start / start.norm(), sweeps=300) for start in starts]
    found = min(float(((torch.from_numpy(E) - torch.outer(z, d)) ** 2).sum()) for z, d in pairs)
    assert abs(found - ((E**2).sum() + best)) < 1e-6
    z, d = leading_pair(-torch.ones(4, 2), torch.ones(2))
    assert z.tolist() == [0.0] * 4
    assert d.tolist() == [1.0, 1.0]


def test_the_least_squares_step_is_numpys() -> None:
    rng = np.random.default_rng(6)
    codes, x = rng.exponential(size=(50, 6)), rng.standard_normal((50, 4))
    codes[:, 2] = 0.0
    D = rng.standard_normal((4, 6))
    found = least_squares_atoms(*(torch.from_numpy(part) for part in (x, codes, D)), ridge=1e-12).numpy()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found[:, others], np.linalg.lstsq(codes[:, others], x, rcond=None)[0].T, atol=1e-7)
    np.testing.assert_allclose(found[:, 2], D[:, 2])


def test_residual_means_are_the_published_sums() -> None:
    x, D = planted(40, 10, 6, seed=7)
    chosen = (x @ D).topk(3, 1).indices
    own = (x @ D).gather(1, chosen).clamp(min=0.0)
    means, left = residual_means(x.double(), D.double(), chosen, own.double())
    expected = np.zeros((6, 10))
    for row, atoms, products, rest in zip(x.double().numpy(), chosen.numpy(), own.numpy(), left.numpy(), strict=True):
        support = atoms[products > 0]
        A = D.double().numpy()[:, support]
        residual = row - A @ np.linalg.lstsq(A, row, rcond=None)[0] if support.size else row
        np.testing.assert_allclose(rest, residual, atol=1e-3 * max(1.0, np.abs(row).max()))
        for j in support:
            d = D.double().numpy()[:, j]
            expected[:, j] += residual + (d @ row) * d
    np.testing.assert_allclose(means.numpy(), expected, atol=2e-3)


def test_online_is_scikit_learns() -> None:
    x, _ = planted(300, 8, 16, seed=8)
    plain = MiniBatchDictionaryLearning(
        8,
        alpha=0.2,
        max_iter=2,
        fit_algorithm="cd",
        batch_size=256,
        positive_code=True,
        dict_init=first_atoms(x[x.norm(dim=1) > 0], 8, 1).T.double().numpy(),
        tol=0.0,
        max_no_improvement=None,
        random_state=key(1, "classical/online") % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        atoms = plain.fit(x[x.norm(dim=1) > 0].double().numpy()).components_
    expected = (atoms / np.linalg.norm(atoms, axis=1, keepdims=True)).T
    np.testing.assert_allclose(CLASSICAL["online"](x, 8, l1=0.2, iterations=2, seed=1).numpy(), expected, atol=1e-6)


def test_bad_atoms_are_replaced_and_good_ones_stay() -> None:
    D = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0.1, 0], [0, 0, 0, 1]]), dim=0)
    residual = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0], [0.0, 6.0, 8.0]])
    new = refreshed(D, torch.tensor([9, 9, 4, 0]), residual, seed=0, step=0)
    assert torch.equal(new[:, :2], D[:, :2])
    wanted = torch.tensor([0.0, 0.6, 0.8])
    torch.testing.assert_close(new[:, 2], wanted)  # close to atom 0 and used less
    torch.testing.assert_close(new[:, 3], wanted)  # unused
    assert torch.equal(refreshed(D[:, :2], torch.tensor([9, 9]), residual, seed=0, step=0), D[:, :2])
    assert torch.equal(refreshed(D, torch.tensor([9, 9, 4, 0]), torch.zeros(3, 3), seed=0, step=0), D)
    assert [settled(step, 8) for step in range(8)] == [False] * 6 + [True] * 2


def test_bad_input_is_named() -> None:
    x, _ = planted(30, 8, 6, seed=9)
    with pytest.raises(ArgumentError, match=r"k = None and l1 = None; give one"):
        mod(x, 8)
    with pytest.raises(ArgumentError, match=r"k = 2 and l1 = 0.1; give one"):
        mod(x, 8, k=2, l1=0.1)
    for learner in (ksvd, itkrm):
        with pytest.raises(ArgumentError, match="give k alone"):
            learner(x, 8, l1=0.1)
    for name in ("online", "batch_lasso"):
        with pytest.raises(ArgumentError, match="give l1 alone"):
            CLASSICAL[name](x, 8, k=2)
    with pytest.raises(ArgumentError, match="n_atoms = 8 > n_p = 6"):
        CLASSICAL["fast_ica"](x, 8)
    with pytest.raises(ArgumentError, match="give neither"):
        CLASSICAL["fast_ica"](x, 5, k=2)
    with pytest.raises(DataError, match=r"rows that are not zero for n_atoms = 99"):
        mod(x, 99, k=2)
    with pytest.raises(DataError, match="NaN"):
        mod(torch.full((9, 6), torch.nan), 3, k=2)
    with pytest.raises(ArgumentError, match="n_atoms = 0"):
        mod(x, 0, k=2)
    assert coder(None, 0.1)(x, torch.eye(6)).shape == (30, 6)

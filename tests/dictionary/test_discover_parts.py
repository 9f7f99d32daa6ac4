"""The parts of discovery against dense linear algebra: pursuit, least squares, signs of a wrong atom."""

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.base.errors import ShapeError
from monosem.base.sparse import Positions, SparseCode
from monosem.bench.metrics import recall_precision
from monosem.dictionary.climb import climb, distinct, explained, unexplained
from monosem.dictionary.coded import agreement, code_gram, code_moment, company, fit, reconstruct, strain
from monosem.dictionary.coding import stagewise_pursuit


def unit(d: int, m: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(d, m, generator=torch.Generator().manual_seed(seed)), dim=0)


def sparse(rows: int, m: int, rate: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(rows, m, generator=generator) < rate
    return torch.where(fires, torch.rand(rows, m, generator=generator) + 0.5, 0.0)


def code_of(z: Tensor) -> SparseCode:
    return SparseCode(Positions.from_mask(z > 0), z[z > 0])


def test_pursuit_finds_the_codes_that_made_the_rows() -> None:
    D, z = unit(200, 80), sparse(300, 80, 0.03)
    code, left = stagewise_pursuit(z @ D.T, D, tol=1e-3, chunk=128)
    dense = code.to_dense()
    assert float((dense - z).abs().max()) < 0.02
    assert float(left.max()) < 1e-3
    assert torch.equal(dense > 0.1, z > 0)


def test_pursuit_is_nonnegative_and_stops_at_the_limit() -> None:
    D = unit(100, 60)
    x = sparse(50, 60, 0.3) @ D.T
    code, left = stagewise_pursuit(x, D, tol=1e-6, limit=3)
    assert float(code.values.min()) > 0
    assert 3 <= int(code.at.crow.diff().max()) <= 3 + 3  # the last stage may add up to four
    assert torch.allclose(left, (x - code.to_dense() @ D.T).square().sum(1), rtol=1e-3)


def test_pursuit_names_both_widths() -> None:
    with pytest.raises(ShapeError, match=r"d = 3 in x but 4 in D"):
        stagewise_pursuit(torch.zeros(2, 3), torch.eye(4))


def test_sums_over_codes_are_the_dense_products() -> None:
    z, x, D = sparse(90, 15, 0.2), torch.randn(90, 7), unit(7, 15)
    code = code_of(z)
    assert torch.allclose(code_gram(code).float(), z.T @ z, atol=1e-4)
    assert torch.allclose(code_moment(code, x), z.T @ x, atol=1e-4)
    assert torch.allclose(reconstruct(code, D), z @ D.T, atol=1e-5)


def test_fit_is_least_squares_with_an_intercept() -> None:
    z, noise = sparse(400, 6, 0.3), torch.randn(400, 9, generator=torch.Generator().manual_seed(3))
    x = z @ unit(9, 6).T + 0.1 * noise + 2.0
    D, offset = fit(code_of(z), x, ridge=0.0)
    design = np.concatenate([z.double().numpy(), np.ones((400, 1))], 1)
    solution = np.linalg.lstsq(design, x.double().numpy(), rcond=None)[0]
    wanted = solution[:6] / np.linalg.norm(solution[:6], axis=1, keepdims=True)
    np.testing.assert_allclose(D.T.numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(offset.numpy(), solution[6], atol=1e-4)


def test_mixtures_leave_and_features_stay() -> None:
    D = torch.eye(6)
    mixed = torch.nn.functional.normalize(torch.cat([D, (D[:, :1] + D[:, 1:2]), D[:, 2:3] + 0.1 * D[:, 3:4]], 1), dim=0)
    share = explained(mixed)
    assert float(share[6]) > 0.99
    assert float(share[4:6].max()) == 0.0
    kept = mixed[:, unexplained(mixed, 0.75)]
    assert recall_precision(kept, D) | {"M_IP": 1.0} == recall_precision(D, D)


def test_an_atom_that_needs_another_has_company() -> None:
    z = sparse(2000, 5, 0.1)
    z[:, 4] = 0.5 * z[:, 3]  # atom 4 fires exactly where atom 3 does
    found = company(code_of(z))
    assert float(found[3:].min()) > 0.99
    assert float(found[:3].max()) < 0.2


def test_an_atom_between_features_is_strained_and_one_of_noise_is_not_agreed_on() -> None:
    W, z = torch.eye(8), sparse(4000, 8, 0.05)
    between = torch.nn.functional.normalize(W[:, :1] + W[:, 1:2], dim=0)
    x = z @ W.T + 0.05 * torch.randn(4000, 8, generator=torch.Generator().manual_seed(5))
    D = torch.cat([between, W[:, 2:]], 1)
    code, _ = stagewise_pursuit(x, D, tol=0.1)
    residual = x - reconstruct(code, D)
    strained = strain(code, x, residual)
    assert float(strained[0]) > 3 * float(strained[1:].max())
    assert float(agreement(code, residual, D)[1:].min()) > 0.99


def test_climbing_ends_at_features_and_finds_each_once() -> None:
    W, z = unit(100, 30), sparse(3000, 30, 0.03)
    x = z @ W.T
    found = distinct(*climb(x, x[:200].T, kappa=5.0, steps=6), torch.zeros(100, 0), 0.8)
    scores = recall_precision(found, W)
    assert scores["recall"] > 0.8
    assert scores["precision"] > 0.8
    assert distinct(found, torch.ones(found.shape[1]), found, 0.8).shape[1] == 0


def test_a_direction_is_returned_once_and_without_agreement_not_at_all() -> None:
    from monosem.dictionary.discover import _once

    e = torch.eye(4)
    D = torch.stack([e[0], -e[0], e[1], -e[1], e[2], e[3]], 1)
    agreed = torch.tensor([0.99, 0.95, 0.99, 0.75, 0.5, 0.9])
    kept, signed = _once(D, agreed, agreed.argsort(descending=True, stable=True))
    assert kept.tolist() == [0, 2, 5]
    assert signed.tolist() == [True, False, False]  # the opposite of the second is no reliable atom
    kept, _ = _once(D, agreed - 0.5, agreed.argsort(descending=True, stable=True))
    assert kept.tolist() == [0, 2, 5, 4]  # where nothing agrees, all directions stay

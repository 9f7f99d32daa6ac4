"""Positions and codes: every member against brute force, sparse and dense codes against each other."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.sparse import DenseCode, Positions, SparseCode
from tests.kernels.layouts import positions

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 7))


def drawn(data: st.DataObject) -> Positions:
    return data.draw(positions(*data.draw(SIZES)))


def pairs(at: Positions) -> list[tuple[int, int]]:
    """(row, latent) of every cell, in order, read off the definition."""
    return [(row, int(col)) for row in range(at.batch) for col in at.col[int(at.crow[row]) : int(at.crow[row + 1])]]


@given(st.data())
def test_positions_are_those_of_the_mask(data: st.DataObject) -> None:
    at = drawn(data)
    mask = at.mask()
    assert pairs(at) == [tuple(cell) for cell in np.argwhere(mask.numpy()).tolist()]
    assert at.row.tolist() == [row for row, _ in pairs(at)]
    assert at.nnz == int(mask.sum())
    assert mask.shape == (at.batch, at.n_q)


@given(st.data())
def test_latent_major_sorts_stably(data: st.DataObject) -> None:
    at = drawn(data)
    order, offsets = at.latent_major
    wanted = sorted(range(at.nnz), key=lambda cell: int(at.col[cell]))  # Python's sort is stable
    assert order.tolist() == wanted
    assert offsets.tolist() == [int((at.col < latent).sum()) for latent in range(at.n_q + 1)]


def test_latent_major_holds_beyond_sixteen_bits() -> None:
    at = Positions.from_rows(torch.tensor([[70000, 1], [65536, 70000], [0, 65535]]), 70001)
    assert at.col[at.latent_major[0]].tolist() == [0, 1, 65535, 65536, 70000, 70000]


@given(st.data())
def test_subset_keeps_order_and_rows(data: st.DataObject) -> None:
    at = drawn(data)
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=at.nnz, max_size=at.nnz)), dtype=torch.bool)
    assert pairs(at.subset(chosen)) == [pair for pair, keep in zip(pairs(at), chosen, strict=True) if keep]


def test_from_rows_keeps_each_row() -> None:
    at = Positions.from_rows(torch.tensor([[3, 0], [1, 2]]), 4)
    assert pairs(at) == [(0, 3), (0, 0), (1, 1), (1, 2)]
    assert Positions.from_rows(torch.zeros(3, 0, dtype=torch.int64), 4).nnz == 0


def both(data: st.DataObject) -> tuple[SparseCode, DenseCode]:
    at = drawn(data)
    values = torch.randn(at.nnz, dtype=torch.float64)
    dense = torch.zeros(at.batch, at.n_q, dtype=torch.float64)
    for (row, col), value in zip(pairs(at), values, strict=True):
        dense[row, col] = value
    return SparseCode(at, values), DenseCode(dense)


@given(st.data())
def test_sparse_and_dense_codes_agree(data: st.DataObject) -> None:
    sparse, dense = both(data)
    per_latent = torch.randn(dense.n_q, dtype=torch.float64)
    keep = torch.rand(dense.n_q) < 0.5
    assert (sparse.batch, sparse.n_q, sparse.is_sparse) == (dense.batch, dense.n_q, not dense.is_sparse)
    torch.testing.assert_close(sparse.to_dense(), dense.to_dense())
    for change in (torch.abs, torch.tanh, torch.square):  # all with f(0) = 0, as a carried cell may hold zero
        one, other = change(sparse.values), change(dense.values)
        torch.testing.assert_close(sparse.row_sum(one), dense.row_sum(other))
        torch.testing.assert_close(sparse.latent_sum(one), dense.latent_sum(other))
        torch.testing.assert_close(sparse.with_values(one).to_dense(), dense.with_values(other).to_dense())
    weighted = (code.row_sum(code.values * code.along(per_latent)) for code in (sparse, dense))
    torch.testing.assert_close(*weighted)
    torch.testing.assert_close(sparse.keep(keep).to_dense(), dense.keep(keep).to_dense())


@given(st.data())
def test_gradients_pass_through_both_codes_alike(data: st.DataObject) -> None:
    sparse, dense = both(data)
    mask = sparse.at.mask()
    total: dict[str, Tensor] = {}
    for name, code in (("sparse", sparse), ("dense", dense)):
        values = code.values.clone().requires_grad_()
        here = code.with_values(values)
        loss = (here.row_sum(values.pow(3)).pow(2)).sum() + here.to_dense().exp().sum()
        (total[name],) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(total["sparse"], total["dense"][mask])


def test_known_sums_of_a_dense_code_are_those_of_its_values_only() -> None:
    values = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    code = DenseCode(values, values.sum(0))
    assert code.latent_sum(code.values) is code.sums
    assert code.latent_sum(values.square()).tolist() == [5.0, 9.0]

"""Sums over cells as Triton programs: against loops and dense products in float64, and inside the sparse operations."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.kernels import sparse
from monosem.kernels.gpu.cells import CHUNK, bag, inner_full
from tests.kernels.gpu.where import DEVICE, few, needs_triton
from tests.kernels.layouts import cases, positions

pytestmark = needs_triton


def _drawn(*shape: int, strided: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(shape[::-1] if strided else shape, dtype=dtype).to(DEVICE)
    return drawn.permute(*range(len(shape))[::-1]) if strided else drawn


def _loop(table: Tensor, index: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    out = torch.zeros(offsets.numel() - 1, table.shape[1], dtype=torch.float64)
    for run in range(out.shape[0]):
        for cell in range(int(offsets[run]), int(offsets[run + 1])):
            out[run] += values[cell].double().cpu() * table[index[cell]].double().cpu()
    return out


@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 5), st.booleans())
@few(10)
def test_a_bag_is_a_weighted_sum_of_rows(lengths: list[int], rows: int, width: int, strided: bool) -> None:
    """Empty runs, one row taken many times, runs longer than a program's block, columns apart in memory."""
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(DEVICE)
    index = torch.randint(rows, (sum(lengths),)).to(DEVICE)
    table, values = _drawn(rows, width, strided=strided), _drawn(sum(lengths))
    torch.testing.assert_close(bag(table, index, offsets, values).cpu(), _loop(table, index, offsets, values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_runs_are_added_up_in_chunks(dtype: torch.dtype) -> None:
    """Runs that begin and end in, at and around chunks; float32 sums of a float32 or bf16 table."""
    lengths = [3, 0, 2 * CHUNK + 41, CHUNK - 44, 2 * CHUNK, 1, CHUNK + 5]
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(DEVICE)
    index = torch.randint(9, (sum(lengths),)).to(DEVICE)
    table, values = _drawn(9, 3, dtype=torch.float32).to(dtype), _drawn(sum(lengths), dtype=torch.float32)
    found = bag(table, index, offsets, values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double().cpu(), _loop(table, index, offsets, values), rtol=1e-5, atol=1e-4)


def test_nothing_gives_zeros_or_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    ends = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    assert bag(_drawn(2, 5), none, ends, _drawn(0)).equal(torch.zeros(3, 5, dtype=torch.float64, device=DEVICE))
    assert bag(_drawn(2, 5), none, ends[:1], _drawn(0)).shape == (0, 5)
    assert bag(_drawn(2, 0), none, ends, _drawn(0)).shape == (3, 0)
    assert inner_full(Positions(ends, none, 2), _drawn(3, 5), _drawn(2, 5)).shape == (0,)


@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.booleans())
@few(10)
def test_inner_is_the_dense_product_at_the_cells(
    data: st.DataObject, batch: int, n_q: int, width: int, strided: bool
) -> None:
    at = data.draw(positions(batch, n_q))
    at = Positions(at.crow.to(DEVICE), at.col.to(DEVICE), n_q)
    x, weight = _drawn(batch, width, strided=strided), _drawn(n_q, width, strided=strided)
    torch.testing.assert_close(inner_full(at, x, weight), (x @ weight.T)[at.row, at.col])


def test_inner_reads_bf16_weights_and_wide_rows() -> None:
    """More columns than one block holds, in float32, against float64."""
    x, weight = _drawn(2, 300, dtype=torch.float32), _drawn(3, 300, dtype=torch.float32).bfloat16()
    at = Positions.from_rows(torch.tensor([[0, 2], [1, 1]], device=DEVICE), 3)  # a latent twice in one row
    found = inner_full(at, x, weight)
    assert found.dtype == torch.float32
    wanted = (x.double() @ weight.double().T)[at.row, at.col]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@given(st.data())
@few(6)
def test_the_sparse_operations_run_on_them(data: st.DataObject) -> None:
    """Every layout of blocks: the output and every gradient are those of the stock operations."""
    case = data.draw(cases())
    at = data.draw(positions(case.batch, case.n_q))
    values, weights, g = case.tensor(at.nnz), case.weights(), case.tensor(case.batch, case.width).detach()

    def run() -> tuple[Tensor, ...]:
        out = sparse.write_cells(at, values, case.width, case.blocks, weights)
        return out, *torch.autograd.grad(out, [values, *weights], g, allow_unused=True, materialize_grads=True)

    wanted = run()
    with patch.object(sparse, "_bag", bag), patch.object(sparse, "_inner_full", inner_full):
        found = run() if DEVICE == "cpu" else wanted
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)

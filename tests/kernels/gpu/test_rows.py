"""Optimiser steps row by row: against the formulas written out in float64, and against torch.optim.Adam."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.base.sparse import Positions
from monosem.kernels import ops
from monosem.kernels.gpu import rows as gpu_rows
from monosem.kernels.gpu.rows import RowStep, narrowed
from monosem.kernels.native.calls import Ordered
from monosem.kernels.native.rows import CellSet
from tests.kernels.gpu.where import DEVICE, few, needs_triton, rounded
from tests.kernels.layouts import positions

pytestmark = needs_triton

BETAS, EPS, LR = (0.9, 0.99), 1e-8, 0.1


def _cells(at: Positions, x: Tensor, first: int) -> CellSet:
    order, offsets = at.latent_major
    cells = Ordered(0, at.batch, offsets.to(DEVICE), at.row[order].to(DEVICE), order.to(DEVICE))
    return CellSet(cells, torch.randn(at.nnz).to(DEVICE), x, first)


def _dense(sets: Sequence[CellSet], ats: Sequence[Positions], rows: int, base: Tensor | None) -> Tensor:
    """The gradient, cell by cell."""
    width = sets[0].x.shape[1] if base is None else base.shape[1]
    g = torch.zeros(rows, width, dtype=torch.float64) if base is None else base.double().cpu()
    for part, at in zip(sets, ats, strict=True):
        for cell in range(at.nnz):
            latent = int(at.col[cell]) - part.first
            if 0 <= latent < rows:
                g[latent] += part.values[cell].double().cpu() * part.x[at.row[cell]].double().cpu()
    return g


def _by_piece(bounds: Sequence[int], change: Callable[..., Tensor], *matrices: Tensor) -> Tensor:
    """A change of matrices, piece of columns by piece."""
    pieces = [slice(a, b) for a, b in pairwise(bounds) if a < b]
    return torch.cat([change(*(matrix[:, piece] for matrix in matrices)) for piece in pieces], 1)


def _project(g: Tensor, w: Tensor) -> Tensor:
    return g - w * ((g * w).sum(1) / (w * w).sum(1))[:, None]


@given(st.data(), st.integers(0, 3), st.booleans(), st.booleans(), st.booleans())
@few(6)
def test_a_step_is_the_formula(data: st.DataObject, sets: int, dense: bool, unit: bool, low: bool) -> None:
    """Two steps: cells (in up to three sets, of some of the latents), a dense part, pieces, masters of a bf16 copy."""
    batch, n_q, first = 3, 6, 2
    rows, bounds = 3, data.draw(st.sampled_from([(0, 5), (0, 2, 5), (0, 1, 1, 5)]))
    dense = dense or sets == 0
    start = torch.randn(rows, 5)
    weight, w = start.to(DEVICE), start.double()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    copy = weight.bfloat16() if low else None
    mean, square, moved = torch.zeros_like(w), torch.zeros_like(w), torch.zeros(rows, dtype=torch.bool, device=DEVICE)
    had = torch.zeros(rows, dtype=torch.bool)
    for step in (1, 2):
        ats = [data.draw(positions(batch, n_q)) for _ in range(sets)]
        parts = [_cells(at, torch.randn(batch, 5).to(DEVICE), first) for at in ats]
        base = torch.randn(rows, 5).to(DEVICE) if dense else None
        ours = RowStep(weight, base, parts, bounds, unit, unit)
        keep = data.draw(st.booleans())
        g = _dense(parts, ats, rows, base)
        g = _by_piece(bounds, _project, g, w) if unit else g
        with patch.object(gpu_rows, "KEEP_ABOVE", -1 if keep else 99):
            torch.testing.assert_close(ours.squared_norm().double().cpu(), g.square().sum(), rtol=1e-4, atol=1e-5)
        assert (ours._kept is not None) == keep
        ours.adam(m, v, moved, step, LR, BETAS, EPS, torch.tensor(0.5, device=DEVICE), copy)
        g *= 0.5
        had |= torch.tensor([dense or any(bool((at.col == first + j).any()) for at in ats) for j in range(rows)])
        mean, square = BETAS[0] * mean + (1 - BETAS[0]) * g, BETAS[1] * square + (1 - BETAS[1]) * g * g
        new = w - LR * (mean / (1 - BETAS[0] ** step)) / ((square / (1 - BETAS[1] ** step)).sqrt() + EPS)
        if unit:
            new = _by_piece(bounds, torch.nn.functional.normalize, new)
        w = torch.where(had[:, None], new, w)
        torch.testing.assert_close(weight.double().cpu(), w, rtol=1e-4, atol=1e-4)
        assert moved.cpu().equal(had)
        if copy is not None:
            assert copy.equal(torch.where(moved[:, None], rounded(weight), start.to(DEVICE).bfloat16()))


def test_rows_without_a_gradient_stay_to_the_bit_until_their_first() -> None:
    """And move on from then with the moments that they have, gradient or none: Adam, not LazyAdam."""
    weight = torch.randn(3, 4).to(DEVICE)
    before, m, v = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    moved = torch.zeros(3, dtype=torch.bool, device=DEVICE)
    x = torch.randn(2, 4).to(DEVICE)
    only_first = Positions.from_rows(torch.zeros(2, 1, dtype=torch.int64), 3)
    nobody = Positions.from_mask(torch.zeros(2, 3, dtype=torch.bool))
    RowStep(weight, None, [_cells(only_first, x, 0)], (0, 4), True, True).adam(m, v, moved, 1, LR, BETAS, EPS, 1.0)
    assert weight[1:].equal(before[1:])
    assert moved.tolist() == [True, False, False]
    after = weight.clone()
    RowStep(weight, None, [_cells(nobody, x, 0)], (0, 4), True, True).adam(m, v, moved, 2, LR, BETAS, EPS, 1.0)
    assert weight[1:].equal(before[1:])
    assert (weight[0] - after[0]).abs().max() > 1e-3


def test_a_latent_that_fires_on_every_row() -> None:
    """Its run spans several chunks; the gradient is the sum over all of them."""
    at = Positions.from_rows(torch.zeros(300, 1, dtype=torch.int64), 2)
    weight = torch.zeros(2, 3, device=DEVICE)
    part = _cells(at, torch.randn(300, 3).to(DEVICE), 0)
    wanted = (part.values.double() @ part.x.double()).square().sum()
    found = RowStep(weight, None, [part], (0, 3), False, False).squared_norm()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_narrowed_rows_come_with_their_norms() -> None:
    """More rows and columns than one block, a power of two brings them into range; of bf16 nothing is lost."""
    table = 1e6 * torch.randn(300, 17).to(DEVICE).T
    for some in (table, table.bfloat16()):
        made = narrowed(some)
        meant = made.scale * some.float().contiguous()
        assert torch.frexp(made.scale).mantissa == 0.5
        assert 16 < meant.norm(dim=1).max() <= 128
        assert made.low.equal(meant.half())
        torch.testing.assert_close(made.size, meant.norm(dim=1))
        torch.testing.assert_close(made.off, (meant - made.low.float()).norm(dim=1))
    assert made.off.abs().sum() == 0
    assert narrowed(torch.zeros(2, 3)).size.abs().sum() == 0


def test_a_row_wider_than_a_program_is_cut_where_nothing_is_projected() -> None:
    weight, base = torch.randn(2, 9).to(DEVICE), torch.randn(2, 9).to(DEVICE)
    new, zero = weight - LR * base.sign(), torch.zeros(2, 9, device=DEVICE)
    with patch.object(gpu_rows, "WIDEST", 4):
        step = RowStep(weight, base, (), (0, 9), False, False)
        torch.testing.assert_close(step.squared_norm(), base.square().sum())
        step.adam(zero, zero.clone(), None, 1, LR, BETAS, 1e-12, 1.0)
        torch.testing.assert_close(weight, new)
        with pytest.raises(ArgumentError, match="9 columns"):
            RowStep(weight, base, (), (0, 9), True, True)
        with patch.object(ops, "serves", lambda *tensors: True), patch.object(ops, "usable", lambda *tensors: False):
            assert ops.takes_rows(weight, widest=4)
            assert not ops.takes_rows(weight, widest=9)


@pytest.mark.usefixtures("as_in_production")
def test_what_is_wrong_is_said() -> None:
    weight = torch.zeros(2, 3)
    with pytest.raises(DataError, match="float32 master"):
        RowStep(weight.bfloat16(), None, (), (0, 3), False, False)
    with pytest.raises(ShapeError, match="rise from 0"):
        RowStep(weight, None, (), (0, 2), False, False)
    with pytest.raises(ShapeError, match="base has shape"):
        RowStep(weight, weight[:1], (), (0, 3), False, False)
    with pytest.raises(DataError, match="not contiguous"):
        RowStep(weight.T, None, (), (0, 2), False, False)
    with pytest.raises(ShapeError, match="m must be"):
        RowStep(weight, weight, (), (0, 3), False, False).adam(weight.T, weight, None, 1, LR, BETAS, EPS, 1.0)

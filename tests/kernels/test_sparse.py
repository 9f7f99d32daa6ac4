"""Read and write on active cells: values against dense loops, every gradient against finite differences."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from monosem.base.blocks import Block
from monosem.base.sparse import Positions, SparseCode
from monosem.kernels import reference
from monosem.kernels.ledger import open_ledger
from monosem.kernels.sparse import inner, read_cells, row_norms, rows_of, scatter, write_cells
from tests.kernels.layouts import Case, cases, dense_weight, positions


@given(st.data())
def test_reference_is_the_dense_product(data: st.DataObject) -> None:
    case = data.draw(cases())
    x, bias, weights = case.tensor(case.batch, case.width), case.tensor(case.n_q), case.weights()
    dense = dense_weight(case, weights)
    torch.testing.assert_close(reference.read(x, bias, case.blocks, weights), x @ dense.T + bias)
    code = case.tensor(case.batch, case.n_q)
    torch.testing.assert_close(reference.write(code, case.width, case.blocks, weights), code @ dense)


@given(st.data())
def test_scatter_and_inner_are_dense_products_at_the_cells(data: st.DataObject) -> None:
    case = data.draw(cases())
    at = data.draw(positions(case.batch, case.n_q))
    values, x, weights = case.tensor(at.nnz), case.tensor(case.batch, case.width), case.weights()
    dense = dense_weight(case, weights)
    with torch.no_grad():
        torch.testing.assert_close(
            scatter(at, values, case.width, case.blocks, weights), SparseCode(at, values).to_dense() @ dense
        )
        torch.testing.assert_close(inner(at, x, case.blocks, weights), (x @ dense.T)[at.row, at.col])


@given(st.data())
@settings(max_examples=40)
def test_write_gradients_are_finite_differences(data: st.DataObject) -> None:
    case = data.draw(cases())
    at = data.draw(positions(case.batch, case.n_q))
    values, weights = case.tensor(at.nnz), case.weights()

    def write(values: Tensor, *weights: Tensor) -> Tensor:
        return write_cells(at, values, case.width, case.blocks, weights)

    torch.testing.assert_close(write(values, *weights), SparseCode(at, values).to_dense() @ dense_weight(case, weights))
    assert gradcheck(write, (values, *weights))


@given(st.data(), st.integers(0, 3), st.booleans())
@settings(max_examples=40)
def test_read_gradients_are_finite_differences(data: st.DataObject, sets: int, dense: bool) -> None:
    """Every output (each set of cells, and all cells) by x, the subtracted bias, the bias and each weight."""
    case = data.draw(cases())
    ats = [data.draw(positions(case.batch, case.n_q)) for _ in range(sets)]
    dense = dense or not ats
    inputs = (case.tensor(case.batch, case.width), case.tensor(case.width), case.tensor(case.n_q), *case.weights())

    def read(x: Tensor, b_in: Tensor, bias: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        shifted = x - b_in.detach()
        with torch.no_grad():
            z = reference.read(shifted, bias, case.blocks, list(weights))
        values = [z[at.row, at.col] for at in ats]
        return read_cells(values, ats, z if dense else None, shifted, b_in, bias, case.blocks, weights)

    x, b_in, bias, *weights = inputs
    z = (x - b_in) @ dense_weight(case, weights).T + bias
    outputs = read(*inputs)
    assert len(outputs) == sets + dense
    for at, found in zip(ats, outputs, strict=False):
        torch.testing.assert_close(found, z[at.row, at.col])
    if dense:
        torch.testing.assert_close(outputs[-1], z)
    assert gradcheck(read, inputs)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    case = Case(3, 4, 3, (Block(0, 4, 0, 3),), 0, False)
    at = Positions.from_mask(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool))
    values, weight = case.tensor(at.nnz).detach(), case.tensor(4, 3)
    write_cells(at, values, 3, case.blocks, [weight]).sum().backward()
    assert values.grad is None
    assert weight.grad is not None
    wanted = torch.zeros(4, dtype=torch.float64).index_add(0, at.col, values)
    torch.testing.assert_close(weight.grad, wanted[:, None].expand(4, 3))


def test_no_cell_at_all_gives_zeros() -> None:
    case = Case(2, 3, 4, (Block(0, 3, 0, 4),), 0, False)
    none = Positions.from_mask(torch.zeros(2, 3, dtype=torch.bool))
    values, weight = case.tensor(0), case.tensor(3, 4)
    out = write_cells(none, values, 4, case.blocks, [weight])
    assert out.abs().sum() == 0
    out.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


def test_float32_gradient_sums_many_rows_of_one_latent() -> None:
    """A latent that every row uses collects all of them, in float32 as in float64."""
    generator = torch.Generator().manual_seed(0)
    at = Positions.from_rows(torch.zeros(500, 1, dtype=torch.int64), 3)
    values, g = torch.randn(500, generator=generator), torch.randn(500, 5, generator=generator)
    weight = torch.zeros(3, 5, requires_grad=True)
    write_cells(at, values, 5, (Block(0, 3, 0, 5),), [weight]).backward(g)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[0], (values.double() @ g.double()).float(), rtol=1e-4, atol=1e-4)
    assert weight.grad[1:].abs().sum() == 0


def test_rows_of_a_weight_have_the_gradient_of_indexing() -> None:
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    latents = torch.tensor([4, 0, 2])
    assert torch.equal(rows_of(weight, latents), weight[latents])
    assert gradcheck(lambda w: rows_of(w, latents), (weight,))
    assert rows_of(weight, latents[:0]).shape == (0, 3)


def test_row_norms_have_their_gradient_and_leave_it_out_where_it_is_projected_out() -> None:
    weight = torch.randn(4, 3, dtype=torch.float64)
    weight[2] = 0
    weight.requires_grad_()
    torch.testing.assert_close(row_norms(weight), weight.norm(dim=1))
    assert gradcheck(row_norms, (weight[[0, 1, 3]].detach().requires_grad_(),))
    row_norms(weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad[2].abs().sum() == 0
    weight.grad = None
    with open_ledger([weight], projected=[weight]):
        (row_norms(weight).sum() + weight.sum()).backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))

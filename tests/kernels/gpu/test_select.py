"""The k largest of each row without the whole product: against torch.topk of float64, and, certified, to the bit."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base import selection
from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.base.sparse import Positions, SparseCode
from monosem.kernels import ops
from monosem.kernels.gpu import select
from monosem.kernels.gpu.cells import inner_full
from monosem.kernels.gpu.kept import Plan
from monosem.kernels.gpu.select import TopCells, encode_top, encode_tops, top_index
from tests.kernels.gpu.where import DEVICE, few, needs_triton

pytestmark = needs_triton

PLANS = st.sampled_from([None, Plan(1, 3, 8), Plan(2, 2, 8), Plan(4, 2, 16), Plan(3, 1, 8)])
KINDS = st.sampled_from([(False, False), (False, True), (True, False), (True, True)])


def _numbers(rows: int, columns: int, how: str) -> Tensor:
    """Numbers of any kind: plain, full of ties, zeros, or apart in memory."""
    if how == "strided":
        return torch.randn(columns, rows).to(DEVICE).T
    drawn = torch.randn(rows, columns)
    return (drawn.mul(1.5).round() if how == "ties" else drawn * 0 if how == "zeros" else drawn).to(DEVICE)


def _in_order(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every pre-activation in the one order of float32 sums that certified selection is defined by."""
    batch, n_q = x.shape[0], weight.shape[0]
    every = Positions.from_rows(torch.arange(n_q, device=DEVICE).expand(batch, -1), n_q)
    return inner_full(every, x, weight).view(batch, n_q) + bias


def _check(found: TopCells, x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool) -> None:
    exact = x.double() @ weight.double().T + bias.double()
    assert found.index.shape == found.value.shape == (x.shape[0], k)
    assert all(len(set(row)) == k for row in found.index.tolist())
    torch.testing.assert_close(found.value.double(), exact.gather(1, found.index), rtol=1e-5, atol=1e-5)
    best = found.value.sort(1, descending=True).values
    torch.testing.assert_close(best.double(), exact.topk(k).values, rtol=1e-5, atol=1e-5)
    if low:
        assert best.equal(_in_order(x, weight, bias).topk(k).values)


@given(
    st.integers(1, 3), st.integers(17, 40), st.integers(1, 6), st.integers(1, 8), PLANS, KINDS,
    st.sampled_from(["plain", "strided", "ties", "zeros"]),
)  # fmt: skip
@few(12)
def test_encode_top_is_topk_of_the_product(
    batch: int, n_q: int, n_p: int, k: int, plan: Plan | None, kind: tuple[bool, bool], how: str
) -> None:
    """Whatever the sample does: floors too low, too high, just right, ties everywhere, one list for several splits."""
    x, weight, bias = _numbers(batch, n_p, how), _numbers(n_q, n_p, how), _numbers(1, n_q, how)[0]
    low, fused = kind
    found = encode_tops(x, weight, [(bias, k)], low=low, fused=fused, plan=plan)[0]
    _check(found, x, weight, bias, k, low)


@pytest.mark.parametrize("k", [0, 1, 6])
@pytest.mark.parametrize("low", [False, True])
def test_k_from_none_to_all(k: int, low: bool) -> None:
    x, weight, bias = _numbers(2, 3, "plain"), _numbers(6, 3, "plain"), _numbers(1, 6, "plain")[0]
    _check(encode_top(x, weight, bias, k, low=low), x, weight, bias, k, low)


@pytest.mark.parametrize(("low", "fused"), [(False, False), (True, False), (False, True)])
def test_the_usual_row_is_ranked_from_few_entries(low: bool, fused: bool) -> None:
    """The plan for these sizes, not one of the test's: no row is done twice."""
    x, weight, bias = _numbers(2, 8, "plain"), _numbers(2048, 8, "plain"), torch.zeros(2048, device=DEVICE)
    assert Plan.of(2048, 3) is not None
    found = encode_top(x, weight, bias, 3, low=low, fused=fused)
    assert int(found.redone) == 0
    exact = x.double() @ weight.double().T
    assert found.index.sort(1).values.equal(exact.topk(3).indices.sort(1).values)


def test_the_whole_product_never_exists() -> None:
    """Tiles of 16 columns, several requests served by each: no product is larger, and all answers are right."""
    x, weight, bias = _numbers(2, 3, "plain"), _numbers(40, 3, "plain"), _numbers(1, 40, "plain")[0]
    dead = torch.arange(40, device=DEVICE) % 3 == 0
    sizes, product = [], torch.mm

    def watched(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        sizes.append(out.numel())
        return product(a, b, out=out)

    only_dead = torch.where(dead, bias, -torch.inf)
    with patch.object(select, "_TILE", 32), patch.object(torch, "mm", watched):
        main, extra = encode_tops(x, weight, [(bias, 4), (only_dead, 2)], plan=Plan(2, 6, 32))
    assert sizes == [32, 32, 16]
    _check(main, x, weight, bias, 4, False)
    assert dead[extra.index].all()
    alive = (x.double() @ weight.double().T + bias)[:, dead].topk(2).values
    torch.testing.assert_close(extra.value.sort(1, descending=True).values.double(), alive, rtol=1e-5, atol=1e-5)


def test_near_ties_are_settled_in_float32() -> None:
    """Latents that fp16 cannot tell apart: the certificate lets all of them be computed again."""
    x = torch.ones(1, 4, device=DEVICE)
    weight = 0.01 * torch.randn(40, 4).to(DEVICE)
    weight[7:13] = 1 + torch.arange(6, device=DEVICE)[:, None] * 2e-6
    bias = torch.zeros(40, device=DEVICE)
    found = encode_tops(x, weight, [(bias, 2)], low=True, plan=Plan(2, 3, 16))[0]
    assert int(found.redone) == 0
    assert sorted(found.index[0].tolist()) == [11, 12]
    assert len(set((x.half() @ weight.half().T)[0, 7:13].tolist())) == 1


def test_more_near_ties_than_there_is_room_for_are_ranked_whole() -> None:
    x, weight = torch.ones(2, 4, device=DEVICE), torch.ones(40, 4, device=DEVICE)
    weight += torch.randperm(40).to(DEVICE)[:, None] * 1e-6
    bias = torch.zeros(40, device=DEVICE)
    found = encode_tops(x, weight, [(bias, 2)], low=True, plan=Plan(2, 3, 8))[0]
    assert int(found.redone) == 2
    assert found.value.sort(1, descending=True).values.equal(_in_order(x, weight, bias).topk(2).values)


@pytest.mark.parametrize("size", [1.0, 1e-15, 1e15])
def test_the_bound_holds_where_fp16_is_worst(size: float) -> None:
    """Numbers half way between two fp16, all errors of one sign, of any size: the truth lies within the reach."""
    x = torch.full((1, 64), 1 + 2.0**-11 - 2.0**-22, device=DEVICE)
    weight = size * x.repeat(3, 1) * torch.tensor([[1.0], [-1.0], [2.0]], device=DEVICE)
    made = select._made(x, weight, low=True)
    said, bias = (made.a @ made.w.T).float(), torch.zeros(3, device=DEVICE)
    off = (said.double() - made.scale.double() * (x.double() @ weight.double().T)).abs()
    assert made.reach is not None
    reach = made.reach.of(said, bias, slice(None)).double()
    assert (off <= reach).all()
    assert (off > 0.3 * reach).all()


def test_no_row_is_done_twice_at_the_width_of_large_networks() -> None:
    """At n_p = 4096 the error of a product in bf16 filled every list; in fp16 they have room."""
    x, weight, bias = _numbers(2, 4096, "plain"), _numbers(2048, 4096, "plain"), torch.zeros(2048, device=DEVICE)
    found = encode_top(x, weight, bias, 1, low=True)
    assert Plan.of(2048, 1, select._deviations(4096, low=True)) is not None
    assert int(found.redone) == 0
    exact = x.double() @ weight.double().T
    assert found.index.equal(exact.topk(1).indices)


@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 6), st.booleans(), st.booleans(),
    st.sampled_from(["plain", "strided", "ties", "zeros"]),
)  # fmt: skip
@few(12)
def test_what_lies_above_floors(batch: int, n_q: int, n_p: int, low: bool, one: bool, how: str) -> None:
    """One floor, or one of each latent: the cells in the order of rows and latents, from one pass over W or two."""
    x, weight, bias = _numbers(batch, n_p, how), _numbers(n_q, n_p, how), _numbers(1, n_q, how)[0]
    floors = 0.5 if one else _numbers(1, n_q, how)[0]
    with patch.object(select, "_TILE", 32):
        scan = select.Scan(weight, bias, low)
        cells = scan.above(x, floors, batch * n_q)
        assert scan.above(x, -torch.inf, batch * n_q - 1) is None
    z = _in_order(x, weight, bias) if low else x @ weight.T + bias
    assert cells is not None
    counts, column, value = cells
    row = torch.repeat_interleave(torch.arange(batch, device=DEVICE), counts)
    torch.testing.assert_close(value, z[row, column], rtol=0 if low else 1e-5, atol=0 if low else 1e-5)
    chosen = torch.zeros_like(z, dtype=torch.bool).index_put_((row, column), torch.tensor(True, device=DEVICE))
    wrong = chosen != (z > floors)
    assert not (wrong & ((z - floors).abs() > (0 if low else 1e-5))).any()
    assert (row * n_q + column).diff().gt(0).all()


def test_a_list_that_overflows_is_made_anew() -> None:
    """The sample takes every 16th latent: here the others lie above the floor."""
    x, weight = torch.ones(1, 2, device=DEVICE), torch.ones(200, 2, device=DEVICE)
    weight[::16] = -1
    cells = select.Scan(weight, torch.zeros(200, device=DEVICE), low=True).above(x, 0.0, 200)
    assert cells is not None
    assert cells[1].equal((weight[:, 0] > 0).nonzero().squeeze(1))


def test_nan_is_left_to_a_plainer_way() -> None:
    x, weight, bias = _numbers(2, 3, "plain"), _numbers(20, 3, "plain"), torch.zeros(20, device=DEVICE)
    bias[7] = torch.nan
    assert select.Scan(weight, bias, low=True).above(x, 0.0, 40) is None


def test_bf16_weights_are_taken_as_they_are() -> None:
    x, weight = _numbers(2, 5, "plain"), _numbers(40, 5, "plain").bfloat16()
    bias = _numbers(1, 40, "plain")[0]
    found = encode_tops(x, weight, [(bias, 3)], low=True, plan=Plan(2, 4, 16))[0]
    _check(found, x, weight, bias, 3, True)


@given(
    st.integers(1, 3), st.integers(17, 50), st.integers(1, 8), st.sampled_from([Plan(2, 2, 8), Plan(4, 2, 16)]),
    st.sampled_from(["plain", "strided", "ties", "zeros"]),
)  # fmt: skip
@few(10)
def test_top_index_is_topk(batch: int, n: int, k: int, plan: Plan, how: str) -> None:
    score = _numbers(batch, n, how)
    index = select._top_index(select.rows_in_order(score), k, plan)
    assert all(len(set(row)) == k for row in index.tolist())
    assert score.gather(1, index).sort(1, descending=True).values.equal(score.topk(k).values)


def test_top_index_plans_by_itself() -> None:
    score = _numbers(2, 2048, "plain")
    assert top_index(score, 3).sort(1).values.equal(score.topk(3).indices.sort(1).values)
    assert top_index(score[:, :10], 10).shape == (2, 10)
    assert top_index(score[:0], 3).shape == (0, 3)


def test_nan_is_not_lost() -> None:
    """torch.topk ranks NaN first; a run whose pre-activations are NaN must not look healthy."""
    score = _numbers(2, 40, "plain")
    score[1, 17] = torch.nan
    index = select._top_index(score, 2, Plan(4, 2, 16))
    assert 17 in index[1].tolist()
    assert index[0].sort().values.equal(score[0].topk(2).indices.sort().values)


@pytest.mark.parametrize("newer", [False, True])
def test_settings_of_the_user_come_back(newer: bool) -> None:
    """By whichever of torch's two switches they were made; torch raises where one is read and the other was used."""
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("medium")
    matmul.fp32_precision = "tf32"
    matmul.fp32_precision = "ieee" if newer else "tf32"
    try:
        encode_top(_numbers(1, 2, "plain"), _numbers(3, 2, "plain"), torch.zeros(3, device=DEVICE), 1)
        assert matmul.fp32_precision == ("ieee" if newer else "tf32")
        assert torch.get_float32_matmul_precision() == "medium"
        assert matmul.allow_fp16_reduced_precision_reduction
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("as_in_production")
def test_what_is_wrong_is_said() -> None:
    x, weight, bias = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(5)
    with pytest.raises(ShapeError, match="n_p"):
        encode_tops(x[:, :2], weight, [(bias, 1)])
    with pytest.raises(ShapeError, match="n_q=5"):
        encode_tops(x, weight, [(bias[:4], 1)])
    with pytest.raises(ArgumentError, match="k=6"):
        encode_tops(x, weight, [(bias, 6)])
    with pytest.raises(DataError, match="low=True"):
        encode_tops(x, weight.bfloat16(), [(bias, 1)])
    with pytest.raises(DataError, match="float32"):
        encode_tops(x.double(), weight.double(), [(bias.double(), 1)], fused=True)


@pytest.mark.parametrize("low", [False, True])
def test_the_door_goes_this_way_for_the_k_largest(low: bool) -> None:
    """A code and two requests, one among some latents, of one product: what ranking z of every cell selects."""
    x, weight, bias = _numbers(2, 4, "plain"), _numbers(20, 4, "plain"), _numbers(1, 20, "plain")[0]
    among = torch.arange(20, device=DEVICE) % 3 == 0
    z = ops.Product(x, bias, (Block(0, 20, 0, 4),), [weight])
    rules = (selection.TopK(3), selection.TopK(1), selection.TopK(1, among))
    with patch("monosem.kernels.select.serves", lambda *tensors: True):
        chosen = ops.select(z, rules[0], rules[1:], low=low)
    assert chosen.z is None
    for part, rule in zip((chosen.code, *chosen.extra), rules, strict=True):
        wanted = ops.pick(rule, x @ weight.T + bias)
        assert isinstance(part, SparseCode)
        assert isinstance(wanted, Positions)
        assert torch.equal(part.at.mask(), wanted.mask())
        torch.testing.assert_close(part.values, (x @ weight.T + bias)[part.at.row, part.at.col])


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("rule", [selection.Above(0.4), selection.Above(0.0, 7), selection.Above(torch.ones(20) * 0.4)])
def test_the_door_goes_this_way_for_what_lies_above_a_floor(rule: selection.Above, low: bool) -> None:
    """Rules of JumpReLU, ReLU and BatchTopK, with requests beside; the product of all cells does not exist."""
    x, weight, bias = _numbers(6, 4, "plain"), _numbers(20, 4, "plain") * 0.2, _numbers(1, 20, "plain")[0] * 0.2
    weight[3::5] *= 8  # few cells lie above the floor
    among = torch.arange(20, device=DEVICE) % 3 == 0
    z = ops.Product(x, bias - 0.5, (Block(0, 20, 0, 4),), [weight])
    rules = (rule, selection.TopK(1), selection.TopK(1, among))
    every = x @ weight.T + bias - 0.5
    with (
        patch("monosem.kernels.select.serves", lambda *tensors: True),
        patch("monosem.kernels.density.DENSE_ABOVE", {DEVICE: 0.5, "cpu": 0.5}),
    ):
        chosen = ops.select(z, rules[0], rules[1:], low=low)
    assert chosen.z is None
    for part, each in zip((chosen.code, *chosen.extra), rules, strict=True):
        wanted = ops.pick(each, every)
        assert isinstance(part, SparseCode)
        assert torch.equal(part.at.mask(), wanted if isinstance(wanted, Tensor) else wanted.mask())
        torch.testing.assert_close(part.values, every[part.at.row, part.at.col])

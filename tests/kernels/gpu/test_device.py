"""On a real device, at sizes that the interpreter cannot do: results, bits, memory."""

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_parts import SETTINGS, fits
from benchmarks.gpu_pieces import Shape
from monosem.base.sparse import Positions
from monosem.kernels.gpu.cells import bag, inner_full
from monosem.kernels.gpu.launch import serves
from monosem.kernels.gpu.select import encode_top, top_index
from tests.kernels.gpu.where import needs_triton

pytestmark = [needs_triton, pytest.mark.gpu]

SHAPE = Shape(n_p=512, n_q=16_384, k=32, batch=600)


def _operands() -> tuple[Tensor, Tensor, Tensor]:
    bias = 0.01 * torch.randn(SHAPE.n_q, device="cuda")
    return SHAPE.rows("cuda"), SHAPE.start("cuda")[0], bias


def test_the_device_is_served() -> None:
    assert serves(torch.zeros(1, device="cuda"))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("low", "bf16_weights"), [(False, False), (True, False), (True, True)])
def test_selection(low: bool, bf16_weights: bool, fused: bool) -> None:
    x, weight, bias = _operands()
    weight = weight.bfloat16() if bf16_weights else weight
    found = encode_top(x, weight, bias, SHAPE.k, low=low, fused=fused)
    exact = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(
        found.value.sort(1, descending=True).values.double(), exact.topk(SHAPE.k).values, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(found.value.double(), exact.gather(1, found.index), rtol=1e-5, atol=1e-5)
    assert int(found.redone) <= 3
    again = encode_top(x, weight, bias, SHAPE.k, low=low, fused=fused)
    assert found.value.sort(1).values.equal(again.value.sort(1).values)


def test_certified_selection_is_that_of_every_value_in_order() -> None:
    x, weight, bias = _operands()
    x = x[:8]
    every = Positions.from_rows(torch.arange(SHAPE.n_q, device="cuda").expand(8, -1), SHAPE.n_q)
    values = inner_full(every, x, weight).view(8, -1) + bias
    found = encode_top(x, weight, bias, SHAPE.k, low=True)
    assert found.value.sort(1, descending=True).values.equal(values.topk(SHAPE.k).values)


def test_selection_stays_within_its_tiles() -> None:
    """Peak memory of 32768 rows by 65536 latents: far below the 8.6 GB of the whole product."""
    x, weight = torch.randn(32_768, 64, device="cuda"), torch.randn(65_536, 64, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    encode_top(x, weight, torch.zeros(65_536, device="cuda"), 8)
    assert torch.cuda.max_memory_allocated() - before < 2.5e9


def test_top_index() -> None:
    score = torch.randn(300, 20_000, device="cuda")
    assert top_index(score, 40).sort(1).values.equal(score.topk(40).indices.sort(1).values)


def test_sums_have_the_same_bits_every_time_and_the_right_value() -> None:
    """One latent on every row, many on none; compared with a dense float64 product."""
    col = torch.randint(1000, (4096, 32), device="cuda").pow(2) // 1000
    col[:, 0] = 0
    at = Positions.from_rows(col, 1000)
    order, offsets = at.latent_major
    x, values = torch.randn(4096, 700, device="cuda"), torch.randn(at.nnz, device="cuda")
    found = bag(x, at.row[order], offsets, values[order])
    dense = torch.zeros(4096, 1000, dtype=torch.float64, device="cuda")
    dense.index_put_((at.row, at.col), values.double(), accumulate=True)
    torch.testing.assert_close(found.double(), dense.T @ x.double(), rtol=1e-4, atol=1e-3)
    assert found.equal(bag(x, at.row[order], offsets, values[order]))
    weight = torch.randn(1000, 700, device="cuda")
    torch.testing.assert_close(
        bag(weight, at.col, at.crow, values).double(), dense @ weight.double(), rtol=1e-4, atol=1e-3
    )
    wanted = (x.double() @ weight.double().T)[at.row, at.col]
    torch.testing.assert_close(inner_full(at, x, weight).double(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("case", ["topk", "topk_bf16", "batch_topk", "relu_l1"])
def test_fit_follows_the_cpu(case: str) -> None:
    assert fits(SETTINGS["cuda"])[case]()["ok"]

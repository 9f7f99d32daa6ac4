"""A whole step from the Triton programs against the same step by dense autograd and torch.optim.Adam."""

import pytest
import torch

from benchmarks.gpu_pieces import DenseStep, Mode, Shape, TopKStep, floor_bytes
from tests.kernels.gpu.where import DEVICE, needs_triton

pytestmark = needs_triton

SMALL = Shape(n_p=6, n_q=12, k=3, batch=4)


@pytest.mark.parametrize("mode", ["fp32", "certified"])
def test_two_steps_end_where_dense_autograd_ends(mode: Mode) -> None:
    """Loss, both weights and both biases: every gradient, projection, clipping, Adam and the norms are in them."""
    x = SMALL.rows(DEVICE)
    ours, dense = TopKStep(SMALL, DEVICE, mode), DenseStep(SMALL, DEVICE)
    for _ in range(2):
        torch.testing.assert_close(ours(x), dense(x), rtol=1e-5, atol=1e-6)
    for name in ("W_E", "W_D", "b_E", "b_D"):
        torch.testing.assert_close(getattr(ours, name).detach(), getattr(dense, name).detach(), rtol=1e-4, atol=2e-5)


def test_bf16_weights_learn_through_their_masters() -> None:
    x = SMALL.rows(DEVICE)
    step = TopKStep(SMALL, DEVICE, "bf16")
    losses = [float(step(x)) for _ in range(2)]
    assert losses[-1] < losses[0]
    assert step.low_E is not None
    assert (step.low_E.float() - step.W_E).abs().max() <= 2.0**-7 * step.W_E.abs().max()


def test_the_floor_counts_bytes() -> None:
    counted = floor_bytes(Shape(n_p=4, n_q=8, k=2, batch=3))
    assert counted == {
        "weights and moments": 2 * 8 * 4 * 26,
        "active decoder rows": 2 * 3 * 2 * 4 * 2,
        "touched gradient rows": 2 * 3 * 2 * 4 * 4,
        "selection": 2 * 3 * 8 * 2,
    }

"""Passes over dense codes give what plain torch gives in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.kernels.native import dense
from monosem.kernels.straight_through import heaviside, heaviside_sum, jump


def numbers(seed: int, *shape: int) -> Tensor:
    """Random numbers, rounded so that they meet thresholds exactly."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 8).round() / 8


@given(st.integers(1, 9), st.sampled_from([1, 17, 2048, 2100]), st.integers(0, 99))
@settings(max_examples=25)
def test_jump_and_count_are_their_definitions(rows: int, n: int, seed: int) -> None:
    z, theta, g = numbers(seed, rows, n), numbers(seed + 1, 1, n), numbers(seed + 2, rows, n)
    assert dense.fits(z, theta, g)
    results = []
    for dtype in (torch.float32, torch.float64):
        a, b = z.to(dtype).requires_grad_(), theta.to(dtype).requires_grad_()
        value = jump(a, b, 0.5)
        count = heaviside_sum(a.detach(), b, 0.5)
        of_z, of_theta = torch.autograd.grad((value * g.to(dtype)).sum(), (a, b))
        (of_count,) = torch.autograd.grad(3.0 * count, b)
        results.append([value, count, of_z, of_theta, of_count])
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast.double(), plain, rtol=1e-5, atol=1e-5)


def test_other_cases_go_the_plain_way() -> None:
    z, theta = numbers(0, 6, 5), numbers(1, 1, 5)
    assert not dense.fits(z.T, theta)
    assert not dense.fits(z, theta[0])
    assert not dense.fits(z, theta, z.T.contiguous().T)
    z.requires_grad_()
    (of_z,) = torch.autograd.grad(heaviside_sum(z, theta, 0.5), z)
    assert torch.equal(of_z, torch.autograd.grad(heaviside(z, theta, 0.5).sum(), z)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_used_latents(dtype: torch.dtype) -> None:
    values = torch.zeros(7, 4100, dtype=dtype)
    values[3, 5], values[6, 4099], values[0, 0] = 1.0, -2.0, -0.0
    assert dense.used(values).nonzero().squeeze(1).tolist() == [5, 4099]

"""Passes over dense codes give what plain torch gives in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.kernels.native import dense
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.straight_through import column_sums, heaviside, heaviside_sum, jump, jump_and_sums

compiled = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")


def numbers(seed: int, *shape: int) -> Tensor:
    """Random numbers, rounded so that they meet thresholds exactly."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 8).round() / 8


@compiled
@given(st.integers(1, 300), st.sampled_from([1, 17, 2100]), st.booleans(), st.integers(0, 99))
@settings(max_examples=25)
def test_jump_its_sums_and_count_are_their_definitions(rows: int, n: int, at_zero: bool, seed: int) -> None:
    z, theta, g, of_sums = numbers(seed, rows, n), numbers(seed + 1, 1, n), numbers(seed + 2, rows, n), numbers(seed, n)
    theta = torch.zeros_like(theta) if at_zero else theta
    a, b = z.clone().requires_grad_(), theta.clone().requires_grad_()
    found = jump_and_sums(a, None if at_zero else b, 0.5)
    assert found[1] is not None
    of_a, of_b = torch.autograd.grad((found[0] * g).sum() + (found[1] * of_sums).sum(), (a, b), allow_unused=at_zero)
    c, d = z.double().requires_grad_(), theta.double().requires_grad_()
    plain = jump(c, d, 0.5)
    of_c, of_d = torch.autograd.grad((plain * (g + of_sums).double()).sum(), (c, d))
    assert torch.equal(found[0], plain.float())
    torch.testing.assert_close(found[1].double(), plain.sum(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(of_a.double(), of_c)
    if not at_zero:
        torch.testing.assert_close(of_b.double(), of_d, rtol=1e-5, atol=1e-4)
    (of_count,) = torch.autograd.grad(3.0 * heaviside_sum(z, b, 0.5), b)
    (wanted,) = torch.autograd.grad(3.0 * heaviside_sum(z.double(), d, 0.5), d)
    assert heaviside_sum(z, b.detach(), 0.5) == (z > theta).sum()
    torch.testing.assert_close(of_count.double(), wanted)


@compiled
def test_sums_alone_and_values_alone_have_gradients() -> None:
    z = numbers(3, 5, 7)
    for part, of in ((0, torch.ones(5, 7)), (1, torch.ones(7))):
        a = z.clone().requires_grad_()
        found = jump_and_sums(a, None)
        assert found[1] is not None
        (of_a,) = torch.autograd.grad((found[part] * of).sum(), a)
        assert torch.equal(of_a, (z > 0).float())


@compiled
def test_nan_stays_nan() -> None:
    z = torch.tensor([[1.0, torch.nan, -1.0]])
    for theta in (None, torch.zeros(1, 3)):
        found = jump_and_sums(z, theta)
        assert found[1] is not None
        assert found[0].isnan().tolist() == [[False, True, False]]
        assert found[1].isnan().tolist() == [False, True, False]


@compiled
@pytest.mark.parametrize(("more", "changed"), [(False, False), (True, False), (False, True)])
def test_the_sums_of_a_gradient_are_those_of_what_arrives(more: bool, changed: bool) -> None:
    g = torch.ones(6, 5)
    z, seen = numbers(1, 6, 5).requires_grad_(), []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return z.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            if changed:
                gradients[0].add_(1.0)
            seen.append((column_sums(gradients[0]), gradients[0].sum(0)))
            return gradients[0]

    read = Watch.apply(z)  # type: ignore[no-untyped-call]
    found = jump_and_sums(read, None)
    assert found[1] is not None
    loss = (found[0] * g).sum() + ((read * 3.0).sum() if more else 0.0)  # another reader adds to what is on its way
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(*seen[0])


def test_other_cases_go_the_plain_way() -> None:
    z, theta = numbers(0, 6, 5), numbers(1, 1, 5)
    assert not dense.fits(z.T, theta)
    assert not dense.fits(z, theta[0])
    assert not dense.fits(z, theta, z.T.contiguous().T)
    assert jump_and_sums(z.double(), None)[1] is None
    z.requires_grad_()
    (of_z,) = torch.autograd.grad(heaviside_sum(z, theta, 0.5), z)
    assert torch.equal(of_z, torch.autograd.grad(heaviside(z, theta, 0.5).sum(), z)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_used_latents(dtype: torch.dtype) -> None:
    values = torch.zeros(7, 4100, dtype=dtype)
    values[3, 5], values[6, 4099], values[0, 0] = 1.0, -2.0, -0.0
    assert dense.used(values).nonzero().squeeze(1).tolist() == [5, 4099]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts(dtype: torch.dtype) -> None:
    values = numbers(4, 37, 4099).to(dtype)
    values[0, 0], values[1, 1], values[2, 2] = -0.0, torch.nan, 1e-40
    assert dense.count(values) == int(np.count_nonzero(values.numpy()))
    assert dense.count(values[:0]) == 0

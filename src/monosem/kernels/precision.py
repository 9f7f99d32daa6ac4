"""Matrix products of dense codes in bfloat16, with float32 sums: asked for by name, never chosen.

Equation: a @ b ~ bf16(a) @ bf16(b), rounded to bfloat16 once more and returned as float32; relative error of an entry
    about 2^-8 of |a| |b|. Gradients of such a product are products of the same kind.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from monosem.kernels.workspace import recycled, workspace


class _Open(threading.local):
    """The precision of a thread: models that train side by side have their own."""

    def __init__(self) -> None:
        self.low = False


_open = _Open()


def in_bfloat16() -> bool:
    """Whether this thread makes dense products in bfloat16 just now; backward passes keep to their forward pass."""
    return _open.low


@contextmanager
def dense_products(low: bool) -> Iterator[None]:
    """Make the dense products inside in bfloat16, if `low`."""
    before, _open.low = _open.low, low
    try:
        yield
    finally:
        _open.low = before


def product(a: Tensor, b: Tensor, low: bool | None = None) -> Tensor:
    """a @ b, in bfloat16 if `low` (None: in the precision of the moment); no gradient of its own in bfloat16."""
    if in_bfloat16() if low is None else low:
        return _low_product(_low(a), _low(b))
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return a @ b
    return torch.mm(a, b, out=recycled((a.shape[0], b.shape[1]), a))


def _low(a: Tensor) -> Tensor:
    return recycled(tuple(a.shape), a, torch.bfloat16).copy_(a)


def _low_product(a: Tensor, b: Tensor) -> Tensor:
    shape = (a.shape[0], b.shape[1])
    low = torch.mm(a, b, out=workspace("low product", shape, torch.bfloat16, a.device))
    return recycled(shape, a, torch.float32).copy_(low)


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.low = in_bfloat16()
        if ctx.low:
            a, b = _low(a), _low(b)
        ctx.save_for_backward(a, b)
        return _low_product(a, b) if ctx.low else product(a, b, low=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), g = ctx.saved_tensors, gradients[0]
        g = _low(g) if ctx.low else g
        times = _low_product if ctx.low else partial(product, low=False)
        of_a = times(g, b.T) if ctx.needs_input_grad[0] else None
        return of_a, times(a.T, g) if ctx.needs_input_grad[1] else None


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, differentiable, in the precision of the moment."""
    return multiply_again(a, b) if in_bfloat16() else a @ b


def multiply_again(a: Tensor, b: Tensor) -> Tensor:
    """The same; result and gradients lie in recycled memory."""
    return _Multiply.apply(a, b)  # type: ignore[no-any-return, no-untyped-call]

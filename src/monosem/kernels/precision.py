"""Matrix products of dense codes in bfloat16, with float32 sums: asked for by name, never chosen.

Equation: a @ b ~ bf16(a) @ bf16(b), rounded to bfloat16 once more and returned as float32; relative error of an entry
    about 2^-8 of |a| |b|. Gradients of such a product are products of the same kind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["dense_products", "in_bfloat16", "multiply", "product"]

_open: list[bool] = []


def in_bfloat16() -> bool:
    """Whether dense products are to be made in bfloat16 just now."""
    return bool(_open) and _open[-1]


@contextmanager
def dense_products(low: bool) -> Iterator[None]:
    """Make the dense products inside in bfloat16, if `low`."""
    _open.append(low)
    try:
        yield
    finally:
        _open.pop()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, in the precision of the moment; no gradient of its own in bfloat16."""
    return (a.bfloat16() @ b.bfloat16()).float() if in_bfloat16() else a @ b


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        low_a, low_b = a.bfloat16(), b.bfloat16()
        ctx.save_for_backward(low_a, low_b)
        return (low_a @ low_b).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), g = ctx.saved_tensors, gradients[0].bfloat16()
        of_a = (g @ b.T).float() if ctx.needs_input_grad[0] else None
        return of_a, (a.T @ g).float() if ctx.needs_input_grad[1] else None


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, differentiable, in the precision of the moment."""
    return _Multiply.apply(a, b) if in_bfloat16() else a @ b  # type: ignore[no-untyped-call]

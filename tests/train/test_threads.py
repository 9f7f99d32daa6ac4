"""Runs in threads of one process give the bits that each gives alone."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.kernels import precision
from monosem.kernels.ledger import open_ledger, the_ledger
from monosem.kernels.ops import dense_products
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.train.scenes import scene_source

CONFIG = FitConfig(40, 32, 1e-3, log_every=10, clip=1.0, dead_window=200, threads=1)


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returns, all at once."""
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def weights(name: str, config: FitConfig) -> list[Tensor]:
    """A trained model's parameters."""
    return [p.detach() for p in fit(name, scene_source(), 96, config).model.parameters()]


@pytest.mark.parametrize("name", ["topk(k=4, aux=0.1)", "batch_topk(k=3)", "matryoshka(k=3)", "relu_l1(l1=0.1)"])
def test_two_runs_at_once_are_the_runs_alone(name: str) -> None:
    """One in float32 and one with dense products in bfloat16; each in its own ledger, with its own memory."""
    low = replace(CONFIG, dense="bf16", seed=1)
    alone = [weights(name, config) for config in (CONFIG, low, CONFIG)]
    together = in_threads(*(lambda config=config: weights(name, config) for config in (CONFIG, low, CONFIG)))
    for a, b in zip(alone, together, strict=True):
        assert b is not None
        assert all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def test_precision_and_ledgers_are_a_threads_own() -> None:
    weight, inside, seen = torch.zeros(2, 2), threading.Event(), threading.Event()

    def other() -> tuple[bool, bool]:
        inside.wait(10)
        state = precision.in_bfloat16(), the_ledger() is None
        seen.set()
        return state

    def one() -> tuple[bool, bool]:
        with dense_products(True), open_ledger([weight]) as ledger:
            inside.set()
            seen.wait(10)
            return precision.in_bfloat16(), the_ledger() is ledger

    assert in_threads(one, other) == [(True, True), (False, True)]
    assert not precision.in_bfloat16()


def test_a_backward_pass_keeps_the_precision_and_thread_of_its_forward_pass() -> None:
    """On the CPU autograd works in the thread that calls it; what it needs is noted when the forward pass is made."""
    threads: list[int] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor) -> Tensor:
            return a.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            threads.append(threading.get_ident())
            return gradients[0]

    generator = torch.Generator().manual_seed(0)
    a, b, g = (torch.randn(6, 6, generator=generator) for _ in range(3))
    a.requires_grad_()
    with dense_products(True):
        out = precision.multiply(Watch.apply(a), b)  # type: ignore[no-untyped-call]
    out.backward(g)
    assert a.grad is not None
    assert not torch.equal(a.grad, g @ b.T)
    assert torch.equal(a.grad, (g.bfloat16() @ b.bfloat16().T).float())
    assert threads == [threading.get_ident()]

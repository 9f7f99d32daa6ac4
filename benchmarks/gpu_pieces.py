"""What benchmarks/gpu_parts.py times beside `fit`: the pieces of a step, torch's own ways, and dense autograd."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.floor import bags
from monosem.base import Positions
from monosem.kernels.gpu.cells import bag, inner_full
from monosem.kernels.gpu.rows import RowStep
from monosem.kernels.gpu.select import encode_top, top_index
from monosem.kernels.native.calls import Ordered
from monosem.kernels.native.rows import CellSet

LR, BETAS, EPS, CLIP = 1e-3, (0.9, 0.999), 1e-8, 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a step; n_r = n_p."""

    n_p: int
    n_q: int
    k: int
    batch: int

    def __str__(self) -> str:
        return f"{self.n_p} x {self.n_q}, k {self.k}, batch {self.batch}"

    def start(self, device: str) -> tuple[Tensor, Tensor]:
        """W_E and W_D [n_q, n_p], tied, rows of unit norm."""
        generator = torch.Generator(device).manual_seed(0)
        weight = normalize(torch.randn(self.n_q, self.n_p, generator=generator, device=device))
        return weight, weight.clone()

    def rows(self, device: str) -> Tensor:
        """A batch of sums of 16 of 1000 directions, so that training has something to find."""
        generator = torch.Generator(device).manual_seed(1)
        truth = normalize(torch.randn(1000, self.n_p, generator=generator, device=device))
        chosen = torch.randint(1000, (self.batch, 16), generator=generator, device=device)
        return truth[chosen].mul(torch.rand(self.batch, 16, 1, generator=generator, device=device)).sum(1)


class DenseStep:
    """The same step by dense autograd, torch.topk and torch's fused Adam: what the sparse one is compared with."""

    def __init__(self, shape: Shape, device: str) -> None:
        self.shape = shape
        self.W_E, self.W_D = (torch.nn.Parameter(w) for w in shape.start(device))
        self.b_E, self.b_D = (torch.nn.Parameter(torch.zeros(n, device=device)) for n in (shape.n_q, shape.n_p))
        self.parameters = [self.W_E, self.W_D, self.b_E, self.b_D]
        self.adam = torch.optim.Adam(self.parameters, LR, BETAS, EPS, fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        """One step; the loss before it."""
        z = x @ self.W_E.T + self.b_E
        top = z.topk(self.shape.k, dim=1, sorted=False)
        code = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
        loss = (code @ self.W_D + self.b_D - x).square().sum(1).mean()
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        with torch.no_grad():
            w, g = self.W_D, self.W_D.grad
            assert g is not None
            g -= w * (torch.linalg.vecdot(g, w) / torch.linalg.vecdot(w, w))[:, None]
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        with torch.no_grad():
            self.W_D.copy_(normalize(self.W_D))
        return loss.detach()


def floor_bytes(shape: Shape) -> dict[str, float]:
    """Bytes that a step must move beside its encoder product, with bf16 weights and float32 masters and moments."""
    weights, rows = 2.0 * shape.n_q * shape.n_p, float(shape.batch * shape.k * shape.n_p)
    return {
        "weights and moments": weights * (6 * 4 + 2),  # master and two moments read and written, the bf16 copy written
        "active decoder rows": 2 * rows * 2,  # decode and value gradients, bf16
        "touched gradient rows": 2 * rows * 4,  # both weights: rows of x and of the output gradient, float32
        "selection": 2.0 * shape.batch * shape.n_q * 2,  # the product in bf16, written and read once
    }


def pieces(shape: Shape, device: str) -> dict[str, Callable[[], object]]:
    """Name -> work: ours beside torch's, on the same operands."""
    x, (weight, _), k = shape.rows(device), shape.start(device), shape.k
    low, low_x, bias = weight.bfloat16(), x.bfloat16(), torch.zeros(shape.n_q, device=device)
    top = encode_top(x, low, bias, k, low=True)
    at, values = Positions.from_rows(top.index, shape.n_q), top.value.relu().flatten()
    order, offsets = at.latent_major
    row, sorted_values, ends = at.row[order], values[order], at.crow[:-1].contiguous()
    moments, copy = [torch.zeros_like(weight) for _ in range(2)], weight.clone()
    step = RowStep(copy, None, [CellSet(Ordered(0, shape.batch, offsets, row, order), values, x, 0)],
                   (0, shape.n_p), True, True)  # fmt: skip

    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return {
        "product bf16": lambda: torch.mm(low_x, low.T),
        "product fp32": lambda: torch.mm(x, weight.T),
        "torch bf16: product + topk": lambda: torch.mm(low_x, low.T).topk(k, dim=1, sorted=False),
        "torch fp32: product + topk": lambda: torch.addmm(bias, x, weight.T).topk(k, dim=1, sorted=False),
        "product fp32 + top_index": lambda: top_index(torch.addmm(bias, x, weight.T), k),
        "encode_top fp32": lambda: encode_top(x, weight, bias, k),
        "encode_top fp32, fused": lambda: encode_top(x, weight, bias, k, fused=True),
        "encode_top certified": lambda: encode_top(x, weight, bias, k, low=True),
        "encode_top certified, fused": lambda: encode_top(x, weight, bias, k, low=True, fused=True),
        "encode_top of bf16 weights": lambda: encode_top(x, low, bias, k, low=True),
        "encode_top of bf16 weights, fused": lambda: encode_top(x, low, bias, k, low=True, fused=True),
        "decode": lambda: bag(weight, at.col, at.crow, values),
        "decode of bf16 weights": lambda: bag(low, at.col, at.crow, values),
        "decode, torch": lambda: bags(weight, at.col, at.crow, values),
        "value gradient": lambda: inner_full(at, x, weight),
        "value gradient, torch": lambda: backward(x, weight, at.col, ends, at.row, 0),
        "weight gradient": lambda: bag(x, row, offsets, sorted_values),
        "weight gradient, torch": lambda: bags(x, row, offsets, sorted_values),
        "sort of the cells": lambda: torch.argsort(at.col, stable=True),
        "row norms": step.squared_norm,
        "row step": lambda: step.adam(moments[0], moments[1], None, 1, LR, BETAS, EPS, 1.0, low),
    }


class Watch:
    """Marks in time: events of the device, or the wall clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.device, self.marks = device, list[Any]()

    def __call__(self) -> None:
        """A mark, now."""
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """From mark to mark."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in pairwise(self.marks)]
        return [1e3 * (b - a) for a, b in pairwise(self.marks)]


def milliseconds(work: Callable[[], object], device: str, rounds: int, warm: int = 2) -> float:
    """The median time of a call, after some that compile it and fill the allocator."""
    watch = Watch(device)
    for number in range(warm + rounds):
        if number >= warm:
            watch()
        work()
    watch()
    return median(watch.milliseconds())

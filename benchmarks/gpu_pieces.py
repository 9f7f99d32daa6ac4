"""What benchmarks/gpu_day.py times: a whole TopK step from the Triton programs, its pieces, and torch's own ways."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from monosem.base.sparse import Positions
from monosem.kernels.gpu.adam import DenseAdam
from monosem.kernels.gpu.cells import bag, inner_full
from monosem.kernels.gpu.rows import RowStep
from monosem.kernels.gpu.select import TopCells, encode_top, top_index
from monosem.kernels.native.calls import Ordered
from monosem.kernels.native.rows import CellSet

Mode = Literal["fp32", "certified", "bf16"]
"""fp32: all of it. certified: bf16 products pick candidates, float32 decides. bf16: weights too, with masters."""

LR, BETAS, EPS, CLIP = 1e-3, (0.9, 0.999), 1e-8, 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a step; n_r = n_p."""

    n_p: int
    n_q: int
    k: int
    batch: int

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


class TopKStep:
    """TopK SAE with biases, unit decoder rows, projection, clipping and Adam; no gradient of a weight exists."""

    def __init__(self, shape: Shape, device: str, mode: Mode, fused: bool = False) -> None:
        self.shape, self.mode, self.fused, self.steps = shape, mode, fused, 0
        self.W_E, self.W_D = shape.start(device)
        self.b_E, self.b_D = (torch.nn.Parameter(torch.zeros(n, device=device)) for n in (shape.n_q, shape.n_p))
        self.moments = [torch.zeros_like(self.W_E) for _ in range(4)]
        self.moved = [torch.zeros(shape.n_q, dtype=torch.bool, device=device) for _ in range(2)]
        self.low_E, self.low_D = (w.bfloat16() if mode == "bf16" else None for w in (self.W_E, self.W_D))
        self.biases = DenseAdam([self.b_E, self.b_D], LR, BETAS, EPS)
        self.one = torch.ones(1, 1, device=device)

    def encode(self, x: Tensor) -> TopCells:
        """The k largest pre-activations."""
        weight = self.W_E if self.low_E is None else self.low_E
        return encode_top(x, weight, self.b_E.detach(), self.shape.k, low=self.mode != "fp32", fused=self.fused)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """One step; the loss before it: ||x_hat - x||^2, mean over rows."""
        shape, decoder = self.shape, self.W_D if self.low_D is None else self.low_D
        top = self.encode(x)
        at, values = Positions.from_rows(top.index, shape.n_q), top.value.relu().flatten()
        residual = bag(decoder, at.col, at.crow, values) + self.b_D - x
        g_out = residual * (2 / shape.batch)
        g_values = inner_full(at, g_out, decoder) * (values > 0)
        order, offsets = at.latent_major
        cells = Ordered(0, shape.batch, offsets, at.row[order], order)
        bounds = (0, shape.n_p)
        steps = [
            RowStep(self.W_E, None, [CellSet(cells, g_values, x, 0)], bounds, False, False),
            RowStep(self.W_D, None, [CellSet(cells, values, g_out, 0)], bounds, True, True),
        ]
        nothing = torch.zeros_like(order)
        self.b_E.grad, self.b_D.grad = bag(self.one, nothing, offsets, g_values[order])[:, 0], g_out.sum(0)
        square = sum((s.squared_norm() for s in steps), self.b_E.grad.square().sum() + self.b_D.grad.square().sum())
        scale = (CLIP / (square.sqrt() + 1e-6)).clamp(max=1.0)
        self.steps += 1
        for i, (step, low) in enumerate(zip(steps, (self.low_E, self.low_D), strict=True)):
            m, v = self.moments[2 * i : 2 * i + 2]
            step.adam(m, v, self.moved[i], self.steps, LR, BETAS, EPS, scale, low)
        self.biases.scale = scale
        self.biases.step()
        return residual.square().sum(1).mean()


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

    def bags(table: Tensor, index: Tensor, runs: Tensor, scales: Tensor) -> Tensor:
        return embedding_bag(index, table, runs, mode="sum", per_sample_weights=scales, include_last_offset=True)

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

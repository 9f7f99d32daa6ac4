"""The floor: what a sparse step cannot avoid, piece by piece, with stock torch operations on the same shapes."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from benchmarks.contender import Beat, Enough, timed
from benchmarks.sizes import Size, speed_task
from monosem.base import torch_generator
from monosem.bench import TaskSource

PIECES: Mapping[str, str] = {
    "product_fresh": "encoder product fp32 into fresh memory",
    "product_bf16": "encoder product bf16",
    "cast_bf16": "one weight to bf16",
    "row_topk": "topk(k) of every row",
    "filter": "compare with a threshold and count",
    "decode": "decode, rows as bags",
    "value_gradient": "gradient of the values",
    "weight_gradient": "one weight gradient, latents as bags, sort included",
    "clip": "norm of both weight gradients",
    "project": "gradient projection",
    "adam": "fused Adam, both weights",
    "normalise": "unit norm of one weight",
    "copy": "copy of one weight (bandwidth: read and write)",
    "data": "a fresh batch of the bench",
}
"""Every piece, in the order of a step, and what it is."""

_Work = Callable[[], object]


def _products(size: Size, x: Tensor, weight: Tensor) -> dict[str, _Work]:
    x16, weight16 = x.bfloat16(), weight.bfloat16()
    z16 = torch.empty(size.batch, size.n_q, dtype=torch.bfloat16)
    z = torch.mm(x, weight.T)
    return {
        "product_fresh": lambda: x @ weight.T,
        "product_bf16": lambda: torch.mm(x16, weight16.T, out=z16),
        "cast_bf16": lambda: weight16.copy_(weight),
        "row_topk": lambda: z.topk(size.k, dim=1, sorted=False),
        "filter": lambda: torch.count_nonzero(z > 3.0),
    }


def bags(table: Tensor, index: Tensor, runs: Tensor, scales: Tensor) -> Tensor:
    """Scaled rows of a table, summed run by run."""
    return embedding_bag(index, table, runs, mode="sum", per_sample_weights=scales, include_last_offset=True)


def _sparse(size: Size, x: Tensor, weight: Tensor, generator: torch.Generator) -> dict[str, _Work]:
    """Decode and gradients of batch * k cells at random latents."""
    index = torch.rand(size.batch, size.n_q, generator=generator).topk(size.k, 1).indices.reshape(-1)
    values = torch.rand(index.numel(), generator=generator)
    rows = torch.arange(size.batch).repeat_interleave(size.k)
    ends = torch.arange(0, index.numel() + 1, size.k)

    def weight_gradient() -> Tensor:
        order = torch.from_numpy(np.argsort(index.numpy().astype(np.uint16), kind="stable"))
        offsets = torch.zeros(size.n_q + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(index, minlength=size.n_q), 0, out=offsets[1:])
        return bags(x, rows[order], offsets, values[order])

    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return {
        "decode": lambda: bags(weight, index, ends, values),
        "value_gradient": lambda: backward(x, weight, index, ends[:-1], rows, 0),
        "weight_gradient": weight_gradient,
    }


def _updates(size: Size, generator: torch.Generator) -> dict[str, _Work]:
    """What passes over whole weights."""
    weights = [torch.randn(size.n_q, size.n_p, generator=generator).requires_grad_() for _ in range(2)]
    for weight in weights:
        weight.grad = torch.randn(size.n_q, size.n_p, generator=generator)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    optimiser = torch.optim.Adam(weights, lr=1e-6, fused=True)
    decoder, gradient = weights[1].detach(), gradients[1]

    def project() -> None:
        along = torch.linalg.vecdot(gradient, decoder) / torch.linalg.vecdot(decoder, decoder)
        gradient.addcmul_(decoder, along[:, None], value=-1)

    return {
        "clip": lambda: torch.stack([gradient.norm() for gradient in gradients]).norm(),
        "project": project,
        "adam": optimiser.step,
        "normalise": lambda: decoder.div_(torch.linalg.vecdot(decoder, decoder).sqrt()[:, None]),
        "copy": lambda: gradients[0].copy_(gradients[1]),
    }


def pieces(size: Size) -> dict[str, _Work]:
    """Every piece at a size, ready to be called."""
    generator = torch_generator(0, "speed/floor")
    x = torch.randn(size.batch, size.n_p, generator=generator)
    weight = torch.randn(size.n_q, size.n_p, generator=generator)
    source = TaskSource(speed_task(size))
    step = iter(range(10**9))
    work = _products(size, x, weight) | _sparse(size, x, weight, generator) | _updates(size, generator)
    work["data"] = lambda: source.take(torch.arange(size.batch) + next(step) * size.batch)
    return {name: work[name] for name in PIECES}


def floor(size: Size, beat: Beat) -> None:
    """A contender whose steps are all pieces once; their times are its facts, in ms of processor and of wall clock."""
    work = pieces(size)
    milliseconds: dict[str, float] = {}
    beat.baseline()
    beat.facts = lambda: dict(milliseconds)
    try:
        while True:
            beat()
            for name, call in work.items():
                span = timed(call)
                milliseconds[name], milliseconds[f"{name}_wall"] = round(span.cpu * 1e3, 3), round(span.wall * 1e3, 3)
    except Enough:
        return

"""fit_together: train several small runs of one shape side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monosem.anchoring.anchors import Anchors
from monosem.base.errors import ArgumentError, DataError, check
from monosem.core.pairs import Source
from monosem.methods import Method
from monosem.methods import method as read_method
from monosem.train.config import FitConfig, Order
from monosem.train.loop import Callback, Result, check_finite, finished, log_entry, resample, start_run
from monosem.train.stack import Stack

__all__ = ["MOST", "WORTH", "Member", "fit_together", "worth_stacking"]

WORTH = 2**31
"""Multiply-adds of one run's encoder product below which a GPU waits for its host rather than for the product."""
MOST = 64
"""Runs of a stack that is chosen by size."""


@dataclass(frozen=True, eq=False)
class Member:
    """One run of a stack: what `fit` is called with, less what all of them share."""

    method: Method | str
    source: Source
    seed: int = 0
    anchors: Anchors | None = None
    callbacks: Sequence[Callback] = ()


def worth_stacking(n_q: int, n_p: int, n_r: int, batch: int, device: str) -> int:
    """How many runs of a size to train side by side where nobody says so; 1 is a run alone.

    On a CPU always 1: there runs go side by side in processes. On a GPU as many as fit into half of the free memory
    (weights, gradients and two moments; eight arrays of [batch, n_q]), at most MOST, where a run's product is smaller
    than WORTH.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available() or batch * n_q * max(n_p, n_r) > WORTH:
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(MOST, free // 2 // (4 * (4 * n_q * (n_p + n_r) + 8 * batch * n_q))))


def _together(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack(list(parts)).to(device)


def fit_together(
    members: Sequence[Member],
    n_q: int,
    config: FitConfig | None = None,
    *,
    on_error: Callable[[int, DataError], None] | None = None,
) -> list[Result | None]:
    """`fit` for several runs at once: weights stacked [runs, n_q, n_p], one batched product per step.

    Every run has the rows, the start and the random numbers that it would have alone, and takes the same steps in the
    same order; sums run in another order, so that numbers agree within rounding, not to the bit. The runs share
    `config` but for its seed, the sizes, and their method but for the weights of its terms and the directions of their
    anchors. Codes are dense: this pays where a GPU waits for its host (`worth_stacking`), not on a CPU.

    A stack writes nothing and cannot go on after an interruption: it starts again. Each result is what `fit` leaves;
    its `seconds` are those of the whole stack. A run whose loss is not finite ends the stack with its number, or with
    `on_error` that run only: it hears the number and why, and the run's result is None.

    Raises: as `fit`; ShapeError or RefusedError for runs that cannot share a stack; DataError for a loss.
    Example:
        >>> from monosem.core.pairs import TensorSource
        >>> rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        >>> runs = [Member("topk(k=2)", TensorSource(rows), seed) for seed in range(3)]
        >>> [r.model.W_D.shape for r in fit_together(runs, 16, FitConfig(steps=3, batch_size=8))]
        [torch.Size([8, 16]), torch.Size([8, 16]), torch.Size([8, 16])]
    """
    config = config or FitConfig()
    check(len(members) >= 1, "no runs to stack; give at least one member")
    check(
        config.checkpoint_every is None,
        f"checkpoint_every={config.checkpoint_every}, but a stack leaves no checkpoints; set None, or train each run "
        "alone, with fit",
    )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    started = time.perf_counter()
    configs = [replace(config, seed=member.seed) for member in members]
    methods = [read_method(m.method) if isinstance(m.method, str) else m.method for m in members]
    runs = []
    for number, (method, member, own) in enumerate(zip(methods, members, configs, strict=True)):
        try:
            runs.append(start_run(method, member.source, n_q, own, member.anchors))
        except ArgumentError as error:
            raise type(error)(f"run {number}: {error}") from None
    device = runs[0].model.b_E.device
    orders = [Order(member.source.rows, config.batch_size, member.seed) for member in members]
    logs: list[list[dict[str, float]]] = [[] for _ in members]
    for run in runs:
        run.model.train()
    stack, going = Stack(runs, methods, config), set(range(len(runs)))
    while going and runs[0].step < config.steps:
        pairs = [m.source.take(order.index(runs[0].step)) for m, order in zip(members, orders, strict=True)]
        x_p = _together([x for x, _ in pairs], device)
        x_r = x_p if all(x is y for x, y in pairs) else _together([y for _, y in pairs], device)
        seen = stack.step(x_p, x_r)
        finite = seen.total.isfinite().tolist()
        logged = runs[0].step % config.log_every == 0 or runs[0].step in (1, config.steps)
        for number in sorted(going):
            run, member = runs[number], members[number]
            if not finite[number]:
                try:
                    check_finite(run, configs[number], *seen.of(run, number))
                except DataError as error:
                    named = DataError(f"run {number} of the stack: {error}")
                    if on_error is None:
                        raise named from None
                    going.remove(number)
                    on_error(number, named)
                    continue
            resample(run, methods[number], configs[number], member.source)
            if logged:
                entry = log_entry(run, configs[number], *seen.of(run, number))
                for callback in member.callbacks:
                    callback(run, entry)
                logs[number].append(entry)
    stack.release()
    seconds = time.perf_counter() - started
    return [
        Result(finished(run.model, member.source), log, seconds, run.identity) if number in going else None
        for number, (run, member, log) in enumerate(zip(runs, members, logs, strict=True))
    ]

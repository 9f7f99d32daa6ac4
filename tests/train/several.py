"""Runs in one process and in several over gloo, and what each saw: one spawn for all the runs of a world size."""

import multiprocessing
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from monosem.core.blockmap import BlockMap
from monosem.core.model import SDL, Forward
from monosem.core.shards import edges
from monosem.train.loop import fit
from monosem.train.state import Run
from tests.train.scenes import Scene

T = TypeVar("T")


@dataclass
class Seen:
    """What one process saw of a run; latents are numbered as in the whole; "first" is of step 1."""

    cells: list[Tensor] = field(default_factory=list)
    since: list[Tensor] = field(default_factory=list)
    own: dict[str, Tensor] = field(default_factory=dict)
    everyones: dict[str, Tensor] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)


def _by_latent(side: BlockMap, of: Callable[[Tensor], Tensor | None]) -> Tensor:
    """Something that each weight has, as one matrix with a row for each latent."""
    dense = torch.zeros(side.n_q, side.width)
    for block, weight in zip(side.blocks, side.weights, strict=True):
        value = of(weight)
        if value is not None:
            dense[block.latents, block.columns] = value.detach()
    return dense


def _split(model: SDL, of: Callable[[Tensor], Tensor | None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(what each latent has, what all have in common) of every parameter."""
    own = {"encoder": _by_latent(model.encoder, of), "decoder": _by_latent(model.decoder, of)}
    vectors = {"b_E": model.b_E, **dict(model.act.items())}
    shared = {"b_D": model.b_D, "b_in": model._b_in, "W_skip": model.W_skip}
    by_column = {n: shared.pop(n) for n in ("b_D", "W_skip")} if model.group.by == "targets" else {}
    own, common = (
        before | {n: v.detach().clone() for n, p in some.items() if p is not None and (v := of(p)) is not None}
        for before, some in ((own, vectors | by_column), ({}, shared))
    )
    return own, common


class _Sent:
    """Counts what a process sends, as a ring does it: 2 (P - 1) / P of what is summed, P - 1 times what is gathered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0.0
        reduce, gather = dist.all_reduce, dist.all_gather

        def counted_reduce(x: Tensor, *rest: Any) -> None:
            self.bytes += 2 * (1 - 1 / dist.get_world_size()) * x.nbytes
            reduce(x, *rest)

        def counted_gather(everyone: list[Tensor], x: Tensor, *rest: Any) -> None:
            self.bytes += (len(everyone) - 1) * x.nbytes
            gather(everyone, x, *rest)

        patch.setattr(dist, "all_reduce", counted_reduce)
        patch.setattr(dist, "all_gather", counted_gather)


def watched(scene: Scene, size: int, out: Path | None = None) -> Seen:
    """The run of a scene, in this process with the others of its group."""
    seen, rank = Seen(), dist.get_rank() if size > 1 else 0
    first = edges(scene.n_q, size)[rank]

    def observe(model: SDL, out: Forward) -> None:
        row, latent = out.code.to_dense().detach().nonzero(as_tuple=True)
        seen.cells.append(row * scene.n_q + latent + first)
        seen.sent.append(sent.bytes)
        observed(model, out)

    def after(run: Run, entry: dict[str, float]) -> None:
        seen.since.append(run.tracker.since.clone())
        seen.log.append(dict(entry))
        if run.step == 1:
            state = run.optimiser.state
            own, shared = _split(run.model, lambda p: state[p].get("exp_avg") if p in state else None)
            seen.own, seen.everyones = ({f"first {name}": v for name, v in some.items()} for some in (own, shared))

    observed = SDL.observe
    with pytest.MonkeyPatch.context() as patch:
        sent = _Sent(patch)
        patch.setattr(SDL, "observe", observe)
        mesh = None if size == 1 else f"{scene.by}={size}"
        result = fit(
            scene.method, scene.source, scene.n_q, scene.config, scene.anchors, callbacks=[after], mesh=mesh, out=out
        )
    own, shared = _split(result.model, lambda p: p)
    seen.own |= own
    seen.everyones |= shared | result.model.activation_state()
    return seen


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _process(rank: int, size: int, port: int, work: Callable[[int, int], Any], answer: str) -> None:
    torch.set_num_threads(1)
    sys.setswitchinterval(0.001)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.save(work(rank, size), answer)
    dist.destroy_process_group()


def in_processes(size: int, work: Callable[[int, int], T]) -> list[T]:
    """work(rank, size) in each of `size` new processes that have one process group; what each returned.

    `work` is a function of a module. One that raises ends its process, and the others with it.
    """
    context, port = multiprocessing.get_context("spawn"), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        answers = [f"{folder}/{rank}" for rank in range(size)]
        group = [
            context.Process(target=_process, args=(rank, size, port, work, answers[rank]), daemon=True)
            for rank in range(size)
        ]
        for process in group:
            process.start()
        _wait(group)
        codes = [process.exitcode for process in group]
        assert codes == [0] * size, f"exit codes {codes}"
        return [torch.load(answer, weights_only=False) for answer in answers]


def _wait(group: Sequence[Any]) -> None:
    """Until all have ended; when one fails, the others are ended."""
    running = {process.sentinel: process for process in group}
    while running:  # an ended process is waited for until it is taken out: none may end unseen between two looks
        for sentinel in multiprocessing.connection.wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                for other in running.values():
                    other.kill()

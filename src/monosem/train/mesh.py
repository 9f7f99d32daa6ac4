"""One run in several processes: the group that torch.distributed makes of them, and what each of them has.

A run of one process does not import it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous

from monosem.base.errors import RefusedError, check
from monosem.base.group import ALONE, Axis, Group
from monosem.base.guard import shown
from monosem.core.constraints import Constraint
from monosem.core.model import SDL
from monosem.core.shards import cut, edges
from monosem.losses.objective import Objective, Term

_AXES: dict[Axis, tuple[Axis, ...]] = {"latents": ("latents", "targets"), "rows": ("rows",)}
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up."""


class Processes(Group):
    """The processes of one process group of torch.distributed; of None, all of them."""

    def __init__(self, processes: dist.ProcessGroup | None = None, by: Axis = "latents") -> None:
        self._processes, self.by = processes, by
        self.rank, self.size = dist.get_rank(processes), dist.get_world_size(processes)
        on_gpus = dist.get_backend(processes) == "nccl"
        self._at = torch.device("cuda", torch.cuda.current_device()) if on_gpus else None

    @contextmanager
    def apart(self) -> Iterator[Group]:
        """By gloo: a thread that writes has nothing on a GPU."""
        ranks = dist.get_process_group_ranks(self._processes)
        some = len(ranks) < dist.get_world_size()  # the others do not take part
        own = dist.new_group(ranks, PATIENCE, "gloo", use_local_synchronization=some)
        try:
            yield Processes(own, self.by)
            dist.barrier(own)  # as in `_launched`
        finally:
            if not some:  # another of some would have its name, and meet the addresses that it has left
                dist.destroy_process_group(own)

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        y = x.detach().to(self._at, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(y, how, self._processes)
        return y.to(x.device)

    def total(self, x: Tensor) -> Tensor:
        """x summed over the processes; all get the same bits."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def max(self, x: Tensor) -> Tensor:
        """The largest x, entry by entry."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def any(self, x: Tensor) -> Tensor:
        """Whether x holds in any process, entry by entry."""
        return self._reduced(x.to(torch.uint8), dist.ReduceOp.MAX).bool()

    def parts(self, x: Tensor) -> list[Tensor]:
        """x of every process; first their lengths are exchanged, then all of it, filled up to the longest."""
        counts = torch.cat(self._gathered(torch.tensor([x.shape[0]]))).tolist()
        mine = x.new_zeros((max(counts), *x.shape[1:]))
        mine[: x.shape[0]] = x.detach()
        return [part[:count] for part, count in zip(self._gathered(mine), counts, strict=True)]

    def _gathered(self, x: Tensor) -> list[Tensor]:
        mine = x.to(self._at)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        if x.numel():
            dist.all_gather(everyone, mine, self._processes)
        return [part.to(x.device) for part in everyone]


def _axis(mesh: str, shares: Axis) -> tuple[Axis, int]:
    """(axis, P) of "latents=P"."""
    name, _, number = mesh.partition("=")
    axis = next((axis for axis in _AXES[shares] if axis == name.strip()), None)
    right = number.strip().isdigit() and int(number) > 0
    known = " or ".join(f"{axis}=P" for axis in _AXES[shares])
    check(axis is not None and right, f"mesh={mesh!r}; write {known}, P the number of processes")
    assert axis is not None
    return axis, int(number)


def share(
    model: SDL, objective: Objective, constraints: Sequence[Constraint], group: Group, device: torch.device
) -> tuple[Objective, dict[str, dict[str, Tensor]]]:
    """Leave a fresh model this process's latents: their objective and the states of its terms, on the device.

    Raises: RefusedError for what needs whole columns of W_D, where targets are shared.
    """
    parts: Sequence[Term | Constraint] = (*objective.terms, *constraints)
    for part in parts if group.by == "targets" else ():
        why = f"{part.name} needs all of a column of W_D in one process, and mesh='targets=...' cuts columns"
        check(not part.whole_columns, f"{why}; leave it out, or share by latents", RefusedError)
    first, last = edges(model.n_q, group.size)[group.rank :][:2]
    whole = objective.init_state(model)
    states = {
        label: {name: (v[first:last] if v.ndim else v).to(device, copy=True) for name, v in state.items()}
        for label, state in whole.items()
    }
    cut(model, first, last, group)
    return objective.of_latents(first, last), states


@contextmanager
def open_mesh(mesh: str | DeviceMesh, device: str = "cpu", shares: Axis = "latents") -> Iterator[Group]:
    """The group over which a run lies: of "latents=P" or "targets=P" under torchrun, or of a DeviceMesh's dimension.

    `shares`: what the processes share, `latents` or `rows`. With NCCL, "cuda" then means this process's own GPU.
    Raises: ArgumentError where there are not P processes; RefusedError for a mesh with other dimensions.
    """
    if isinstance(mesh, str):
        with _launched(*_axis(mesh, shares), device) as group:
            yield group
        return
    check(isinstance(mesh, DeviceMesh), f"mesh={shown(mesh)}; write latents=P, or give a DeviceMesh")
    names = mesh.mesh_dim_names or ()
    wide = [name for name, size in zip(names, mesh.shape, strict=False) if size > 1]
    axis = next((axis for axis in _AXES[shares] if axis in (wide or names)), shares)
    fits = axis in names and wide in ([], [axis])
    known = " or ".join(_AXES[shares])
    check(fits, f"mesh has the dimensions {names or mesh.shape}; only `{known}` is shared here", RefusedError)
    yield Processes(mesh.get_group(axis), axis)


def _anew(store: Store) -> Store:
    """The store of torchrun without what processes before a restart have left there: their addresses answer no more.

    Only where one torchrun counts the restarts; over several machines their counts may differ.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store) if alone else store


@contextmanager
def _launched(by: Axis, size: int, device: str) -> Iterator[Group]:
    """The processes that torchrun started; a process group that is there already is used, and stays."""
    if size == 1:
        yield ALONE
        return
    already = dist.is_initialized()
    have = dist.get_world_size() if already else int(os.environ.get("WORLD_SIZE", "1"))
    start = f"torchrun --standalone --nproc-per-node {size}"
    check(have == size, f"mesh='{by}={size}', but there are {have} processes; start them by `{start} ...`")
    if already:
        yield Processes(by=by)
        return
    store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=PATIENCE, store=_anew(store), rank=rank, world_size=size)
    try:
        yield Processes(by=by)
        dist.barrier()  # none closes its connections while another still reads from them
    finally:
        dist.destroy_process_group()

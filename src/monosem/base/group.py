"""Group: the processes that share the latents of one model, as losses see them; ALONE for one process."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from monosem.base import errors
from monosem.base.errors import DataError, MonosemError, check

Axis = Literal["latents", "targets", "rows"]
"""What processes share: a model, or the rows that a network gives."""


class Group(ABC):
    """Processes that hold disjoint latents of one model and see the same rows.

    `by`: "latents", each has its latents' columns of W_D whole; "targets", each has some coordinates of x_r, and those
    of every latent's column.

    Every process calls the same operations in the same order, with tensors of the same shape (`parts`, `gather` and
    `place` alone let the first dimension differ), and every one gets the same result. A number that is not linear in
    the latents (a square of a count, a ratio, a branch on the number of dead latents) is taken after the sum.
    """

    rank: int
    size: int
    by: Axis = "latents"

    def sum(self, x: Tensor) -> Tensor:
        """x summed over the processes, in one order, the same for every process.

        Gradient: each process keeps that of its own summand, d total / d x = 1: what follows the sum is computed by
            all of them alike.
        """
        return _Sum.apply(self, x)  # type: ignore[no-any-return, no-untyped-call]

    def shared(self, x: Tensor) -> Tensor:
        """x, which every process has alike; its gradient is the sum of what the processes' latents ask of it."""
        return _Shared.apply(self, x)  # type: ignore[no-any-return, no-untyped-call]

    def joined(self, x: Tensor) -> Tensor:
        """`gather`, with a gradient: for each process's x the sum of what all of them ask of it."""
        return _Joined.apply(self, x)  # type: ignore[no-any-return, no-untyped-call]

    @abstractmethod
    def total(self, x: Tensor) -> Tensor:
        """`sum` without a gradient."""

    @abstractmethod
    def max(self, x: Tensor) -> Tensor:
        """The largest of the processes' x, entry by entry; without a gradient."""

    @abstractmethod
    def any(self, x: Tensor) -> Tensor:
        """Whether a boolean x holds in any process, entry by entry."""

    @abstractmethod
    def parts(self, x: Tensor) -> list[Tensor]:
        """x of every process, in the order of their ranks."""

    def gather(self, x: Tensor) -> Tensor:
        """All processes' x below each other along the first dimension, in the order of their ranks."""
        return torch.cat(self.parts(x))

    def place(self, x: Tensor) -> tuple[Tensor, slice]:
        """(`gather` of x, where x lies in it)."""
        parts = self.parts(x)
        first = sum(part.shape[0] for part in parts[: self.rank])
        return torch.cat(parts), slice(first, first + x.shape[0])

    @contextmanager
    def apart(self) -> Iterator["Group"]:
        """The same processes for another thread, whose operations do not wait for those of this one."""
        yield self

    def __deepcopy__(self, memo: object) -> "Group":
        return self  # a copy of a model lies in the same processes


@contextmanager
def in_step(group: Group) -> Iterator[None]:
    """What fails inside in one process fails in all of them, so that none waits for one that has given up.

    Raises: what was raised inside; in the others the first of what was, with the number of its process.
    """
    error: MonosemError | None = None
    try:
        yield
    except MonosemError as raised:
        error = raised
    for rank, text in enumerate(said(group, "" if error is None else f"{type(error).__name__} {error}")):
        if error is None and text:
            name, _, why = text.partition(" ")
            error = getattr(errors, name, MonosemError)(f"process {rank}: {why}")
    if error is not None:
        raise error


def said(group: Group, text: str) -> list[str]:
    """A text of every process, in the order of their ranks."""
    return [bytes(part.tolist()).decode() for part in group.parts(torch.tensor(list(text.encode()), dtype=torch.uint8))]


def agreed(group: Group, text: str, why: str) -> None:
    """Raises: DataError, in all processes, when some say another text than the first."""
    texts = said(group, text)
    other = [rank for rank, one in enumerate(texts) if one != texts[0]]
    check(not other, f"processes {other} of {group.size} differ from process 0: {why}", DataError)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, x: Tensor) -> Tensor:
        return group.total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, x: Tensor) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, ctx.group.total(gradients[0])


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, x: Tensor) -> Tensor:
        everyone, ctx.mine = group.place(x)
        ctx.group = group
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, ctx.group.total(gradients[0])[ctx.mine]


class _Alone(Group):
    """One process: every operation returns its argument."""

    rank, size = 0, 1

    def sum(self, x: Tensor) -> Tensor:
        return x

    def shared(self, x: Tensor) -> Tensor:
        return x

    def joined(self, x: Tensor) -> Tensor:
        return x

    def total(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x

    def any(self, x: Tensor) -> Tensor:
        return x

    def parts(self, x: Tensor) -> list[Tensor]:
        return [x]

    def gather(self, x: Tensor) -> Tensor:
        return x


ALONE: Group = _Alone()
"""The group of one process."""

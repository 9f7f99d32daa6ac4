"""A reconstruction in the place of what it reconstructs, while the network runs; with its error, exactly nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.errors import RefusedError, ShapeError, check
from monosem.base.sparse import Code
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.networks.rewrite import Places, Reading, Rewrite, places, rewriting
from monosem.networks.sites import Site


class Spliced:
    """What a spliced pass left behind: `code`, whose `values` keep their gradient after `backward`; and its network."""

    code: Code | None = None
    network: nn.Module | None = None


@contextmanager
def splice(
    model: nn.Module,
    sdl: SDL,
    at: str,
    to: str | None = None,
    error: bool = False,
    mask: Bool[Tensor, "..."] | None = None,
) -> Iterator[Spliced]:
    """A context in which x_r_hat replaces x_r in the network.

    Equation: x_r <- x_r_hat(x_p), x_p what the pass itself reads; with `error`, x_r <- x_r_hat + (x_r - x_r_hat) = x_r.
    Gradient: with `error`, the difference is a constant: the value is x_r to the last bit, and the gradient goes
        through x_r_hat only, so that code.values.grad is each latent's effect (attribution). Without gradients the
        tensor itself goes on.
    `at`, `to`: sites, as `places` reads them; `mask`: over the pass's leading axes, where to splice (all).
    Raises: RefusedError for a model that reads several sites, whose code is known only after the first are gone;
        `network_scores` splices those by two passes.
    Source: Marks et al. 2024 (error nodes); for a transcoder, x_r is the MLP's output (Dunefsky et al. 2024).

    Example:
        >>> from monosem.methods import method
        >>> sdl, _ = method("topk(k=2)").build(6, (4,), (4,))
        >>> layer, x = nn.Sequential(nn.Linear(4, 4)), torch.ones(1, 4)
        >>> with splice(layer, sdl, "0:out"):
        ...     spliced = layer(x)
        >>> bool(torch.equal(spliced, sdl(layer(x)).x_r_hat))
        True
    """
    where = places(sdl, model, at, to)
    if len(where.reads) > 1:
        raise RefusedError(
            f"the model reads {len(where.reads)} sites, and {where.writes[0]} is written before all are read; "
            "network_scores splices it by two passes"
        )
    splicing = _Splicing(sdl, where, error, mask)
    with rewriting(model, splicing.changes()):
        splicing.left.network = model
        yield splicing.left


class _Splicing:
    """What the hooks of one `splice` share."""

    def __init__(self, sdl: SDL, where: Places, error: bool, mask: Tensor | None) -> None:
        self.sdl, self.where, self.error, self.mask = sdl, where, error, mask
        self.reading, self.left = Reading(sdl), Spliced()

    def changes(self) -> list[tuple[Site, Rewrite]]:
        """The read, then every write."""
        writes = [(site, partial(self.write, number)) for number, site in enumerate(self.where.writes)]
        return [(self.where.reads[0], self.read), *writes]

    def read(self, x: Tensor) -> Tensor:
        """Encode and decode what is read."""
        self.reading.see(0, x)
        out = self.sdl.forward(self.reading.rows(), context=Context())
        self.left.code, self.x_r_hat = out.code, out.x_r_hat
        if out.code.values.requires_grad:
            out.code.values.retain_grad()
        return x

    def write(self, target: int, x: Tensor) -> Tensor:
        """x_r_hat for x_r, at one target."""
        here = self.x_r_hat[:, self.sdl.layout.r_slices[target]]
        check(
            here.numel() == x.numel(),
            f"{self.where.writes[target]} has shape {tuple(x.shape)}, the reconstruction {tuple(here.shape)}; choose "
            "the model's own site",
            ShapeError,
        )
        new = here.reshape(x.shape).to(x)
        if self.error:
            new = _Exactly.apply(x, new) if new.requires_grad else x  # type: ignore[no-untyped-call]
        if self.mask is None or new is x:
            return new
        return torch.where(_over(self.mask, x), new, x)


def _over(mask: Tensor, x: Float[Tensor, "... width"]) -> Tensor:
    """A mask over leading axes, laid over a tensor."""
    check(
        mask.shape == x.shape[:-1],
        f"mask has shape {tuple(mask.shape)}, the site's leading axes are {tuple(x.shape[:-1])}; they must agree",
        ShapeError,
    )
    return mask.to(x.device)[..., None]


class _Exactly(torch.autograd.Function):
    """x_r_hat + (x_r - x_r_hat) with the difference a constant: the value of x_r, the gradient of x_r_hat."""

    @staticmethod
    def forward(ctx: Any, x_r: Tensor, x_r_hat: Tensor) -> Tensor:
        """x_r, every bit."""
        return x_r.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """All of it to x_r_hat."""
        return None, gradient

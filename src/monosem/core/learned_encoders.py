"""Encoders with weights of their own: hidden units, a gate, heads that multiply, and a router."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.seeds import philox
from monosem.base.spec import TACIT
from monosem.core.encoders import ENCODERS, Affine, Encoder, View
from monosem.core.pairs import Layout


def _draw(own: dict[str, Tensor], seed: int, *names: str) -> None:
    """Standard normal rows over the root of their width, by key."""
    for name in names:
        draw = philox(seed, f"init/encoder/{name}", 0).standard_normal(tuple(own[name].shape), dtype="float32")
        own[name].copy_(torch.from_numpy(draw).to(own[name]) / own[name].shape[1] ** 0.5)


@dataclass(frozen=True)
class _Whole(Encoder):
    """Weights that read every column."""

    def refuse(self, layout: Layout) -> str | None:
        """Blocks would be read across."""
        one = len(layout.encoder) == 1
        return None if one else "its weights read every column, and a latent of this pairing may read its block alone"


@ENCODERS.register("mlp")
@dataclass(frozen=True)
class Mlp(_Whole, Affine):
    """The affine map plus hidden units.

    Equation: z = W_E (x - b_in) + b_E + second relu(first (x - b_in) + bias), first [hidden, n_p] and
        second [n_q, hidden], which starts at 0.
    Source: multilayer encoders of sparse coding, as in O'Neill et al. 2025 (arXiv 2411.13117). Difference: beside the
        map, not instead.
    """

    hidden: int = 64
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.hidden >= 1, f"hidden={self.hidden}; at least one unit is needed")

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """Both layers."""
        first, second = torch.zeros(self.hidden, layout.n_p), torch.zeros(layout.n_q, self.hidden)
        return {"first": first, "bias": torch.zeros(self.hidden), "second": second}

    def start(self, own: dict[str, Tensor], seed: int) -> None:
        """Draw the first layer."""
        _draw(own, seed, "first")

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """By plain autograd."""
        hidden = ((x - view.b_in) @ view.own["first"].T + view.own["bias"]).relu()
        return super().pre_activations(x, view) + hidden @ view.own["second"].T


@ENCODERS.register("glu")
@dataclass(frozen=True)
class Glu(_Whole, Affine):
    """A gated linear unit: every pre-activation times a gate of its own between 0 and 1.

    Equation: z = (W_E (x - b_in) + b_E) sigmoid(gate (x - b_in) + bias), gate [n_q, n_p], which starts at 0.
    Source: Dauphin et al. 2017; as an encoder: llamascopium.
    """

    affine: ClassVar[bool] = False

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """The gate."""
        return {"gate": torch.zeros(layout.n_q, layout.n_p), "bias": torch.zeros(layout.n_q)}

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """By plain autograd."""
        gate = (x - view.b_in) @ view.own["gate"].T + view.own["bias"]
        return super().pre_activations(x, view) * gate.sigmoid()


@ENCODERS.register("kronecker")
@dataclass(frozen=True)
class Kronecker(_Whole):
    """Latents are pairs within heads: one is active where both of its factors are.

    Equation: in each of h heads u = relu(left (x - b_in) + b), m numbers, v likewise with right, n numbers;
        z_(h, i, j) = sqrt(u_i v_j), with h m n = n_q. W_E and b_E are not read.
    Cost: h (m + n) n_p products in place of n_q n_p; all of z is made.
    Source: Kurochkin et al. 2025 (KronSAE, mAND).
    """

    heads: int = 4
    left: int = 2
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.heads >= 1, f"heads={self.heads}; at least one is needed")
        check(self.left >= 1, f"left={self.left}; a head has at least one factor on each side")

    def refuse(self, layout: Layout) -> str | None:
        """Heads are equal."""
        product = self.heads * self.left
        if layout.n_q % product:
            return f"n_q={layout.n_q} is no multiple of heads * left = {product}, as equal heads need"
        return super().refuse(layout)

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """Both sides, head by head."""
        m, n = self.heads * self.left, layout.n_q // self.left
        sides = {"left": torch.zeros(m, layout.n_p), "right": torch.zeros(n, layout.n_p)}
        return sides | {"left_bias": torch.zeros(m), "right_bias": torch.zeros(n)}

    def start(self, own: dict[str, Tensor], seed: int) -> None:
        """Draw both sides."""
        _draw(own, seed, "left", "right")

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """The root is taken where both factors are positive alone: its slope at 0 is infinite."""
        centred, own = x - view.b_in, view.own
        u = (centred @ own["left"].T + own["left_bias"]).view(len(x), self.heads, -1, 1)
        v = (centred @ own["right"].T + own["right_bias"]).view(len(x), self.heads, 1, -1)
        both = (u > 0) & (v > 0)
        return torch.where(both, torch.where(both, u * v, 1.0).sqrt(), 0.0).flatten(1)


@ENCODERS.register("routed")
@dataclass(frozen=True)
class Routed(_Whole, Affine):
    """Latents in equal runs, the experts; a router opens some of them for a row, and the activation ranks over all.

    Equation: p = softmax(router (x - b_in)); z_j = p_e(j) (W_E (x - b_in) + b_E)_j where j's expert e(j) is among the
        `active` of largest p, and 0 elsewhere. Which experts are open is a constant. With `scaled`, a row of W_E is
        m_e + (1 + s_e) (w_j - m_e) in the product: what parts it from m_e, the mean of its expert's rows, is scaled
        by a number s_e that is learned and starts at 0.
    Source: Mudide et al. 2024 (Switch SAE); Xu et al. 2025 (Scale SAE): several experts, ranked together, `scaled`.
        Differences: no term balances the experts; all of z is made; `scaled` follows summaries of its paper, whose own
        equation was not read.
    """

    experts: int = 4
    active: int = 1
    scaled: bool = field(default=False, metadata=TACIT)
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        fits = 1 <= self.active <= self.experts
        check(fits, f"active={self.active} of experts={self.experts}; at least one is open, and at most all")

    def refuse(self, layout: Layout) -> str | None:
        """Experts are equal."""
        if layout.n_q % self.experts:
            return f"n_q={layout.n_q} does not split into experts={self.experts} equal runs"
        return super().refuse(layout)

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """The router, and what an expert's rows are scaled by."""
        scale = {"scale": torch.zeros(self.experts)} if self.scaled else {}
        return {"router": torch.zeros(self.experts, layout.n_p)} | scale

    def start(self, own: dict[str, Tensor], seed: int) -> None:
        """Draw the router: equal experts would never part."""
        _draw(own, seed, "router")

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """By plain autograd."""
        p = ((x - view.b_in) @ view.own["router"].T).softmax(1)
        chosen = torch.zeros_like(p).scatter(1, p.detach().topk(self.active, dim=1).indices, 1.0)
        z = super().pre_activations(x, view)
        if self.scaled:
            product = (z - view.b_E).view(len(x), self.experts, -1)
            apart = product - product.mean(2, keepdim=True)
            z = z + (view.own["scale"][:, None] * apart).flatten(1)
        return z * (p * chosen).repeat_interleave(z.shape[1] // self.experts, dim=1)


@ENCODERS.register("route")
@dataclass(frozen=True)
class Route(Encoder):
    """A router chooses for each row the one source that is read, by weights that all sources share.

    Equation: p = softmax(router sum_s x^s), s' its largest; z = W p_s' (x - b_in)^s' + b_E, W = sum_s W_E^s, over
        sources x^s of one width. Which source is read is a constant.
    Source: Shi et al. 2025 (RouteSAE). Difference: all sources are reconstructed, not p x^s' alone.
    """

    def refuse(self, layout: Layout) -> str | None:
        """Sources of one width, and latents that may read any."""
        several = len(layout.p_widths) > 1 and len(set(layout.p_widths)) == 1
        if not several:
            return f"it chooses among sources of one width, and the data have widths {layout.p_widths}"
        return None if len(layout.encoder) == 1 else "a latent of this pairing may read its block alone"

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """The router."""
        return {"router": torch.zeros(len(layout.p_widths), layout.p_widths[0])}

    def start(self, own: dict[str, Tensor], seed: int) -> None:
        """Draw it."""
        _draw(own, seed, "router")

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """By plain autograd."""
        router = view.own["router"]
        sources = (x - view.b_in).view(len(x), *router.shape)
        p, chosen = (x.view_as(sources).sum(1) @ router.T).softmax(1).max(1)
        read = p[:, None] * sources[torch.arange(len(x), device=x.device), chosen]
        return read @ view.W_E.dense().view(-1, *router.shape).sum(1).T + view.b_E

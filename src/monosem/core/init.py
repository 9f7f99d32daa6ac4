"""How a model starts: decoder directions, the encoder's relation to them, biases from a data sample."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.seeds import philox
from monosem.base.spec import TACIT
from monosem.core.activations import JumpReLU
from monosem.core.blockmap import BlockMap
from monosem.core.model import SDL


def geometric_median(x: Float[Tensor, "rows width"], steps: int = 100, tol: float = 1e-7) -> Float[Tensor, " width"]:
    """argmin_m sum over rows of ||x_b - m||, by Weiszfeld's iteration in float64.

    Source: Weiszfeld 1937; used for b_D by Bricken et al. 2023.
    """
    rows = x.double()
    median = rows.mean(0)
    for _ in range(steps):
        weight = 1.0 / (rows - median).norm(dim=1).clamp(min=1e-12)
        new = (weight[:, None] * rows).sum(0) / weight.sum()
        done = (new - median).norm() <= tol * median.norm().clamp(min=1e-12)
        median = new
        if done:
            break
    return median.to(x.dtype)


@dataclass(frozen=True)
class Init:
    """Where training starts.

    Equation: W_D[:, j] ~ uniform direction of norm `decoder_norm` (within the latent's blocks);
        W_E[j] = encoder_scale W_D[:, j]^T / decoder_norm ("tied") or a direction of its own, of that norm ("random"),
        or encoder_scale W_D^T / ||W_D||_2^2 ("ista": the longest step with which iterative thresholding converges);
        b_D = 0, mean of x_r, or its geometric median; a free b_in = the same of x_p.
    `subspace`: directions are drawn within the span of so many principal components of the sample, of x_r for W_D and
        x_p for W_E. `active`: b_E is such that every latent is active on this share of the sample.
    "tied" and "ista" pair each encoder block with the decoder's columns where the shapes allow it, and are random
        elsewhere.
    """

    encoder: Literal["tied", "random", "ista"] = "tied"
    decoder_norm: float = 1.0
    encoder_scale: float = 1.0
    b_E: float = 0.0
    b_D: Literal["zero", "mean", "geometric_median"] = "zero"
    subspace: int | None = field(default=None, metadata=TACIT)
    active: float | None = field(default=None, metadata=TACIT)

    def __post_init__(self) -> None:
        check(self.decoder_norm > 0, f"decoder_norm={self.decoder_norm}; it must be positive")
        check(self.subspace is None or self.subspace >= 1, f"subspace={self.subspace}; it needs a dimension")
        share = self.active
        check(share is None or 0 < share < 1, f"active={share}; it is a share of the sample, between 0 and 1")

    def __call__(self, model: SDL, x_p: Tensor, x_r: Tensor, seed: int) -> None:
        """Fill a model in place; x_p, x_r are a sample of the data, only read for the biases."""
        with torch.no_grad():
            for name, weights in (("decoder", model.decoder.weights), ("encoder", model.encoder.weights)):
                for number, weight in enumerate(weights):
                    draw = philox(seed, f"init/{name}", number).standard_normal(tuple(weight.shape), dtype="float32")
                    weight.copy_(torch.from_numpy(draw))
            if self.subspace is not None and x_p.ndim == 2:
                _into_subspace(model.decoder, x_r, self.subspace)
                _into_subspace(model.encoder, x_p, self.subspace)
            model.dictionary.start(model.decoder, x_r, seed)
            model.decoder.scale_rows(self.decoder_norm / model.decoder_norm())
            self._encode_from(model)
            model.encoder_kind.start(dict(model.enc.items()), seed)
            size = model.encoder.squared_norms().clamp(min=1e-30).sqrt()
            if self.encoder == "ista":
                size = torch.linalg.matrix_norm(model.W_D.double(), 2).square().to(size).expand_as(size)
            model.encoder.scale_rows(self.encoder_scale / size)
            model.b_E.fill_(self.b_E)
            for bias, rows in ((model.b_D, x_r), (model._b_in, x_p)):
                if bias is not None and self.b_D != "zero":
                    bias.copy_(rows.mean(0) if self.b_D == "mean" else geometric_median(rows))
            if self.active is not None and x_p.ndim == 2:
                _activate(model, x_p, self.active)

    def _encode_from(self, model: SDL) -> None:
        if self.encoder == "random":
            return
        pairs = zip(
            model.encoder.blocks, model.encoder.weights, model.decoder.blocks, model.decoder.weights, strict=False
        )
        for block, weight, target, decoder in pairs:
            if block.shape == target.shape:
                weight.copy_(decoder)


def _into_subspace(side: BlockMap, rows: Float[Tensor, "rows width"], rank: int) -> None:
    """Project every latent's direction on the leading principal components of the rows, block by block."""
    for block, weight in zip(side.blocks, side.weights, strict=True):
        part = rows[:, block.columns].double()
        basis = torch.linalg.svd(part - part.mean(0), full_matrices=False).Vh[:rank].to(weight)
        weight.copy_(weight @ basis.T @ basis)


def _activate(model: SDL, x_p: Float[Tensor, "rows n_p"], share: float) -> None:
    """Set b_E so that z exceeds the threshold on a share of the rows."""
    z = (x_p - model.b_in) @ model.W_E.T
    rank = min(max(round(share * len(z)), 1), len(z))
    reached = z.kthvalue(len(z) - rank + 1, dim=0).values
    activation = model.activation
    theta = activation.threshold(model.act.__getitem__) if isinstance(activation, JumpReLU) else 0.0
    model.b_E.copy_(theta - reached + 1e-6 * reached.abs())

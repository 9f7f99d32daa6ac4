"""A model that reads each row in its own units and answers in the row's: per-token normalisation around an SDL.

Normalising per row is not linear, so it cannot be folded into the weights; a model trained that way elsewhere
carries it here.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.base.sparse import Code
from monosem.core.activation import Activation
from monosem.core.model import SDL, PreBias
from monosem.core.pairs import Layout


@dataclass(frozen=True)
class RowNorm:
    """How a row is brought to standard units, and whether the answer is brought back.

    Equation: "layer_norm": m = mean of x_p over coordinates, s = their sample standard deviation (n_p - 1),
        x' = (x_p - m) / (s + eps); "rms": m = 0, s = ||x_p|| / sqrt(n_p), x' = x_p / (s + eps).
        With `restore`, x_r_hat = s y + m where y is the model's answer to x' (eps plays no part in it).
    Source: layer_norm with eps 1e-5: Gao et al. 2024; rms: SAELens' constant_norm_rescale (eps 0).
    """

    kind: Literal["layer_norm", "rms"] = "layer_norm"
    eps: float = 1e-5
    restore: bool = True

    def __post_init__(self) -> None:
        check(self.kind in ("layer_norm", "rms"), f"kind={self.kind!r}; known: layer_norm, rms")
        check(0 <= self.eps < float("inf"), f"eps={self.eps}; it must be a small number, at least 0")

    def units(self, x_p: Float[Tensor, "batch n_p"]) -> tuple[Tensor, Tensor]:
        """(s, m) of every row, each [batch, 1]."""
        if self.kind == "rms":
            scale = x_p.norm(dim=1, keepdim=True) / x_p.shape[1] ** 0.5
            return scale, scale.new_zeros(scale.shape)
        mean = x_p.mean(dim=1, keepdim=True)
        return (x_p - mean).std(dim=1, keepdim=True), mean

    def __call__(self, x_p: Float[Tensor, "batch n_p"]) -> Float[Tensor, "batch n_p"]:
        """x': the rows in standard units."""
        scale, mean = self.units(x_p)
        return (x_p - mean) / (scale + self.eps)


class RowNormSDL(SDL):
    """x_r_hat = s (W_D sigma(W_E (x' - b_in) + b_E) + b_D) + m + W_skip x_p; without `restore`, s = 1 and m = 0.

    W_skip reads x_p itself. For inference only: `train()` raises RefusedError, because losses read y and x_r in
    different units; train an SDL on rows that you normalised instead.
    """

    def __init__(
        self, layout: Layout, activation: Activation, pre_bias: PreBias = "none", norm: RowNorm | None = None
    ) -> None:
        super().__init__(layout, activation, pre_bias)
        self.norm = norm or RowNorm()
        self.eval()

    def train(self, mode: bool = True) -> "RowNormSDL":
        """Refuse training."""
        check(not mode, "a model with per-row normalisation is for inference; normalise the data instead", RefusedError)
        super().train(mode)
        return self

    def inputs(self, x_p: Float[Tensor, "batch n_p"]) -> Float[Tensor, "batch n_p"]:
        """The rows in standard units."""
        return self.norm(x_p)

    def _decode(self, code: Code, x_p: Float[Tensor, "batch n_p"] | None) -> Float[Tensor, "batch n_r"]:
        """x_r_hat of a code; the rows x_p give the units."""
        y = self.b_D + self.write(code)
        if not self.norm.restore and self.W_skip is None:
            return y
        check(x_p is not None, "this model answers in the units of x_p: decode(code, x_p)")
        assert x_p is not None
        if self.norm.restore:
            scale, mean = self.norm.units(x_p)
            y = y * scale + mean
        return y if self.W_skip is None else y + x_p @ self.W_skip.T

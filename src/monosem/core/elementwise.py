"""Activations that look at one latent at a time: ReLU, JumpReLU, Gated, Binary."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import check
from monosem.base.selection import Rule
from monosem.base.spec import TACIT
from monosem.core.activation import Activation, At, Context
from monosem.kernels.ops import heaviside, heaviside_sum, jump, jump_and_sums


@dataclass(frozen=True)
class ReLU(Activation):
    """z if z > 0, else 0. Source: Tang et al. 2025, eq 5; Bricken et al. 2023."""

    def summed(self, z: Tensor, at: At) -> tuple[Tensor, Tensor | None]:
        """relu(z) and its sums over rows, in one pass."""
        return jump_and_sums(z, None)


@dataclass(frozen=True)
class JumpReLU(Activation):
    """z H(z - theta) with a learned threshold theta >= 0 per latent.

    Equation: value = z if z > theta else 0.
    Gradient: d/dz = H(z - theta); d/dtheta = -(theta / bandwidth) K((z - theta) / bandwidth), and for the
        step H itself d/dtheta = -(1 / bandwidth) K, K the rectangle kernel (plus +(1 / bandwidth) K to z
        where a term asks for it). With `log_threshold` the parameter is log theta and the chain rule
        through exp is kept. With `to_input` the step in z H(z - theta) is felt by z as well:
        d/dz = H(z - theta) + (z / bandwidth) K, d/dtheta = -(z / bandwidth) K.
    Source: Rajamanoharan et al. 2024b (JumpReLU SAEs), eq 11-12; to_input: Anthropic circuits update, January 2025.
    """

    theta: float = 0.05
    bandwidth: float = 0.3
    log_threshold: bool = False
    to_input: bool = field(default=False, metadata=TACIT)
    homogeneous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.bandwidth > 0, f"bandwidth={self.bandwidth}; it must be positive")
        check(self.theta > 0 or not self.log_threshold, f"theta={self.theta} has no logarithm; start above 0")
        check(self.theta >= 0, f"theta={self.theta}; a threshold is at least 0")

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """theta [n_q], or its logarithm."""
        theta = torch.full((n_q,), self.theta)
        return {"log_theta": theta.log()} if self.log_threshold else {"theta": theta}

    def threshold(self, at: At) -> Tensor:
        """theta, whichever way it is stored."""
        return at("log_theta").exp() if self.log_threshold else at("theta")

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """z > theta; in training everything above theta - bandwidth / 2, where theta still has a gradient."""
        margin = self.bandwidth / 2 if context.training else 0.0
        return selection.Above(self.threshold(at) - margin)

    def value(self, z: Tensor, at: At) -> Tensor:
        """z H(z - theta)."""
        if self.to_input:
            return z * heaviside(z, self.threshold(at), self.bandwidth)
        return jump(z, self.threshold(at), self.bandwidth)

    def summed(self, z: Tensor, at: At) -> tuple[Tensor, Tensor | None]:
        """z H(z - theta) and its sums over rows, in one pass."""
        if self.to_input:
            return self.value(z, at), None
        return jump_and_sums(z, self.threshold(at), self.bandwidth)

    def hard(self, z: Tensor, at: At) -> Tensor:
        """H(z - theta); gradient -(1 / bandwidth) K to theta, +(1 / bandwidth) K to z (detach z to leave that out)."""
        return heaviside(z, self.threshold(at), self.bandwidth)

    def hard_sum(self, z: Tensor, at: At) -> Tensor:
        """The sum of H(z - theta) over all cells, with the same gradient, in fewer passes."""
        return heaviside_sum(z, self.threshold(at), self.bandwidth)

    def reset(self, latents: Tensor, z: Tensor, parameters: dict[str, Tensor]) -> None:
        """theta at its start, or half of z where that is less: a latent that is drawn anew fires at its own row."""
        theta = (z / 2).clamp(min=1e-12, max=self.theta)
        name = "log_theta" if self.log_threshold else "theta"
        parameters[name][latents] = (theta.log() if self.log_threshold else theta).to(parameters[name])

    def project(self, parameters: dict[str, Tensor]) -> None:
        """Keep theta >= 0."""
        if not self.log_threshold:
            parameters["theta"].clamp_(min=0.0)


@dataclass(frozen=True)
class Gated(Activation):
    """A Heaviside gate on z and a ReLU magnitude path that shares the encoder's directions.

    Equation: value = H(z) relu(exp(r_mag) (z - b_E) + b_mag), where z is the gate's pre-activation, so that
        W_mag = exp(r_mag) W_E. The gate learns only through the terms L1(on="gate") and GatedAux.
    Source: Rajamanoharan et al. 2024a (Gated SAEs). Eq 10 holds with respect to the value path.
    """

    homogeneous: ClassVar[bool] = False
    eq10: ClassVar[str] = "value path"

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """r_mag and b_mag, zero."""
        return {"r_mag": torch.zeros(n_q), "b_mag": torch.zeros(n_q)}

    def value(self, z: Tensor, at: At) -> Tensor:
        """The magnitude path, where the gate is open."""
        return ((z - at("b_E")) * at("r_mag").exp() + at("b_mag")).relu() * (z > 0).detach()


@dataclass(frozen=True)
class Binary(Activation):
    """H(z): a latent is on or off.

    Gradient: d/dz = (1 / bandwidth) K(z / bandwidth), K the rectangle kernel.
    Source: the binary autoencoder of Tang et al. 2025, appendix A. Exempt from eq 10: a value is 1.
        Difference: the rectangle kernel of JumpReLU as pseudo-derivative, not the sigmoid's.
    """

    bandwidth: float = 1.0
    homogeneous: ClassVar[bool] = False
    eq10: ClassVar[str] = "exempt"

    def __post_init__(self) -> None:
        check(self.bandwidth > 0, f"bandwidth={self.bandwidth}; it must be positive")

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """z > 0; in training everything above -bandwidth / 2, where there is still a gradient."""
        return selection.Above(-self.bandwidth / 2 if context.training else 0.0)

    def value(self, z: Tensor, at: At) -> Tensor:
        """H(z) with its straight-through gradient."""
        return heaviside(z, z.new_zeros(()), self.bandwidth)

    def hard(self, z: Tensor, at: At) -> Tensor:
        """The value itself."""
        return self.value(z, at)

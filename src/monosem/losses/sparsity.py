"""Terms that ask few latents to be active."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from monosem.base.errors import check
from monosem.base.schedule import Schedule, at_step
from monosem.base.selection import Every, Request
from monosem.base.sparse import Code
from monosem.core.activations import Activation, AdaptiveK, Binary, Context, Gated, ReLU
from monosem.core.model import SDL
from monosem.core.pairs import Layout
from monosem.losses.objective import TERMS, State, Step, Term

Norm = Literal["none", "decoder", "sources"]


def _norms(step: Step, norm: Norm, code: Code | None = None) -> Tensor | float:
    """1, ||W_D[:, j]||, or the sum over sources of the norms within each source; laid along a code, if one is given."""
    if norm == "none":
        return 1.0
    norms = step.norms if norm == "decoder" else step.model.source_norms().sum(0)
    return norms if code is None else code.along(norms)


def _size(step: Step) -> Tensor:
    """|x_q|, with the gradient of x_q itself where no latent is negative: at 0 too, where theta may feel it."""
    values = step.code.values
    return values.abs() if step.model.activation.pattern_kind == "signed" else values


@TERMS.register("l1")
@dataclass(frozen=True)
class L1(Term):
    """Absolute values of the latents.

    Equation: mean over the batch of sum_j |x_q,j| n_j, with n_j = 1 ("none"), ||W_D[:, j]|| ("decoder") or
        sum over sources s of ||W_D^s[:, j]|| ("sources", crosscoders). on="gate": relu of the gate's pre-activation
        in place of |x_q|.
    Source: Tang et al. 2025, eq 5; Bricken et al. 2023; Lindsey et al. 2024 (sources);
        Rajamanoharan et al. 2024a (gate).
        With a free decoder norm, norm="none" has no minimiser (scale W_E down, W_D up).
    """

    norm: Norm = "decoder"
    on: Literal["code", "gate"] = "code"
    name: ClassVar[str] = "l1"

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """on="gate" needs Gated."""
        if self.on == "gate" and not isinstance(activation, Gated):
            return "it has no gate; use L1(on='code')"
        return None

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        code = step.code if self.on == "code" else step.cells
        size = code.values.relu() if self.on == "gate" else _size(step)
        per_latent = code.latent_sum(size)  # summed over rows first: one pass where the code is dense
        return step.group.sum((per_latent * _norms(step, self.norm)).sum() / max(code.batch, 1))


@TERMS.register("l0")
@dataclass(frozen=True)
class L0(Term):
    """The number of active latents, through the activation's straight-through estimator.

    Equation: L0 = mean over the batch of sum_j H(z_j - theta_j); with a `target`, (L0 / target - 1)^2.
    Gradient: d/dtheta = -(1 / bandwidth) K; to z as well, +(1 / bandwidth) K, with `to_input`.
    Source: Rajamanoharan et al. 2024b, eq 9-12; Tang et al. 2025, eq 6.
    """

    target: float | None = None
    to_input: bool = False
    name: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        check(self.target is None or self.target > 0, f"target={self.target}; it must be positive")

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Needs a Heaviside step with a straight-through gradient."""
        if isinstance(activation, Binary):
            return None if self.to_input else "it has no threshold to learn; use L0(to_input=True)"
        if type(activation).hard is not Activation.hard:
            return None
        if isinstance(activation, ReLU):
            return "its threshold is fixed at 0, so the step has no parameter to learn; use L1, or jumprelu"
        if isinstance(activation, Gated):
            return "its gate learns through the auxiliary path, not a straight-through step; use L1(on='gate')"
        return "its number of active latents is set by k, so the count is a constant"

    def asked_l0(self) -> float | None:
        """The target."""
        return super().asked_l0() if self.target is None else self.target

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        z = step.cells.values if self.to_input else step.cells.values.detach()
        activation, at = step.model.activation, step.model.along(step.cells)
        total = activation.hard_sum(z, at)
        assert total is not None
        count = step.group.sum(total / max(step.cells.batch, 1))
        return count if self.target is None else (count / self.target - 1).pow(2)


@TERMS.register("tanh")
@dataclass(frozen=True)
class Tanh(Term):
    """A bounded penalty that saturates for large latents.

    Equation: mean over the batch of sum_j tanh(scale |x_q,j| n_j), n_j as in L1.
    Source: Anthropic circuits update, January 2025.
    """

    scale: float = 4.0
    norm: Norm = "decoder"
    name: ClassVar[str] = "tanh"

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        size = _size(step) * _norms(step, self.norm, step.code)
        return step.mean((self.scale * size).tanh(), step.code)


@TERMS.register("lp")
@dataclass(frozen=True)
class Lp(Term):
    """p-annealed Lp penalty: p falls over the run, the penalty's size stays continuous.

    Equation: scale * mean over the batch of sum_j ((|x_q,j| n_j + eps)^p - eps^p). p follows `p` in `updates`
        equal steps; at each, scale is multiplied by the old sum over the new on the current batch.
        eps bounds the gradient at 0.
    Source: Karvonen et al. 2024 (p-annealing). Differences: eps, and one batch in place of a queue of ten.
    """

    p: Schedule = 1.0
    updates: int = 10
    eps: float = 1e-3
    norm: Norm = "decoder"
    name: ClassVar[str] = "lp"

    def __post_init__(self) -> None:
        check(self.eps > 0, f"eps={self.eps}; it must be positive, or the gradient at 0 is infinite")

    def init_state(self, model: SDL) -> State:
        """The current p and the scale that keeps the penalty continuous."""
        p = torch.tensor(at_step(self.p, 0, 1), dtype=torch.float64)
        return {"p": p, "scale": torch.ones((), dtype=torch.float64)}

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        context = step.context
        moment = context.step * self.updates // max(context.steps, 1)  # p changes `updates` times over the run
        p = at_step(self.p, moment, max(self.updates - 1, 1))  # the last of them has the final p
        size = _size(step) * _norms(step, self.norm, step.code)

        def penalty(power: float) -> Tensor:
            return step.mean((size + self.eps).pow(power) - self.eps**power, step.code)

        value = penalty(p)
        if context.training and p != float(state["p"]):
            old = penalty(float(state["p"])).detach().double()
            state["scale"].mul_(torch.where(value > 0, old / value.detach().double().clamp(min=1e-30), 1.0))
            state["p"].fill_(p)
        return state["scale"].to(value.dtype) * value


@TERMS.register("elastic_net")
@dataclass(frozen=True)
class ElasticNet(Term):
    """Absolute values weighed by how small a latent usually is, and squares.

    Equation: mean over the batch of sum_j (c_j a_qj + ridge a_qj^2), a_qj = |x_q,j| n_j with n_j as in L1;
        c_j = C / (m_j + eps)^power, a constant, m_j the running mean of a_qj (rate `rate`), C such that c has mean 1.
    Source: adaptive elastic net (Zou and Zhang 2009, Annals of Statistics 37:4), as for sparse autoencoders in
        Chaudhry et al. 2026 (arXiv 2605.05341). Difference: m_j in
        place of a first fit; the ridge grows with the weight.
    """

    ridge: float = 0.1
    power: float = 0.5
    eps: float = 0.01
    rate: float = 0.01
    norm: Norm = "decoder"
    name: ClassVar[str] = "elastic_net"

    def __post_init__(self) -> None:
        for name in ("ridge", "power"):
            check(getattr(self, name) >= 0, f"{name}={getattr(self, name)}; it must be at least 0")
        check(self.eps > 0, f"eps={self.eps}; it must be positive, or a dead latent weighs without bound")
        check(0 < self.rate <= 1, f"rate={self.rate}; a running mean needs 0 < rate <= 1")

    def init_state(self, model: SDL) -> State:
        """The running means, 0: at first all weigh the same."""
        return {"mean": torch.zeros_like(model.b_E, dtype=torch.float64)}

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        size, rows = _size(step) * _norms(step, self.norm, step.code), max(step.code.batch, 1)
        now = step.code.latent_sum(size)
        if step.context.training:
            state["mean"] += self.rate * (now.detach().double() / rows - state["mean"])
        weight = (state["mean"] + self.eps).pow(-self.power)
        count = step.group.sum(torch.ones_like(weight).sum())
        weight = (weight * count / step.group.sum(weight.sum())).to(now.dtype)
        return step.group.sum((now * weight).sum() / rows) + self.ridge * step.mean(size.square(), step.code)


@TERMS.register("complexity")
@dataclass(frozen=True)
class Complexity(Term):
    """The probe of adaptive_k learns how badly a row is explained.

    Equation: y_b = |e_b|^2 / (|e_b|^2 + mean |e|^2), a constant; value = mean over rows of (share_b - y_b)^2 with the
        share of AdaptiveK, z a constant in it. A row of the usual error has y = 1/2.
    Source: Yao and Du 2025. Difference: their probe learns ratings of texts by a language model, which rows have not.
    """

    name: ClassVar[str] = "complexity"

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Needs a probe."""
        return None if isinstance(activation, AdaptiveK) else "it has no probe to teach; use adaptive_k"

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """Every cell: the probe reads all of z."""
        return (Every(),)

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over rows."""
        z = step.extra[Every()].values.detach()
        n_q = step.group.sum(torch.ones_like(z[0]).sum())
        share = (step.group.sum((z * step.model.act["probe"]).sum(1)) / n_q.sqrt()).sigmoid()
        error = step.over(step.error.square().sum(1))
        wanted = error / (error + error.mean()).clamp(min=1e-30)
        return (share - wanted).square().mean()

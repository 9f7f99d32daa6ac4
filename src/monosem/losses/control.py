"""A number of active latents that is asked for: a controller of a penalty's weight, and the last step to it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monosem.base.errors import check
from monosem.base.schedule import SCHEDULES, Schedule
from monosem.base.selection import Every
from monosem.core.activations import Context, JumpReLU
from monosem.core.model import SDL

if TYPE_CHECKING:
    from monosem.losses.objective import State, Step


@SCHEDULES.register("to_l0")
@dataclass(frozen=True)
class ToL0:
    """A weight that makes `l0` latents of a row active, whatever the penalty.

    Equation: e_t = clip(log(L0_t / l0), -1, 1), smoothed over 1 / rate steps;
        u_t+1 = u_t + gain e_t; the weight is exp(u_t + damping e_t), u_0 = log `start`. L0_t is the batch's.
    """

    l0: float
    start: float = 0.1
    gain: float = 0.05
    damping: float = 1.0
    rate: float = 0.1

    def __post_init__(self) -> None:
        for name in ("l0", "start", "gain"):
            check(getattr(self, name) > 0, f"{name}={getattr(self, name)}; it must be positive")
        check(self.damping >= 0, f"damping={self.damping}; it must be at least 0")
        check(0 < self.rate <= 1, f"rate={self.rate}; a running mean needs 0 < rate <= 1")

    def init_state(self, device: torch.device) -> "State":
        """The logarithm of the weight and the smoothed error."""
        both = {"log_weight": math.log(self.start), "log_excess": 0.0}
        return {name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in both.items()}

    def weight(self, state: "State") -> Tensor:
        """The weight of this step."""
        return (state["log_weight"] + self.damping * state["log_excess"]).exp()

    def observe(self, step: "Step", state: "State") -> None:
        """Move by what this step's batch shows; nothing outside training."""
        if not step.context.training:
            return
        active = step.group.sum((step.code.values.detach() != 0).sum().double()) / max(step.code.batch, 1)
        excess = (active.clamp(min=1e-3) / self.l0).log().clamp(-1.0, 1.0)
        state["log_excess"] += self.rate * (excess - state["log_excess"])
        state["log_weight"] += self.gain * state["log_excess"]


Weight = Schedule | ToL0


@torch.no_grad()
def settle(model: SDL, l0: float, batches: Iterable[Tensor]) -> None:
    """Shift all thresholds by one number, so that `l0` latents of a row are active on these rows.

    A controller has brought L0 near; the falling learning rate moves it once more, and this takes back what is left.
    Equation: s = the (l0 rows)-th largest z - theta of all cells; theta <- max(theta + s, 0), where there is no theta
        b_E <- b_E - s. A ranked activation, whose k says how many are active, stays as it is.
    """
    activation = model.activation
    if activation.pattern_kind != "independent":
        return
    theta = activation.threshold(model.act.__getitem__) if isinstance(activation, JumpReLU) else 0.0
    largest, rows = [], 0
    for x_p in batches:
        above = (model(x_p, (Every(),), context=Context()).extra[Every()].values - theta).flatten()
        largest.append(above.topk(min(above.numel(), math.ceil(4 * l0 * len(x_p)) + 64)).values)
        rows += len(x_p)
    ranked, count = torch.cat(largest).sort(descending=True).values, round(l0 * rows)
    if not 0 < count < ranked.numel():
        return
    shift = (ranked[count - 1] + ranked[count]) / 2
    if not isinstance(activation, JumpReLU):
        model.b_E.sub_(shift)
    elif activation.log_threshold:
        model.act["log_theta"].copy_((theta + shift).clamp(min=1e-6).log())
    else:
        model.act["theta"].copy_((theta + shift).clamp(min=0))

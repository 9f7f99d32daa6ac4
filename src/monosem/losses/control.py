"""A weight that finds itself: an integral controller brings the number of active latents to what is asked for."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monosem.base.errors import check
from monosem.base.schedule import SCHEDULES, Schedule

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
    gain: float = 0.02
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

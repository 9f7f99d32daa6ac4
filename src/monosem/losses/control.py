"""A number of active latents that is asked for: a controller of a penalty's weight, and the last step to it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    gain: float = 0.01
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


_ROUNDS, _CLOSE, _STRIDE = 20, 0.002, 8.0
"""Where z answers a shift in its own way: how often thresholds are shifted at most, how near L0 is near enough, and how
many times the shift that z itself asks for one round may go."""
_FIRST, _ROOM, _FEW = 1024, 4.0, 2**15
"""Every cell of so many rows is ranked; of later rows those alone that would be among so many times l0 of the first.
And where thresholds are shifted several times, on how many rows all but the last shift are found."""


def settle(model: SDL, l0: float, batches: Callable[[], Iterable[Tensor]]) -> None:
    """Shift all thresholds by one number, so that `l0` latents of a row are active on these rows.

    A controller has brought L0 near; the falling learning rate moves it once more, and this takes back what is left.
    Equation: s = the (l0 rows)-th largest z - theta of all cells; theta <- max(theta + s, 0), and b_E takes what theta
        cannot, or all of s where there is no theta. An affine encoder is there after one shift; others are asked
        again, on the first rows (`_next`); the best shift stays, and one more along the secant takes back what all
        rows show. A ranked activation stays as it is.
    """
    if model.activation.pattern_kind != "independent":
        return
    if model.encoder_kind.affine:
        step, _ = _excess(model, l0, batches())
        if math.isfinite(step):
            _shift(model, step)
        return
    step, excess = _excess(model, l0, _first(batches()))
    seen = [(0.0, excess, step)]
    while abs(seen[-1][1]) >= _CLOSE and math.isfinite(seen[-1][2]) and len(seen) < _ROUNDS:
        to = _next(seen)
        _shift(model, to - seen[-1][0])
        step, excess = _excess(model, l0, _first(batches()))
        seen.append((to, excess, step))
    _shift(model, min(seen, key=lambda at: abs(at[1]))[0] - seen[-1][0])
    if (slope := _slope(seen)) < 0:
        _shift(model, -_excess(model, l0, batches())[1] / slope)


def _slope(seen: Sequence[tuple[float, float, float]]) -> float:
    """How log L0 falls with the shift, near what is asked for: by the two nearest shifts, or as z itself says."""
    (at, excess, step), *others = sorted(seen, key=lambda one: abs(one[1]))
    slope = (excess - others[0][1]) / (at - others[0][0]) if others and at != others[0][0] else 0.0
    return slope if slope < 0 or abs(excess) >= _CLOSE or not step else -excess / step


def _first(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches of _FEW rows in all, or the first batch."""
    rows = 0
    for x_p in batches:
        if rows >= _FEW:
            return
        yield x_p
        rows += len(x_p)


def _next(seen: Sequence[tuple[float, float, float]]) -> float:
    """The shift to try after those that were: (shift, log of L0 over what is asked, what z itself then asks for).

    Along the secant where L0 falls, else further up or down; inside the bracket once there is one. High thresholds
    leave no latent and low ones all, whatever lies between.
    """
    at, move = seen[-1][0], _move(seen)
    below = [place for place, more, _ in seen if more < 0]
    above = [place for place, more, _ in seen if more > 0 and place < max(below, default=-math.inf)]
    if not above:
        return at + move
    low, high = max(above), min(place for place in below if place > max(above))
    return at + move if low < at + move < high else (low + high) / 2


def _move(seen: Sequence[tuple[float, float, float]]) -> float:
    """From the last shift on: as z asks at first, along the secant where L0 fell, else further than before."""
    at, excess, step = seen[-1]
    run, fall = (at - seen[-2][0], seen[-2][1] - excess) if len(seen) > 1 else (0.0, 0.0)
    if run == 0:
        return math.copysign(step, excess)
    far = _STRIDE * max(abs(run), abs(step))
    return max(-far, min(far, excess * run / fall)) if run * fall > 0 else math.copysign(far, excess)


@torch.no_grad()
def _excess(model: SDL, l0: float, batches: Iterable[Tensor]) -> tuple[float, float]:
    """By how much thresholds have to rise as z is now, and log(L0 / l0); (nan, 0) where no rise gives l0."""
    sigma = model.activation
    theta = sigma.threshold(model.act.__getitem__) if isinstance(sigma, JumpReLU) else 0.0
    largest, rows, floor = [], 0, -math.inf
    active = torch.zeros((), dtype=torch.int64, device=model.b_E.device)
    for x_p in batches:
        above = model(x_p, (Every(),), context=Context()).extra[Every()].values - theta
        largest.append(above[above > floor])
        rows, active = rows + len(x_p), active + (above > 0).sum()
        if floor == -math.inf and rows >= _FIRST:  # from here on only what may rank
            first = torch.cat(largest)
            floor = float(first.topk(min(first.numel(), math.ceil(_ROOM * l0 * rows))).values[-1])
    ranked, count = model.group.gather(torch.cat(largest)).sort(descending=True).values, round(l0 * rows)
    if not 0 < count < ranked.numel():
        return math.nan, 0.0
    return float((ranked[count - 1] + ranked[count]) / 2), math.log(max(int(model.group.sum(active)), 1) / count)


@torch.no_grad()
def _shift(model: SDL, step: float) -> None:
    """Raise every threshold; where theta reaches its floor, z rises in its place."""
    sigma = model.activation
    if not isinstance(sigma, JumpReLU):
        model.b_E.sub_(step)
        return
    wanted = sigma.threshold(model.act.__getitem__) + step
    theta = wanted.clamp(min=1e-6 if sigma.log_threshold else 0.0)
    model.b_E.add_(theta - wanted)
    name, value = ("log_theta", theta.log()) if sigma.log_threshold else ("theta", theta)
    model.act[name].copy_(value)

"""Values that change over a run, as functions of the step and the number of steps."""

from dataclasses import dataclass

from monosem.base.errors import check


@dataclass(frozen=True)
class Ramp:
    """Linear from `start` to `stop` between two fractions of the run, constant outside.

    Equation: start + (stop - start) * clip((t/T - begin) / (end - begin), 0, 1) at step t of T.
    """

    start: float
    stop: float
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.begin <= self.end <= 1, f"begin={self.begin}, end={self.end}: need 0 <= begin <= end <= 1")

    def at(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`."""
        done = step / max(steps, 1)
        width = self.end - self.begin
        share = float(done >= self.end) if width == 0 else min(max((done - self.begin) / width, 0.0), 1.0)
        return self.start + (self.stop - self.start) * share


@dataclass(frozen=True)
class WarmupDecay:
    """Linear from 0 to 1 over the first `warmup` of the run, linear to `floor` over its last `decay`.

    Equation: min(1, (t+1) / (warmup T)) * (1 - (1 - floor) * clip((t/T - (1 - decay)) / decay, 0, 1)).
    """

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def at(self, step: int, steps: int) -> float:
        """The factor at `step` of `steps`."""
        up = min(1.0, (step + 1) / max(self.warmup * steps, 1.0))
        if self.decay == 0:
            return up
        done = min(max((step / max(steps, 1) - (1 - self.decay)) / self.decay, 0.0), 1.0)
        return up * (1 - (1 - self.floor) * done)


Schedule = float | Ramp


def at_step(value: Schedule, step: int, steps: int) -> float:
    """The value of a number or a schedule at `step` of `steps`."""
    return value.at(step, steps) if isinstance(value, Ramp) else float(value)

"""FitConfig: how long, how fast, how often."""

import math
from dataclasses import dataclass
from typing import Literal

from monosem.base.errors import check
from monosem.base.guard import guard_fields
from monosem.base.schedule import WarmupDecay

_SCHEDULE = WarmupDecay()


@dataclass(frozen=True)
class FitConfig:
    """How a run is trained.

    `lr` is Adam's at its highest, times `schedule`; `clip` bounds the gradient's norm over all parameters (None: not).
    `dead_window`: a latent is dead when it has not fired for more than that many tokens (rows); None means a tenth
    of the run's rows, at most ten million. `threads`: torch threads, None leaves them as they are. `device`: where
    the model trains; rows are moved there.
    `selection`: "bf16" selects from a bfloat16 encoder product where the processor has one, exactly and proven
    row by row; log entries then say which share of rows fell back to full precision. `dense`: "bf16" makes the
    matrix products of dense codes in bfloat16, which changes them (kernels.precision). `log_every` and
    `checkpoint_every` count steps; checkpoints need an output folder (None: only at the end).
    """

    steps: int = 2000
    batch_size: int = 512
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: WarmupDecay = _SCHEDULE
    clip: float | None = None
    seed: int = 0
    dead_window: int | None = None
    log_every: int = 50
    checkpoint_every: int | None = None
    threads: int | None = None
    selection: Literal["fp32", "bf16"] = "fp32"
    dense: Literal["fp32", "bf16"] = "fp32"
    sample_rows: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        guard_fields(self)
        for name in ("steps", "batch_size", "log_every", "sample_rows"):
            check(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1")
        check(0 < self.lr < math.inf, f"lr={self.lr}; it must be positive and finite")
        check(0 <= self.eps < math.inf, f"eps={self.eps}; it must be a small number, at least 0")
        check(all(0 <= beta < 1 for beta in self.betas), f"betas={self.betas}; each is at least 0 and below 1")
        check(self.clip is None or self.clip > 0, f"clip={self.clip}; it must be positive, or None")
        for name in ("checkpoint_every", "dead_window", "threads"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"{name}={value}; it must be at least 1, or None")

    @property
    def window(self) -> int:
        """The dead window in tokens."""
        return self.dead_window or max(1, min(10_000_000, self.steps * self.batch_size // 10))

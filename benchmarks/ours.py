"""monosem as a contender: the public `fit` on fresh rows, stopped and timed where each step asks for its rows.

This file and `sizes` name all that a worker needs of monosem, so that it runs against an older checkout too.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.contender import Beat, Enough, forget_peak
from benchmarks.sizes import Case, Size, speed_task
from monosem import FitConfig
from monosem.activations import JumpReLU
from monosem.base import torch_generator
from monosem.bench import TaskSource, pairing_of
from monosem.methods import Method, method
from monosem.train import fit

DEAD_SHARE = {"dead": 15 / 16, "half_dead": 1 / 2}
_SHRINK = 0.02


class Paced(TaskSource):
    """A task's rows, with a beat before the rows of every step."""

    beat: Beat | None = None
    sampled = False

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Training rows by number; the first call is the sample for the start, every other begins a step."""
        if self.beat is not None and self.sampled:
            self.beat()
        self.sampled = True
        return super().take(index)


def paced(case: Case, size: Size) -> Paced:
    """The rows of a case, with the world already drawn."""
    source = Paced(speed_task(size, pairing_of(case.method.replace("{k}", "1"))))
    source.take(torch.arange(size.batch))
    source.sampled = False
    return source


def speed_method(text: str) -> Method:
    """The method of a case."""
    return method(text)


class States:
    """Brings a run into the state that a turn asks for, outside the timed part.

    dead, half_dead: a fixed set of latents has encoder rows of 1/50 of their length, counts as dead,
    and so never enters the code, while its pre-activations still have both signs. With `l0`, thresholds (ReLU: b_E)
    move by one number so that l0 latents a row are active on 256 rows.
    """

    def __init__(self, size: Size, l0: bool, source: TaskSource) -> None:
        self.l0 = size.k if l0 else 0
        self.run: Any = None
        self.entry: dict[str, float] = {}
        self.lengths: Tensor | None = None
        self.sample = source.pair(source.held_out(256))[0]

    def see(self, run: Any, entry: dict[str, float]) -> None:
        """fit's callback."""
        self.run, self.entry = run, entry

    @torch.no_grad()
    def __call__(self, name: str) -> None:
        """Enter a state, or restore it after some steps."""
        assert self.run is not None
        if name in DEAD_SHARE:
            self._kill(DEAD_SHARE[name])
        if self.l0:
            self._calibrate()
            forget_peak()  # the first step was dense; what counts is the memory of sparse ones

    def _kill(self, share: float) -> None:
        model, tracker = self.run.model, self.run.tracker
        order = torch.randperm(model.n_q, generator=torch_generator(0, "speed/dead"))
        dead = torch.zeros(model.n_q, dtype=torch.bool)
        dead[order[: int(share * model.n_q)]] = True
        norms = model.encoder.squared_norms().sqrt()
        if self.lengths is None:
            self.lengths = norms.median() * _SHRINK
        model.encoder.scale_rows(torch.where(dead, self.lengths / norms.clamp(min=1e-12), 1.0))
        if not self.l0:
            model.b_E[dead] = 0.0
        tracker.since[dead] = tracker.window + 1

    def _calibrate(self) -> None:
        """Move every threshold by one number: then self.l0 * rows of the sample's cells are active."""
        model = self.run.model
        z = (self.sample - model.b_in) @ model.W_E.T + model.b_E
        jump = isinstance(model.activation, JumpReLU)
        above = z - model.act["theta"] if jump else z
        cells = self.l0 * len(self.sample)
        level = above.flatten().topk(cells).values[-1]
        if jump:
            model.act["theta"].add_(level).clamp_(min=0.0)
        else:
            model.b_E.sub_(level)

    def facts(self) -> dict[str, float]:
        """What the last logged step says about the state."""
        dead = float(self.run.tracker.dead.float().mean()) if self.run else 0.0
        return {"l0": round(self.entry.get("l0", 0.0), 2), "dead": round(dead, 4), "loss": self.entry.get("loss", 0.0)}


def train(case: Case, size: Size, beat: Beat, log_every: int | None = None) -> None:
    """Train a case with the public `fit` until the driver has had enough: unit norm, projection, clipping, fresh rows.

    One step in `size.turn` is logged, so that every turn holds exactly one (fit's own default is one in 50).
    """
    source = paced(case, size)
    states = States(size, case.l0, source)
    beat.state, beat.facts, source.beat = states, states.facts, beat
    config = FitConfig(steps=10**6, batch_size=size.batch, lr=1e-3, clip=1.0, log_every=log_every or size.turn)
    beat.baseline()
    with suppress(Enough):
        fit(speed_method(case.spec(size)), source, size.n_q, replace(config, **case.config), callbacks=[states.see])

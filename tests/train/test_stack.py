"""A step of a stack is a step of each of its runs: exact in float64, for every scene and every method."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.bench.tasks import TaskSource, task
from monosem.core.activations import JumpReLU
from monosem.losses.fidelity import Reconstruction
from monosem.methods import METHODS, Method, method
from monosem.train.config import FitConfig, Order
from monosem.train.loop import resample, start_run, train_step
from monosem.train.stack import Stack
from monosem.train.state import Run
from monosem.train.update import Update
from tests.train.scenes import SCENES, STEPS, Scene

SEEDS = (3, 4, 5)


def _nano(text: str) -> Callable[[], Scene]:
    def make() -> Scene:
        value = method(text, **({"k": 3} if "k" in METHODS[text.partition("_cross")[0]].defaults else {}))
        pairing = "crosscoder" if text.endswith("crosscoder") else "sae"
        return Scene(value, TaskSource(task("lrb/nano", pairing)), 48)

    return make


def _low() -> Scene:
    """Thresholds so close to 0 that steps take them below, from where they are brought back."""
    return Scene(Method(JumpReLU(0.004), (Reconstruction(),)))


_ROWS = (*METHODS, "topk_crosscoder")
MADE = {**SCENES, "low": _low, **{f"row {name}": _nano(name) for name in _ROWS}}
"""Every row of the methods' table, and every scene of the other tests (anchors, pairings, resampling, fixed parts)."""


def _runs(scene: Scene, config: FitConfig) -> list[Run]:
    """Three runs in float64, by the reference path; each with anchors of its own where there are any."""
    runs = []
    for seed in SEEDS:
        given = scene.anchors
        given = given and replace(given, p=given.p.roll(seed, 0), r=given.r.roll(-seed, 0))
        run = start_run(scene.method, scene.source, scene.n_q, replace(config, seed=seed), given)
        run.model.double().train()
        run.model.path = "reference"
        for label, term in zip(run.objective.labels, run.objective.terms, strict=True):
            run.terms[label] = term.init_state(run.model)
        runs.append(run)
    return runs


def _rows(scene: Scene, config: FitConfig, step: int) -> tuple[Tensor, Tensor]:
    """Every run's rows in its own order, the runs in front."""
    orders = [Order(scene.source.rows, config.batch_size, seed) for seed in SEEDS]
    pairs = [scene.source.take(order.index(step)) for order in orders]
    return torch.stack([x for x, _ in pairs]).double(), torch.stack([y for _, y in pairs]).double()


def _state(run: Run) -> dict[str, Tensor]:
    named = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
    named |= {f"{label}.{name}": t for label, state in run.terms.items() for name, t in state.items()}
    moments = {f"{n}.{k}": run.optimiser.state[p][k] for n, p in run.model.named_parameters()
               for k in ("exp_avg", "exp_avg_sq") if p in run.optimiser.state}  # fmt: skip
    return named | moments | {"since": run.tracker.since}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", MADE)
def test_a_stack_takes_the_steps_of_its_runs(name: str, clip: float | None) -> None:
    """Weights, moments, thresholds, term states, dead counts and every part of the loss, after every step.

    Float64 leaves no room for rounding to change what is selected, so tolerances are tight.
    """
    scene = MADE[name]()
    steps = STEPS // 2 if clip is None else 4
    config = replace(scene.config, checkpoint_every=None, clip=clip, steps=steps)
    alone, together = _runs(scene, config), _runs(scene, config)
    updates = [Update(run, scene.method, config) for run in alone]
    stack = Stack(together, [scene.method] * len(together), config)
    for number in range(steps):
        x_p, x_r = _rows(scene, config, number)
        seen = stack.step(x_p, x_r)
        for i, (run, other) in enumerate(zip(alone, together, strict=True)):
            step, loss = train_step(run, updates[i], x_p[i], x_r[i])
            stacked_step, stacked_loss = seen.of(other, i)
            for label, part in {**loss.parts, "total": loss.total}.items():
                here = stacked_loss.total if label == "total" else stacked_loss.parts[label]
                torch.testing.assert_close(here, part.detach(), rtol=1e-9, atol=1e-12)
            errors = [e.norm(dim=1).sort().values for e in (stacked_step.error, step.error)]  # a row may come twice
            torch.testing.assert_close(*errors, rtol=1e-9, atol=1e-10)
            assert stacked_step.code.count() == step.code.count()
            own = replace(config, seed=SEEDS[i])
            for one in (run, other):
                resample(one, scene.method, own, scene.source)
            for key, value in _state(run).items():
                there = _state(other)[key]
                torch.testing.assert_close(there, value, rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")

"""The fused way from gradients to weights is the plain one: every kind of run, with and without clipping."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.kernels.native.build import library, why_absent
from monosem.losses.objective import Objective
from monosem.train import update as update_module
from monosem.train.loop import fit, train_step
from monosem.train.state import Run
from monosem.train.update import Update
from tests.train.scenes import SCENES, rows

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")

FUSED = sorted(set(SCENES) - {"hard", "ghosts"})
"""Scenes without anchors held hard and without a constraint over several weights."""


def _weights(scene: str, clip: float | None, steps: int) -> dict[str, Tensor]:
    made = SCENES[scene]()
    result = fit(made.method, made.source, made.n_q, replace(made.config, steps=steps, clip=clip), made.anchors)
    return {name: p.detach().clone() for name, p in result.model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("scene", SCENES)
def test_fused_is_plain(scene: str, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps, so that moments, projection and norms have had their effect and rounding has not."""
    fused = _weights(scene, clip, 6)
    monkeypatch.setattr(Update, "_fusable", lambda self: [])
    plain = _weights(scene, clip, 6)
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("scene", FUSED)
def test_the_fused_way_is_taken(scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    step = update_module.RowStep.adam

    def counting(self: update_module.RowStep, *arguments: object) -> None:
        seen.append(len(self.sets))
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(update_module.RowStep, "adam", counting)
    _weights(scene, 0.5, 2)
    assert len(seen) >= 2


def test_clipping_bounds_the_whole_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's first step hides the scale, its moments do not: m_1 = (1 - beta_1) clip g / ||g||."""
    made = SCENES["jumprelu"]()
    for clip, wanted in ((0.37, 0.037), (1e-3, 1e-4)):
        x_p, x_r = rows(16, 10), rows(16, 7, seed=1)
        model, objective = made.method.build(made.n_q, (10,), (7,), (x_p, x_r))
        assert isinstance(objective, Objective)
        config = replace(made.config, clip=clip)
        run = Run.start(model.train(), objective, config.lr, config.betas, config.eps, 60, "")
        train_step(run, Update(run, made.method, config), x_p, x_r)
        moments = [state["exp_avg"].double().pow(2).sum() for state in run.optimiser.state.values()]
        assert float(sum(moments)) ** 0.5 == pytest.approx(wanted, rel=1e-4)

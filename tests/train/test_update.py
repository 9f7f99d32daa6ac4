"""The fused way from gradients to weights is the plain one: every kind of run, with and without clipping."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.base.blocks import Block
from monosem.core.activations import Context, TopK
from monosem.core.constraints import UnitNorm
from monosem.core.model import SDL
from monosem.core.pairs import Crosscoder, CrossLayer, Layout
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.native.rows import RowStep
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import Objective, Step
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import L1, Tanh
from monosem.methods import Method
from monosem.train.loop import fit, train_step
from monosem.train.state import Run
from monosem.train.update import Update
from tests.train.scenes import SCENES, Scene, rows, scene_source

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")

FUSED = sorted(set(SCENES) - {"hard"})
"""Scenes without anchors held hard."""

BLOCKS = {"cross_layer": CrossLayer(), "private": Crosscoder(private=0.2)}
BLOCK_METHODS = {
    "latent": Method(TopK(2, rank_by_norm=True), (Reconstruction(), AuxK(k_aux=4), L1(0.1), Tanh(0.1))),
    "source": Method(TopK(2), (Reconstruction(), AuxK(k_aux=4)), constraints=(UnitNorm(per="source"),)),
}


def _weights(made: Scene, clip: float | None, steps: int) -> dict[str, Tensor]:
    result = fit(made.method, made.source, made.n_q, replace(made.config, steps=steps, clip=clip), made.anchors)
    return {name: p.detach().clone() for name, p in result.model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("scene", SCENES)
def test_fused_is_plain(scene: str, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    _compare(SCENES[scene](), clip, monkeypatch)


def _compare(made: Scene, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps, so that moments, projection and norms have had their effect and rounding has not."""
    fused = _weights(made, clip, 6)
    monkeypatch.setattr(Update, "_fusable", lambda self: [])
    plain = _weights(made, clip, 6)
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("scene", FUSED)
def test_the_fused_way_is_taken(scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    step = RowStep.adam

    def counting(self: RowStep, *arguments: object) -> None:
        seen.append(len(self.sets))
        step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RowStep, "adam", counting)
    _weights(SCENES[scene](), 0.5, 2)
    assert len(seen) >= 2


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("per", BLOCK_METHODS)
@pytest.mark.parametrize("pairing", BLOCKS)
def test_weights_in_blocks_are_stepped_row_by_row_too(
    pairing: str, per: str, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(BLOCK_METHODS[per], pairing=BLOCKS[pairing])
    widths = {"r_widths": (3, 5)} if pairing == "cross_layer" else {}
    data = scene_source(10, 8 if widths else None, p_widths=(4, 6), **widths)
    _compare(Scene(made, data, 160), clip, monkeypatch)


@pytest.mark.parametrize("pairing", BLOCKS)
def test_the_ledger_takes_every_block(pairing: str) -> None:
    """No gradient of a weight's size is made of any of them, nor kept."""
    made = replace(BLOCK_METHODS["latent"], pairing=BLOCKS[pairing])
    x = rows(16, 10)
    model, objective = made.build(160, (4, 6), (4, 6), (x, x))
    weights = [*model.encoder.weights, *model.decoder.weights]
    assert len(weights) > 2
    run = Run.start(model.train(), objective, 1e-2, (0.9, 0.999), 1e-8, 60, "")
    update, dead = Update(run, made.constraints, Scene(made).config), torch.arange(160) % 3 == 0
    with update.collecting() as ledger:
        assert ledger is not None
        context = Context(True)
        out = model(x, objective.requests(model.layout, context), dead, context)
        objective(Step(model, x, x, out, dead, context), run.terms).total.backward()
        assert all(weight.grad is None for weight in weights)
        assert all(ledger.names(weight) and ledger.parts(weight) for weight in weights)


def test_latents_that_lie_in_several_weights_are_stepped_the_plain_way() -> None:
    """A unit norm over two weights is not a matter of the rows of one; within each source it is."""
    blocks = (Block(0, 8, 0, 4), Block(0, 8, 4, 10))
    model = SDL(Layout(8, (4, 6), (4, 6), blocks, blocks), TopK(2))
    assert UnitNorm().row_pieces(model) is None
    bounds = UnitNorm(per="source").row_pieces(model)
    assert bounds == {id(model.decoder.weights[0]): (0, 4), id(model.decoder.weights[1]): (0, 6)}


def test_clipping_bounds_the_whole_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's first step hides the scale, its moments do not: m_1 = (1 - beta_1) clip g / ||g||."""
    made = SCENES["jumprelu"]()
    for clip, wanted in ((0.37, 0.037), (1e-3, 1e-4)):
        x_p, x_r = rows(16, 10), rows(16, 7, seed=1)
        model, objective = made.method.build(made.n_q, (10,), (7,), (x_p, x_r))
        assert isinstance(objective, Objective)
        config = replace(made.config, clip=clip)
        run = Run.start(model.train(), objective, config.lr, config.betas, config.eps, 60, "")
        train_step(run, Update(run, made.method.constraints, config), x_p, x_r)
        moments = [state["exp_avg"].double().pow(2).sum() for state in run.optimiser.state.values()]
        assert float(sum(moments)) ** 0.5 == pytest.approx(wanted, rel=1e-4)

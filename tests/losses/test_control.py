"""A controlled weight: the law of its motion, the L0 that it reaches, and the same bits after a break."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError, RefusedError
from monosem.core.activations import Context, ReLU
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.losses.control import ToL0, _next, settle
from monosem.losses.fidelity import Reconstruction
from monosem.losses.sparsity import L1
from monosem.methods import method
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.losses.trials import batch, loss_of, trial


def test_the_weight_moves_by_the_law() -> None:
    """Against the recurrence written out in plain numbers."""
    control = ToL0(3.0, start=0.2, gain=0.05, damping=0.7, rate=0.4)
    run = trial(ReLU(), (Reconstruction(), L1(control)), "sae")
    log_weight, excess = math.log(0.2), 0.0
    for step in range(6):
        x = batch("sae", run.generator)
        state = run.state["l1"]
        weight = math.exp(log_weight + 0.7 * excess)
        assert float(control.weight(state)) == pytest.approx(weight, rel=1e-12)
        loss = loss_of(run, x, None, Context(True, step, 6))
        plain = trial(ReLU(), (Reconstruction(), L1(1.0)), "sae")
        plain.model.load_state_dict(run.model.state_dict())
        alone = loss_of(plain, x, None, Context(True, step, 6))
        assert float(loss.parts["l1"]) == pytest.approx(weight * float(alone.parts["l1"]), rel=1e-5)
        active = int((run.model(x[0]).code.to_dense() != 0).sum()) / len(x[0])
        excess += 0.4 * (max(-1.0, min(1.0, math.log(active / 3.0))) - excess)
        log_weight += 0.05 * excess
    before = {name: value.clone() for name, value in run.state["l1"].items()}
    loss_of(run, batch("sae", run.generator), None, Context(False))
    assert all(torch.equal(before[name], value) for name, value in run.state["l1"].items())


def rows(count: int, seed: int) -> Tensor:
    """Sparse sums of 24 directions in 12 dimensions."""
    g = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(24, 12, generator=g), dim=1)
    g.manual_seed(seed)
    x = torch.rand(count, 24, generator=g) * (torch.rand(count, 24, generator=g) < 0.12)
    return 4 * x @ W


@pytest.mark.parametrize("target", [2.0, 4.0])
@pytest.mark.parametrize(
    "text",
    [
        "relu_l1(l1=to_l0({}))",
        "gated(l1=to_l0({}))",
        "jumprelu(l0=to_l0({}))",
        "jumprelu(l0=1.0) + l0(10.0, target={})",
        "p_anneal(lp=to_l0({}))",
        "relu + tanh(to_l0({}))",
        "gemma_scope_2(l0={}, theta=2.0)",
        "anthropic_jan25(sparsity=to_l0({}))",
        "binary(l0=to_l0({}))",
        "lista(l1=to_l0({}))",
    ],
)
def test_the_number_of_latents_asked_for_is_reached_on_other_rows(text: str, target: float) -> None:
    config = FitConfig(steps=250, batch_size=128, lr=1e-2, log_every=250)
    model = fit(text.format(target), TensorSource(rows(16384, 1)), 32, config).model
    other = rows(16384, 2)
    with torch.no_grad():
        active = model(other).code.count() / len(other)
    assert active == pytest.approx(target, rel=0.02)


def model_of(text: str, l0: float) -> tuple[SDL, Tensor]:
    """An untrained model that is far from a number of active latents, and rows."""
    x = rows(512, 3)
    model, _ = method(text).build(32, (12,), (12,), (x, x))
    active = model(x).code.count() / len(x)
    assert abs(active / l0 - 1) > 0.1
    return model.eval(), x


def test_where_thresholds_reach_zero_z_rises_in_their_place() -> None:
    model, x = model_of("jumprelu(theta=0.5)", 24.0)
    before = model(x)
    settle(model, 24.0, lambda: torch.split(x, 100))
    assert model(x).code.count() / len(x) == pytest.approx(24.0, rel=1e-3)
    assert bool((model.act["theta"] == 0).all())
    rise = model.b_E.detach()
    assert float(rise.min()) > 0
    grown = (before.cells.to_dense() + rise).clamp(min=0)
    torch.testing.assert_close(model(x).code.to_dense(), grown, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["relu | lista(steps=3)", "jumprelu(theta=0.1) | refined(steps=2)"])
def test_an_encoder_that_answers_a_shift_in_its_own_way_is_asked_again(text: str) -> None:
    model, x = model_of(text, 5.0)
    settle(model, 5.0, lambda: [x])
    assert model(x).code.count() / len(x) == pytest.approx(5.0, rel=5e-3)


@pytest.mark.parametrize("start", [0.0, -1.0, 0.7])
def test_a_search_passes_where_l0_rises_with_the_thresholds(start: float) -> None:
    """As of some LISTA models: smaller early codes leave more over, and more latents answer it."""

    def excess(shift: float) -> float:
        return 0.1 + 2 * shift if -0.05 < shift < 0.05 else 0.2 - 1.5 * (shift - 0.05) if shift > 0 else -shift - 0.05

    seen = [(start, excess(start), math.copysign(0.006, excess(start)))]
    while abs(seen[-1][1]) >= 0.002 and len(seen) < 20:
        to = _next(seen)
        seen.append((to, excess(to), math.copysign(0.006, excess(to))))
    assert abs(seen[-1][1]) < 0.002


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("topk(k=4) + l1(to_l0(3.0))", "its k says how many latents are active"),
        ("batch_topk(k=4) + tanh(to_l0(3.0))", "its k says how many latents are active"),
        ("relu_l1(l1=to_l0(3.0)) | matching_pursuit", "its steps say how many latents are active"),
    ],
)
def test_a_target_that_no_weight_can_reach_is_refused(text: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        method(text).build(16, (8,), (8,))


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    source = TensorSource(rows(512, 1), digest="rows")
    config = FitConfig(steps=20, batch_size=64, checkpoint_every=7, log_every=1)
    whole = fit("relu_l1(l1=to_l0(3))", source, 24, config)

    class Stop(Exception):
        pass

    def stop(run: object, entry: dict[str, float]) -> None:
        if entry["step"] == 16:
            raise Stop

    with pytest.raises(Stop):
        fit("relu_l1(l1=to_l0(3))", source, 24, config, out=tmp_path, callbacks=[stop])
    again = fit("relu_l1(l1=to_l0(3))", source, 24, config, out=tmp_path)
    assert again.log == whole.log
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize("wrong", [{"l0": 0.0}, {"start": 0.0}, {"gain": -1.0}, {"damping": -0.1}, {"rate": 0.0}])
def test_a_value_out_of_range_is_one_clear_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        replace(ToL0(3.0), **wrong)


def test_a_controlled_weight_has_no_warmup() -> None:
    with pytest.raises(ArgumentError, match="a course of its own"):
        method("relu_l1(l1=to_l0(3), warmup=0.1)")

"""A controlled weight: the law of its motion, the L0 that it reaches, and the same bits after a break."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.core.activations import Context, ReLU
from monosem.core.pairs import TensorSource
from monosem.losses.control import ToL0
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
    ],
)
def test_the_number_of_latents_asked_for_is_reached_on_other_rows(text: str, target: float) -> None:
    config = FitConfig(steps=250, batch_size=128, lr=1e-2, log_every=250)
    model = fit(text.format(target), TensorSource(rows(32768, 1)), 32, config).model
    other = rows(32768, 2)
    with torch.no_grad():
        active = model(other).code.count() / len(other)
    assert active == pytest.approx(target, rel=0.02)


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

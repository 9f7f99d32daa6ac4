"""The loop: the order of a step, schedules, clipping, what is logged, and a second implementation of all of it."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from monosem.base.errors import DataError, RefusedError
from monosem.base.schedule import Ramp, WarmupDecay
from monosem.core.activations import ReLU, TopK
from monosem.core.constraints import Constraint, Fixed, UnitNorm
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import State, Step, Term
from monosem.losses.resample import Resample
from monosem.methods import Method, method
from monosem.train import loop
from monosem.train.config import FitConfig
from monosem.train.loop import Order, fit, train_step
from monosem.train.state import DeadTracker, Run
from monosem.train.update import Update
from tests.train.scenes import SCENES, rows

QUICK = FitConfig(12, 16, 1e-2, log_every=1, dead_window=40)


def source(n: int = 10) -> TensorSource:
    return TensorSource(rows(75, n))


@contextmanager
def before_each_step(hear: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """Hear the optimiser just before it moves the weights."""
    hook = register_optimizer_step_pre_hook(lambda optimiser, *_: hear(optimiser))
    try:
        yield
    finally:
        hook.remove()


# The order of a step -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told(Constraint):
    told: list[str] = field(default_factory=list)

    def project_gradient(self, model: SDL) -> None:
        self.told.append("too early" if model.b_E.grad is None else "project")

    def after_step(self, model: SDL) -> None:
        self.told.append("renormalise")


@dataclass(frozen=True)
class ToldTerm(Term):
    told: list[str] = field(default_factory=list)

    def apply(self, step: Step, state: State) -> Tensor:
        value = step.x_r_hat.pow(2).sum() / step.code.batch
        value.register_hook(lambda gradient: self.told.append("backward"))
        return value


@dataclass(frozen=True)
class ToldResample(Resample):
    told: list[str] = field(default_factory=list)

    def apply(self, *arguments: Any) -> None:
        self.told.append("resample")
        super().apply(*arguments)


def test_the_order_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clip, update = torch.nn.utils.clip_grad_norm_, DeadTracker.update

    def clipping(*arguments: Any) -> Tensor:
        told.append("clip")
        return clip(*arguments)

    def updating(self: DeadTracker, code: Any) -> None:
        told.append("dead")
        update(self, code)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipping)
    monkeypatch.setattr(DeadTracker, "update", updating)
    plan = ToldResample(every=2, begin=0.0, end=1.0, rows=20, told=told)
    monkeypatch.setattr(Update, "_fusable", lambda self: [])  # the plain way shows each part
    made = Method(TopK(1), (Reconstruction(), ToldTerm(0.1, told)), constraints=(Told(told),), resample=plan)
    with before_each_step(lambda _: told.append("optimise")):
        fit(made, source(), 32, FitConfig(3, 16, clip=1.0, dead_window=10))
    step = ["backward", "project", "clip", "optimise", "renormalise", "dead"]
    assert told == [*step, *step, "resample", "renormalise", *step]


# Schedules and clipping ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class One(Term):
    name = "one"

    def apply(self, step: Step, state: State) -> Tensor:
        return step.x_r_hat.sum() * 0 + 1


def test_the_rate_that_is_logged_is_used_and_follows_the_formula() -> None:
    used: list[float] = []
    config = FitConfig(40, 8, 2e-3, schedule=WarmupDecay(0.25, 0.5, 0.1), log_every=1)
    with before_each_step(lambda optimiser: used.append(optimiser.param_groups[0]["lr"])):
        log = fit("relu_l1", source(), 16, config).log
    wanted = [
        2e-3 * min(1.0, (t + 1) / 10) * (1 if t < 20 else 1 - 0.9 * (t - 20) / 20)  # up over ten, down over twenty
        for t in range(40)
    ]
    assert [entry["lr"] for entry in log] == pytest.approx(wanted, rel=1e-12)
    assert used == [entry["lr"] for entry in log]


def test_a_terms_weight_follows_its_ramp() -> None:
    made = Method(ReLU(), (Reconstruction(), One(Ramp(2.0, 1.0, 0.25, 0.75)), One(0.5)))
    log = fit(made, source(), 16, FitConfig(16, 8, log_every=1)).log
    assert [entry["loss/one_0"] for entry in log] == pytest.approx([2] * 5 + [2 - i / 8 for i in range(1, 8)] + [1] * 4)
    assert {entry["loss/one_1"] for entry in log} == {0.5}


@pytest.mark.parametrize("name", ["relu_l1", "topk_skip_transcoder(k=2)", "jumprelu_crosscoder"])
def test_clipping_bounds_the_norm_over_all_parameters_and_keeps_the_direction(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Update, "_fusable", lambda self: [])  # the fused way leaves no gradient to look at
    gradients: dict[float | None, list[Tensor]] = {}
    data = TensorSource(rows(75, 10), rows(75, 10, seed=1) if "transcoder" in name else None)
    for clip in (None, 0.37, 1e9):
        seen = gradients.setdefault(clip, [])

        def hear(optimiser: torch.optim.Optimizer, seen: list[Tensor] = seen) -> None:
            seen.append(torch.cat([p.grad.flatten() for p in optimiser.param_groups[0]["params"]]))

        with before_each_step(hear):
            fit(name, data, 32, replace(QUICK, clip=clip))
    free, clipped = gradients[None], gradients[0.37]
    assert float(free[0].norm()) > 1
    assert all(float(g.norm()) <= 0.37 * (1 + 1e-5) for g in clipped)
    torch.testing.assert_close(clipped[0], free[0] * 0.37 / free[0].norm(), rtol=1e-5, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(free, gradients[1e9], strict=True))  # what need not be clipped is not


# What is logged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES)
def test_what_is_logged_is_what_was_trained(scene: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[float] = []
    backward = torch.autograd.backward

    def watched(total: Tensor) -> None:
        trained.append(float(total.detach()))
        backward(total)

    monkeypatch.setattr(loop.torch.autograd, "backward", watched)
    made = SCENES[scene]()
    config = replace(made.config, steps=9, log_every=4)
    result = fit(made.method, made.source, made.n_q, config, made.anchors, out=tmp_path)
    assert [entry["step"] for entry in result.log] == [1, 4, 8, 9]
    for entry in result.log:
        assert entry["loss"] == trained[int(entry["step"]) - 1]
        parts = [value for name, value in entry.items() if name.startswith("loss/")]
        assert sum(parts) == pytest.approx(entry["loss"], rel=1e-6)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == result.log


def test_a_whole_run_against_a_second_implementation() -> None:
    """ReLU + L1 in float64, gradients by hand, Adam, clipping, unit norms and schedule written out."""
    x, n_q, config = rows(60, 6), 12, FitConfig(8, 20, 1e-2, clip=1.5, log_every=1, seed=2)
    made = method("relu_l1(l1=0.3)")
    result = fit(made, TensorSource(x), n_q, config)
    start, _ = made.build(n_q, (6,), (6,), (x, x), config.seed)
    w = {
        "E": start.W_E.detach().double(),
        "D": start.W_D.T.detach().double(),
        "b": start.b_E.detach().double(),
        "c": start.b_D.detach().double(),
    }
    m, v = ({name: torch.zeros_like(p) for name, p in w.items()} for _ in range(2))
    order = Order(60, 20, config.seed)
    for t in range(8):
        batch = x[order.index(t)].double()
        z = batch @ w["E"].T + w["b"]
        code = z.clamp(min=0)
        norms = w["D"].norm(dim=1)
        e = code @ w["D"] + w["c"] - batch
        entry = result.log[t]
        reconstruction, sparse = e.pow(2).sum() / 20, 0.3 * (code * norms).sum() / 20
        assert entry["loss/reconstruction"] == pytest.approx(float(reconstruction), rel=1e-4)
        assert entry["loss/l1"] == pytest.approx(float(sparse), rel=1e-4)
        assert entry["l0"] == pytest.approx(float((code > 0).sum()) / 20, abs=0.06)  # one cell may round to zero
        assert entry["fvu"] == pytest.approx(float(e.pow(2).sum() / (batch - batch.mean(0)).pow(2).sum()), rel=1e-4)
        g_code = 2 / 20 * e @ w["D"].T + 0.3 / 20 * norms
        g_z = g_code * (z > 0)
        g_D = 2 / 20 * code.T @ e + 0.3 / 20 * code.sum(0)[:, None] * w["D"] / norms[:, None]
        g_D -= (g_D * w["D"]).sum(1, keepdim=True) * w["D"] / norms[:, None] ** 2
        g = {"E": g_z.T @ batch, "D": g_D, "b": g_z.sum(0), "c": 2 / 20 * e.sum(0)}
        size = math.sqrt(sum(float(part.pow(2).sum()) for part in g.values()))
        lr = 1e-2 * min(1.0, (t + 1) / 1.0) * (1 - max(0.0, (t / 8 - 0.8) / 0.2))
        for name in w:
            part = g[name] * min(1.0, 1.5 / (size + 1e-6))
            m[name] = 0.9 * m[name] + 0.1 * part
            v[name] = 0.999 * v[name] + 0.001 * part**2
            w[name] = w[name] - lr * (m[name] / (1 - 0.9 ** (t + 1))) / (
                (v[name] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
            )
        w["D"] /= w["D"].norm(dim=1, keepdim=True)
    found = result.model
    for name, part in (("E", found.W_E), ("D", found.W_D.T), ("b", found.b_E), ("c", found.b_D)):
        torch.testing.assert_close(part.detach().double(), w[name], rtol=1e-3, atol=1e-4)


# Bits, and what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["batch_topk", "resampled stream", "anchored"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(scene: str) -> None:
    made = SCENES[scene]()

    def run(config: FitConfig) -> list[Tensor]:
        result = fit(made.method, made.source, made.n_q, config, made.anchors)
        return [p.detach() for p in result.model.parameters()]

    config = replace(made.config, steps=10)
    once, again, other = run(config), run(config), run(replace(config, seed=9))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])


def test_callbacks_hear_every_logged_step_and_the_model_comes_back_in_evaluation_mode() -> None:
    heard: list[tuple[int, float]] = []
    result = fit(
        "topk(k=2)", source(), 16, QUICK, callbacks=[lambda run, entry: heard.append((run.step, entry["loss"]))]
    )
    assert heard == [(entry["step"], entry["loss"]) for entry in result.log]
    assert len(heard) == 12
    assert not result.model.training


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["relu_l1", "jumprelu", "gated", "binary", "topk(k=2)", "batch_topk(k=2)"])
def test_data_that_are_not_finite_are_named(name: str, value: float) -> None:
    x = rows(75, 10)
    x[3, 2] = value
    with pytest.raises(DataError, match="x_p holds NaN or infinity in 1 of 16 rows, the first of them row 3; remove"):
        fit(name, TensorSource(x), 32, FitConfig(20, 16, sample_rows=1))


def test_a_target_that_is_not_finite_is_named() -> None:
    y = rows(16, 4)
    y[3, 2] = math.nan
    with pytest.raises(DataError, match="x_r holds NaN or infinity in 1 of 16 rows, the first of them row 3"):
        fit("topk_transcoder(k=2)", TensorSource(rows(16, 5), y), 32, FitConfig(20, 16))


def test_a_rate_that_explodes_is_named() -> None:
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step \d+; lower lr=1e\+25 or set clip"):
        fit("relu_l1", source(), 32, FitConfig(20, 16, 1e25))


def test_fixed_weights_cannot_be_resampled() -> None:
    made = Method(ReLU(), resample=Resample(), constraints=(Fixed(("decoder",)),))
    with pytest.raises(RefusedError, match=r"\['decoder'\]"):
        fit(made, source(), 16, QUICK)


def test_a_source_without_rows_is_refused() -> None:
    empty = source()
    empty.rows = 0
    with pytest.raises(DataError, match="no rows"):
        fit("relu_l1", empty, 16, QUICK)


def test_train_step_returns_what_the_step_saw_before_the_weights_moved() -> None:
    made = method("topk(k=2)")
    model, objective = made.build(16, (10,), (10,))
    run = Run.start(model, objective, 1e-2, (0.9, 0.999), 1e-8, 40, "")
    x = rows(16, 10)
    with torch.no_grad():
        before = model.train()(x).x_r_hat
    step, loss = train_step(run, Update(run, made.constraints, QUICK), x, x)
    assert torch.equal(step.x_r_hat, before)
    assert float(loss.parts["reconstruction"]) == pytest.approx(float((x - before).pow(2).sum(1).mean()), rel=1e-6)
    assert run.step == 1
    assert not torch.equal(model(x).x_r_hat, before)
    torch.testing.assert_close(model.W_D.norm(dim=0), torch.ones(16))
    assert UnitNorm() in made.constraints


def test_fit_leaves_the_hosts_number_of_threads() -> None:
    """Its own holds inside; the host's is back afterwards, also where training ends in an error."""
    before, inside = torch.get_num_threads(), []

    def look(run: Run, entry: dict[str, float]) -> None:
        inside.append(torch.get_num_threads())
        if run.step == 2:
            raise KeyboardInterrupt

    config = replace(QUICK, threads=before + 1, log_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit("topk(k=2)", TensorSource(rows(64, 8)), 16, config, callbacks=[look])
    assert inside == [before + 1] * 2
    assert torch.get_num_threads() == before


FREED = """
import torch
from pathlib import Path
from monosem.core.pairs import TensorSource
from monosem.train.config import FitConfig
from monosem.train.loop import fit

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def stays(numbers):
    block = torch.ones(numbers)
    filled = resident()
    del block
    return filled - resident() < 2 * numbers

inside, config = [], FitConfig(3, 16, log_every=1)
before = stays(2**24)
look = lambda run, entry: inside.append(stays(2**24))
fit("topk(k=2)", TensorSource(torch.randn(64, 8)), 16, config, callbacks=[look])
print(before, all(inside), len(inside), stays(2**25))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_is_freed_after_fit_leaves_the_process() -> None:
    """While it trains a large block that is freed stays; before and afterwards it goes back to the system.

    In a process of its own: holes that earlier tests left in the heap would hold the block. The last block is larger
    than any hole that training left.
    """
    ran = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.split() == ["False", "True", "3", "False"]

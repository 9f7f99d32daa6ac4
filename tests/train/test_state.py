"""What changes while training: ages of latents, moments, resampled entries; each against a recount."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.base.sparse import Code
from monosem.core.activations import JumpReLU, ReLU, TopK
from monosem.core.constraints import Tied
from monosem.core.init import Init
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Transcoder
from monosem.losses.fidelity import Reconstruction
from monosem.losses.resample import Resample
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import L0, L1
from monosem.methods import Method
from monosem.train.config import FitConfig
from monosem.train.loop import fit, train_step
from monosem.train.state import DeadTracker, Run
from monosem.train.update import Update
from tests.train.scenes import SCENES, rows, scene_source

CONFIG = FitConfig(30, 16, 1e-2, log_every=1, dead_window=60)


def _run(made: Method, n_q: int, p: tuple[int, ...], r: tuple[int, ...], steps: int = 3) -> Run:
    """A run after some steps, so that every moment is set."""
    x_p, x_r = rows(16, sum(p)), rows(16, sum(r), seed=1)
    x_r = x_p if p == r else x_r
    model, objective = made.build(n_q, p, r, (x_p, x_r))
    run = Run.start(model.train(), objective, 1e-2, (0.9, 0.999), 1e-8, 60, "")
    for _ in range(steps):
        train_step(run, Update(run, made.constraints, CONFIG), x_p, x_r)
    return run


# Ages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["batch_topk", "jumprelu", "p_anneal", "k annealed", "ghosts"])
def test_ages_are_tokens_since_the_last_firing(scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse and dense codes, and carried cells with a zero value, against a recount of every batch."""
    fired: list[Tensor] = []
    ages: list[Tensor] = []
    update = DeadTracker.update

    def watched(self: DeadTracker, code: Code) -> None:
        fired.append((code.to_dense().detach() != 0).any(0))
        update(self, code)
        ages.append(self.since.clone())
        wanted = torch.zeros(self.since.numel(), dtype=torch.int64)
        for batch in fired:
            wanted = torch.where(batch, 0, wanted + code.batch)
        assert torch.equal(self.since, wanted)
        assert torch.equal(self.dead, wanted > self.window)

    monkeypatch.setattr(DeadTracker, "update", watched)
    made = SCENES[scene]()
    log = fit(made.method, made.source, made.n_q, replace(made.config, log_every=1), made.anchors).log
    assert [entry["dead"] for entry in log] == pytest.approx([float((a > 50).float().mean()) for a in ages])
    assert len(ages) == made.config.steps
    assert any(bool(age.any()) for age in ages)


@pytest.mark.parametrize(("age", "dead"), [(60, False), (61, True)])
def test_dead_is_more_than_the_window(age: int, dead: bool) -> None:
    assert bool(DeadTracker(torch.tensor([age]), 60).dead) is dead


def test_auxk_acts_from_the_step_after_a_latent_died() -> None:
    made = Method(TopK(1), (Reconstruction(), AuxK()))
    log = fit(made, scene_source(), 32, CONFIG).log
    assert log[0]["loss/auxk"] == 0
    for before, now in itertools.pairwise(log):
        assert (now["loss/auxk"] > 0) is (before["dead"] > 0)
    assert any(entry["loss/auxk"] > 0 for entry in log)


# Moments -------------------------------------------------------------------------------------------------

FORGETTING = {
    "n_p = n_q, free b_in": (Method(ReLU(), (Reconstruction(), L1(0.1)), pre_bias="free"), 10, (10,), (10,)),
    "n_r = n_q, skip": (Method(JumpReLU(0.1), (Reconstruction(), L0(0.1)), Transcoder(skip=True)), 8, (10,), (8,)),
    "private blocks": (Method(ReLU(), (Reconstruction(),), Crosscoder(private=0.25)), 16, (4, 6), (4, 6)),
    "cross-layer": (Method(TopK(3), (Reconstruction(),), CrossLayer()), 11, (4, 6), (3, 5)),
    "tied": (Method(ReLU(), (Reconstruction(),), SAE(), constraints=(Tied(),)), 12, (10,), (10,)),
}


@pytest.mark.parametrize("case", FORGETTING)
def test_exactly_the_chosen_latents_moments_are_forgotten(case: str) -> None:
    made, n_q, p, r = FORGETTING[case]
    run = _run(made, n_q, p, r)
    for state in run.optimiser.state.values():  # no moment is zero by accident
        state["exp_avg"].add_(1.0)
        state["exp_avg_sq"].add_(1.0)
    chosen = torch.arange(n_q) % 3 == 1
    run.forget(chosen)
    model, seen = run.model, set()
    blocks = [*zip(model.encoder.blocks, model.encoder.weights, strict=True)]
    blocks += [*zip(model.decoder.blocks, model.decoder.weights, strict=True)]
    for name in ("exp_avg", "exp_avg_sq"):
        for block, weight in blocks:
            moments = run.optimiser.state[weight][name]
            assert torch.equal((moments == 0).all(1), chosen[block.first : block.last])
            assert torch.equal((moments != 0).all(1), ~chosen[block.first : block.last])
            seen.add(id(weight))
        for vector in (model.b_E, *model.act.values()):
            assert torch.equal(run.optimiser.state[vector][name] == 0, chosen)
            seen.add(id(vector))
        rest = [moments[name] for p, moments in run.optimiser.state.items() if id(p) not in seen]
        assert rest, "b_D has no latents"
        assert all(bool((moments != 0).all()) for moments in rest)


def test_a_parameter_without_gradient_keeps_no_others_place(tmp_path: Any) -> None:
    """b_D gets no gradient here: its moments are absent, and those after it must not slip into its place."""
    made = Method(JumpReLU(0.1), (L0(0.5), L1(0.1)))
    config = FitConfig(8, 16, 1e-2, log_every=1, checkpoint_every=4)
    whole = fit(made, scene_source(), 20, config, out=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(run: Run, entry: dict[str, float]) -> None:
        if run.step == 6:
            raise Stop

    with pytest.raises(Stop):
        fit(made, scene_source(), 20, config, out=tmp_path / "cut", callbacks=[stop])
    resumed = fit(made, scene_source(), 20, config, out=tmp_path / "cut")
    assert resumed.log == whole.log
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


# Resampling in a run ---------------------------------------------------------------------------------------


def test_resampling_resets_weights_moments_and_ages_of_the_dead_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    apply = Resample.apply

    def snapshot(run: Run) -> dict[str, Tensor]:
        model = run.model
        state = run.optimiser.state
        return {
            "E": model.W_E.detach().clone(),
            "D": model.W_D.T.detach().clone(),
            "b": model.b_E.detach().clone()[:, None],
            "m": state[model.encoder.weights[0]]["exp_avg"].clone(),
            "v": state[model.decoder.weights[0]]["exp_avg_sq"].clone(),
            "since": run.tracker.since.clone()[:, None],
        }

    def applied(self: Resample, model: Any, x_p: Tensor, x_r: Tensor, dead: Tensor, generator: Any) -> None:
        if "dead" not in seen and bool(dead.any()):
            seen["dead"], seen["before"] = dead.clone(), snapshot(seen["run"])
            seen["rows"] = x_p
        apply(self, model, x_p, x_r, dead, generator)

    def after(run: Run, entry: dict[str, float]) -> None:
        if "dead" in seen and "after" not in seen:
            seen["after"] = snapshot(run)

    real_start = Run.start

    def start(*arguments: Any, **more: Any) -> Run:
        seen["run"] = real_start(*arguments, **more)
        return seen["run"]

    monkeypatch.setattr(Resample, "apply", applied)
    monkeypatch.setattr(Run, "start", staticmethod(start))
    plan = Resample(every=16, begin=0.0, end=1.0, rows=50)  # late: some of the dead have fired, and have moments
    made = Method(TopK(1), (Reconstruction(),), init=Init(b_E=0.01), resample=plan)
    fit(made, scene_source(), 40, CONFIG, callbacks=[after])
    dead, before, now = seen["dead"], seen["before"], seen["after"]
    assert 0 < int(dead.sum()) < 40
    assert seen["rows"].shape[0] == 50
    for name in before:
        if name != "D":  # normalising the living columns again may move a last bit
            assert torch.equal(before[name][~dead], now[name][~dead]), name
        assert bool((before[name][dead] != now[name][dead]).any()), name
    torch.testing.assert_close(before["D"][~dead], now["D"][~dead])
    torch.testing.assert_close(now["D"].norm(dim=1), torch.ones(40))
    for name in ("b", "m", "v", "since"):
        assert not now[name][dead].any(), name


def test_resampling_happens_where_its_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, ...]] = []
    monkeypatch.setattr(Resample, "apply", lambda self, model, x_p, *rest: steps.append(tuple(x_p.shape)))
    plan = Resample(every=3, begin=0.2, end=0.7, rows=1000)
    due = [step for step in range(31) if plan.due(step, 30)]
    assert due == [6, 9, 12, 15, 18]
    fit(Method(ReLU(), resample=plan), scene_source(), 20, CONFIG)
    assert steps == [(75, 10)] * 5  # never more rows than there are

"""Optimisers other than Adam: their steps against float64, resuming, constraints, what the finished model is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, RefusedError
from monosem.base.group import Group
from monosem.methods import Method, method
from monosem.methods.optimisers import OPTIMISERS, Adam8, Muon, Optimiser, ScheduleFreeSign, orthogonal
from monosem.train.config import FitConfig
from monosem.train.loop import Callback, fit, start_run
from monosem.train.state import Run
from tests.group import together
from tests.train.scenes import anchors, rows, scene_source

TEXTS = ("adam(ema=0.8)", "muon(ema=0.8)", "schedule_free_sign", "muon(schedule=cosine(1.0, 0.1))", "adam8(ema=0.8)")
CONFIG = FitConfig(12, 16, 1e-2, log_every=3, checkpoint_every=4, dead_window=50, threads=1)
RATES = (0.02, 0.05, 0.01, 0.03)


def _walk(rule: Optimiser, w: torch.Tensor, gradients: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A parameter after some steps, and the optimiser's state."""
    p = torch.nn.Parameter(w.clone())
    optimiser = rule.over([p], 1.0, (0.9, 0.999), 1e-8)
    for gradient, lr in zip(gradients, RATES, strict=True):
        optimiser.param_groups[0]["lr"], p.grad = lr, gradient.clone()
        optimiser.step()
    return p.detach(), optimiser.state[p]


@pytest.mark.parametrize("shape", [(7, 3), (3, 7)])
def test_muon_is_its_equation(shape: tuple[int, int]) -> None:
    w, gradients = rows(*shape), rows(len(RATES), *shape, seed=1)
    moved = w.double().numpy()
    m = np.zeros(shape)
    for g, lr in zip(gradients.double().numpy(), RATES, strict=True):
        m = 0.9 * m + g
        u, s, vt = np.linalg.svd(g + 0.9 * m, full_matrices=False)
        s /= np.sqrt((s**2).sum())
        for _ in range(5):  # the polynomial acts on singular values alone
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        moved = moved - lr * 0.2 * np.sqrt(max(shape)) * (u * s) @ vt
    torch.testing.assert_close(_walk(Muon(momentum=0.9), w, gradients)[0], torch.tensor(moved).float())


def test_adam_of_a_byte_an_entry_is_adam_but_for_rounding() -> None:
    """Against both moments in float64, rounded by the table of all bytes; and near Adam itself."""
    w, gradients = rows(7, 5), rows(len(RATES), 7, 5, seed=1)
    p, m, v = w.double(), torch.zeros(7, 5).double(), torch.zeros(7, 5).double()
    signed = torch.tensor([np.sign(q) * (q / 127) ** 2 for q in range(-127, 128)])
    upper = torch.tensor([(q / 255) ** 4 for q in range(256)])
    for t, (g, lr) in enumerate(zip(gradients.double(), RATES, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        size, size_sq = m.abs().amax(1, keepdim=True), v.amax(1, keepdim=True)
        root = (m / size).sign() * (m / size).abs().sqrt()
        m = signed[(root[..., None] - signed.sign() * signed.abs().sqrt()).abs().argmin(-1)] * size
        v = upper[((v / size_sq)[..., None] <= upper + 1e-6).int().argmax(-1)] * size_sq
    found, state = _walk(Adam8(), w, gradients)
    torch.testing.assert_close(found, p.float(), rtol=1e-4, atol=1e-5)
    assert state["exp_avg"].element_size() == state["exp_avg_sq"].element_size() == 1
    plain, _ = _walk(method("topk(k=2)").optimiser, w, gradients)
    assert float((found - plain).abs().max()) < 0.1 * float((plain - w).abs().max())


def test_vectors_go_by_adam_under_muon() -> None:
    w, gradients = rows(5), rows(len(RATES), 5, seed=1)
    expected, _ = _walk(method("topk(k=2)").optimiser, w, gradients)
    assert torch.equal(_walk(Muon(), w, gradients)[0], expected)


def test_schedule_free_sign_is_its_equation() -> None:
    w, gradients = rows(4, 3), rows(len(RATES), 4, 3, seed=1)
    z = w.double().numpy()
    places = []
    for g, lr in zip(gradients.numpy(), RATES, strict=True):
        z = z - lr * np.sign(g)
        places.append(z)
    mean = np.average(places, axis=0, weights=np.square(RATES))
    p, state = _walk(ScheduleFreeSign(beta=0.7), w, gradients)
    torch.testing.assert_close(state["average"], torch.tensor(mean).float())
    torch.testing.assert_close(p, torch.tensor(0.3 * z + 0.7 * mean).float())


def _seen(text: str, constraints: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """W_E of every step, and of the finished model."""
    places: list[torch.Tensor] = []

    def look(run: Run, entry: dict[str, float]) -> None:
        places.append(run.model.W_E.detach().clone())

    result = fit(f"topk(k=2) | {text}{constraints}", scene_source(), 32, replace(CONFIG, log_every=1), callbacks=[look])
    return torch.stack(places), result.model.W_E.detach()


@pytest.mark.parametrize("way", ["auto", "reference"])
def test_the_finished_model_has_the_mean_of_the_weights(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the fused way too; a callback sees the mean of the steps so far, and the run goes on at its own weights."""
    if way == "reference":
        monkeypatch.setattr("monosem.train.update.Update._fusable", lambda self: [])
    own, last = _seen("adam")
    assert torch.equal(own[-1], last)
    means, mean = _seen("adam(ema=0.8)")
    shares = 0.8 ** torch.arange(CONFIG.steps - 1, -1, -1, dtype=torch.float64)
    expected = (shares[:, None, None] * own.double()).sum(0) / shares.sum()
    torch.testing.assert_close(mean, expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(means[-1], mean)
    torch.testing.assert_close(means[0], own[0])


@pytest.mark.parametrize("text", TEXTS)
def test_constraints_hold_and_dead_latents_come_back(text: str) -> None:
    result = fit(f"topk(k=1) | resample(every=3, begin=0, end=1, rows=40) + {text}", scene_source(), 32, CONFIG)
    torch.testing.assert_close(result.model.W_D.norm(dim=0), torch.ones(32))
    assert all(np.isfinite(entry["loss"]) for entry in result.log)


@pytest.mark.parametrize("text", TEXTS)
def test_hard_anchors_stay_to_the_bit(text: str) -> None:
    given = anchors(3, 10, 10)
    result = fit(f"topk(k=2) | anchoring(hard=True) + {text}", scene_source(), 32, CONFIG, given)
    plain = fit("topk(k=2) | anchoring(hard=True)", scene_source(), 32, CONFIG, given)
    assert torch.equal(result.model.W_D[:, :3], plain.model.W_D[:, :3])
    assert not torch.equal(result.model.W_D[:, 3:], plain.model.W_D[:, 3:])


class _Stop(Exception):
    """A run that ends early."""


def _stop(at: int) -> Callback:
    def stop(run: Run, entry: dict[str, float]) -> None:
        if run.step == at:
            raise _Stop

    return stop


@pytest.mark.parametrize("text", TEXTS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(text: str, tmp_path: Path) -> None:
    made: Method = method(f"topk(k=1) | resample(every=5, rows=40) + {text}")
    whole = fit(made, scene_source(), 32, CONFIG, out=tmp_path / "whole")
    with pytest.raises(_Stop):
        fit(made, scene_source(), 32, CONFIG, out=tmp_path / "cut", callbacks=[_stop(9)])
    again = fit(made, scene_source(), 32, CONFIG, out=tmp_path / "cut")
    assert again.log == whole.log
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    longer = fit(made, scene_source(), 32, replace(CONFIG, steps=14), out=tmp_path / "cut")
    assert len(longer.log) == len(whole.log) + 1


def test_schedules_from_text_set_the_rate() -> None:
    result = fit("topk(k=2) | adam(schedule=warmup_decay(0.0, 0.5))", scene_source(), 32, replace(CONFIG, log_every=1))
    expected = [1e-2 * min(1.0, 1 - (t / 12 - 0.5) / 0.5) for t in range(12)]
    assert [entry["lr"] for entry in result.log] == pytest.approx(expected)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match="averages its weights already"):
        method("topk(k=2) | schedule_free_sign(ema=0.9)")
    with pytest.raises(ArgumentError, match="ema=1"):
        method("topk(k=2) | adam(ema=1.0)")
    with pytest.raises(ArgumentError, match="momentum"):
        method("topk(k=2) | muon(momentum=1.0)")
    with pytest.raises(ArgumentError, match="schedule"):
        method("topk(k=2) | adam(schedule=to_l0(4))")
    with pytest.raises(ArgumentError, match="another in its place"):
        method("topk(k=2) | - adam")


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_rows_in_several_processes_are_made_orthogonal_together(shape: tuple[int, int], size: int) -> None:
    u = rows(*shape).double()
    parts = together(size, lambda group: orthogonal(u.tensor_split(size)[group.rank], group))
    torch.testing.assert_close(torch.cat(parts), orthogonal(u), rtol=1e-9, atol=1e-12)


def test_muon_needs_whole_columns() -> None:
    def work(group: Group) -> None:
        group.by = "targets"
        start_run(method("topk(k=2) | muon"), scene_source(), 32, CONFIG, group=group)

    with pytest.raises(RefusedError, match="every two latents; share by latents"):
        together(2, work)


def test_an_optimiser_of_ones_own_stands_in_a_text() -> None:
    @dataclass(frozen=True)
    class Descent(Optimiser):
        """w <- w - lr g."""

        def over(
            self, parameters: Sequence[torch.Tensor], lr: float, betas: tuple[float, float], eps: float
        ) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=lr)

    OPTIMISERS.add("descent", Descent)
    try:
        made = method("relu_l1(l1=0.1) | descent(ema=0.5)")
        assert method(made.spec) == made
        result = fit(made, scene_source(), 32, CONFIG)
        torch.testing.assert_close(result.model.W_D.norm(dim=0), torch.ones(32))
        with pytest.raises(RefusedError, match="cannot go with a mesh"):
            together(2, lambda group: start_run(made, scene_source(), 32, CONFIG, group=group))
    finally:
        del OPTIMISERS._items["descent"]

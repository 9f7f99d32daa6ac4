"""What holds weights during training: hard and soft anchors, fixed and tied parameters, unit norms."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring
from monosem.base.schedule import Ramp
from monosem.core.activations import ReLU, TopK
from monosem.core.constraints import Fixed, Tied, UnitNorm
from monosem.core.model import SDL
from monosem.core.pairs import Crosscoder, TensorSource
from monosem.losses.fidelity import Reconstruction
from monosem.losses.resample import Resample
from monosem.losses.sparsity import L1
from monosem.methods import Method, method, with_anchoring
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from monosem.train.state import Run
from tests.train.scenes import anchors, rows

CONFIG = FitConfig(30, 16, 1e-2, log_every=1, dead_window=60)
K = 40  # enough anchors that renormalising some of them would move a bit


def source() -> TensorSource:
    return TensorSource(rows(75, 12), rows(75, 9, seed=1))


def transcoder(plan: Anchoring, name: str = "topk_transcoder(k=3)") -> Method:
    return with_anchoring(method(name), plan)


def watch(held: Anchors, wrong: list[str], sides: str) -> object:
    def look(run: Run, entry: dict[str, float]) -> None:
        if sides != "decoder" and not torch.equal(run.model.W_E[: held.k], held.p.T):
            wrong.append(f"encoder at {run.step}")
        if sides != "encoder" and not torch.equal(run.model.W_D[:, : held.k], held.r):
            wrong.append(f"decoder at {run.step}")

    return look


@pytest.mark.parametrize("resample", [None, Resample(every=4, begin=0.0, end=1.0, rows=60)])
@pytest.mark.parametrize("sides", ["both", "decoder", "encoder"])
@pytest.mark.parametrize("name", ["topk_transcoder(k=1)", "relu_l1_transcoder", "gated_transcoder"])
def test_hard_anchors_hold_to_the_bit(
    name: str, sides: Literal["both", "decoder", "encoder"], resample: Resample | None
) -> None:
    """Through unit norms, clipping and resampling, at every step; the rest of the dictionary moves."""
    held, wrong = anchors(K, 12, 9), []
    made = replace(transcoder(Anchoring(hard=True, sides=sides), name), resample=resample)
    config = replace(CONFIG, clip=1.0)
    result = fit(made, source(), 64, config, held, callbacks=[watch(held, wrong, sides)])
    assert wrong == []
    start, _ = made.build(64, (12,), (9,), (rows(75, 12), rows(75, 9, seed=1)), 0, held)
    assert bool((result.model.W_E[K:] != start.W_E[K:]).any(1).any())
    assert all(entry["loss/anchoring"] == 0 for entry in result.log)


def test_hard_anchors_of_a_crosscoder_hold_against_norms_per_source() -> None:
    held, wrong = anchors(K, 12, 12), []
    made = with_anchoring(
        Method(TopK(2), pairing=Crosscoder(), constraints=(UnitNorm(per="source"),)), Anchoring(hard=True, sides="both")
    )
    data = TensorSource(rows(75, 12), p_widths=(5, 7))
    fit(made, data, 64, CONFIG, held, callbacks=[watch(held, wrong, "both")])
    assert wrong == []


def _distance(model: SDL, held: Anchors) -> tuple[float, float]:
    k = held.k
    W_E, W_D = model.W_E.detach(), model.W_D.detach()
    return float((W_E[:k] - held.p.T).norm()), float((W_D[:, :k] - held.r).norm())


@pytest.mark.parametrize("form", ["printed", "direction"])
def test_soft_anchors_pull(form: Literal["printed", "direction"]) -> None:
    held, config = anchors(5, 12, 9), replace(CONFIG, steps=120, lr=2e-2)

    def cosines(weight: float) -> Tensor:
        made = transcoder(Anchoring(weight=weight, init=False, sides="both", form=form))
        model = fit(made, source(), 64, config, held).model
        e = torch.nn.functional.cosine_similarity(model.W_E[:5], held.p.T)
        return torch.cat([e, torch.nn.functional.cosine_similarity(model.W_D[:, :5].T, held.r.T)]).detach()

    assert float(cosines(10.0).min()) > 0.95
    assert float(cosines(0.0).max()) < 0.9


def test_the_logged_penalty_is_the_distance_times_its_ramp() -> None:
    """With one step's delay: the penalty of step t + 1 is that of the weights after step t."""
    held, after = anchors(5, 12, 9), []
    made = transcoder(Anchoring(weight=Ramp(2.0, 1.0), init=False, sides="both"))
    told = [lambda run, entry: after.append(sum(d**2 for d in _distance(run.model, held)))]
    log = fit(made, source(), 64, CONFIG, held, callbacks=told).log
    for t in range(1, 30):
        assert log[t]["loss/anchoring"] == pytest.approx((2 - t / 30) * after[t - 1], rel=1e-4)


def test_anchored_slots_start_at_the_anchors_only_where_asked() -> None:
    held = anchors(5, 12, 9)
    for init in (True, False):
        model, _ = transcoder(Anchoring(init=init)).build(64, (12,), (9,), anchors=held)
        assert (max(_distance(model, held)) < 1e-6) is init


@pytest.mark.parametrize("name", ["encoder", "decoder", "b_E", "b_D", "W_skip"])
def test_fixed_parameters_keep_their_bits_and_the_others_train(name: str) -> None:
    base = method("relu_l1_skip_transcoder(l1=0.1)")
    made = replace(base, constraints=(Fixed((name,)),))
    data = source()
    start, _ = made.build(24, (12,), (9,), data.take(torch.arange(75)), 0)
    model = fit(made, data, 24, CONFIG).model

    def parts(model: SDL) -> dict[str, Tensor]:
        assert model.W_skip is not None
        parts = {"encoder": model.W_E, "decoder": model.W_D, "b_E": model.b_E, "b_D": model.b_D, "W_skip": model.W_skip}
        return {name: part.detach() for name, part in parts.items()}

    same = {part: torch.equal(value, parts(start)[part]) for part, value in parts(model).items()}
    assert same == {part: part == name for part in same}


def test_tied_weights_stay_one_parameter_and_train_as_one() -> None:
    """Against autograd through one shared matrix, the first Adam step: its sign is that of the summed gradient."""
    x = rows(16, 6)
    made = Method(ReLU(), (Reconstruction(), L1(0.1)), constraints=(Tied(),))
    start, _ = made.build(9, (6,), (6,), (x, x))
    model = fit(made, TensorSource(x), 9, FitConfig(1, 16, 1e-3)).model
    assert torch.equal(model.W_E, model.W_D.T)
    w = start.W_E.detach().double().requires_grad_()
    code = (x.double() @ w.T).relu()
    loss = (code @ w - x.double()).pow(2).sum() / 16 + 0.1 * (code * w.norm(dim=1)).sum() / 16
    loss.backward()
    assert w.grad is not None
    moved = (model.W_E.detach() - start.W_E.detach()).double()
    torch.testing.assert_close(moved, -1e-3 * w.grad / (w.grad.abs() + 1e-8), rtol=1e-3, atol=1e-7)
    later = fit(made, TensorSource(x), 9, FitConfig(20, 16, 1e-2)).model
    assert torch.equal(later.W_E, later.W_D.T)


@pytest.mark.parametrize("per", ["latent", "source"])
def test_unit_norms_hold_after_every_step(per: Literal["latent", "source"]) -> None:
    far: list[float] = []

    def look(run: Run, entry: dict[str, float]) -> None:
        norms = run.model.decoder_norm() if per == "latent" else run.model.source_norms()
        far.append(float((norms - 1).abs().max().detach()))

    made = Method(TopK(2), pairing=Crosscoder(private=0.2 if per == "latent" else 0.0), constraints=(UnitNorm(per),))
    fit(made, TensorSource(rows(75, 12), p_widths=(5, 7)), 30, CONFIG, callbacks=[look])
    assert len(far) == 30
    assert max(far) < 1e-6

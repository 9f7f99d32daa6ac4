"""Criteria that need no truth: their numbers by hand, and the choices that they must get right."""

import pytest
import torch

from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.bench.metrics import recall_precision
from monosem.bench.tasks import TaskSource, task
from monosem.bench.tune import CRITERIA, Evidence, code_length, decoder_projection, tune
from monosem.core.pairs import TensorSource
from monosem.methods import method
from monosem.train.config import FitConfig


def _evidence(n_q: int = 6, rows: int = 40) -> Evidence:
    g = torch.Generator().manual_seed(0)
    model, _ = method("topk(k=2)").build(n_q, (5,), (5,), seed=1)
    x = torch.randn(rows, 5, generator=g)
    return Evidence(model.eval(), None, x, x, 100)


def test_the_projection_is_an_order_statistic_of_all_projections() -> None:
    e = _evidence()
    z = (e.x_r - e.model.b_D) @ torch.nn.functional.normalize(e.model.W_D, dim=0)
    wanted = z.detach().reshape(-1).sort(descending=True).values[40 * 6 // 2 - 1] / e.x_r.square().mean().sqrt()
    assert decoder_projection(e) == pytest.approx(float(wanted), rel=1e-6)


def test_the_length_prefers_the_truth_and_charges_for_latents_that_do_nothing() -> None:
    source = TaskSource(task("lrb/nano"))
    x, _ = source.take(torch.arange(500))

    def length(columns: torch.Tensor) -> float:
        model, _ = method("topk(k=3)").build(columns.shape[1], (16,), (16,))
        with torch.no_grad():
            model.decoder.weights[0].copy_(columns.T)
            model.encoder.weights[0].copy_(columns.T)
        return code_length(Evidence(model.eval(), None, x, x, 2000))

    truth = source.W_r
    noise = torch.nn.functional.normalize(torch.randn(16, 24, generator=torch.Generator().manual_seed(0)), dim=0)
    assert length(truth) < length(noise) - 3
    assert length(torch.cat([truth, 0.98 * truth + 0.2 * noise], 1)) > length(truth)


def test_what_a_small_world_rewards_is_chosen() -> None:
    source = TaskSource(task("lrb/nano"))
    seen: list[tuple[int, int]] = []
    tuned = tune(
        "topk",
        source,
        48,
        {"k": [6, 2]},
        FitConfig(steps=120, batch_size=64, lr=1e-2),
        criteria=tuple(CRITERIA),
        twins=True,
        on_trial=lambda done, of: seen.append((done, of)),
    )
    right = [recall_precision(trial.model.W_D.detach(), source.W_r)["precision"] for trial in tuned.trials]
    assert right[1] > right[0]
    assert tuned.best().settings == {"k": 2}
    assert tuned.best("agreement").settings == {"k": 2}
    assert tuned.best("fvu").settings == {"k": 6}  # the usual choice is the wrong one
    assert seen == [(1, 2), (2, 2)]
    assert set(tuned.table()[0]) == {"k", *CRITERIA}


def test_width_and_length_of_training_are_settings_too() -> None:
    rows = TensorSource(torch.randn(200, 6, generator=torch.Generator().manual_seed(0)))
    tuned = tune("topk(k=2)", rows, 8, {"n_q": [4, 8], "steps": [2, 3]}, FitConfig(batch_size=16))
    assert [trial.model.n_q for trial in tuned.trials] == [4, 4, 8, 8]
    assert [trial.settings["steps"] for trial in tuned.trials] == [2, 3, 2, 3]


def test_wrong_arguments_are_named() -> None:
    rows = TensorSource(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    config = FitConfig(steps=1, batch_size=8)
    with pytest.raises(ArgumentError, match="vary is empty"):
        tune("topk", rows, 8, {})
    with pytest.raises(ArgumentError, match="held_out=2"):
        tune("topk", rows, 8, {"k": [1]}, held_out=2)
    with pytest.raises(ArgumentError, match="topk takes k"):
        tune("topk", rows, 8, {"l1": [1.0]}, config)
    with pytest.raises(ArgumentError, match="twins=True"):
        tune("topk(k=1)", rows, 8, {"steps": [1]}, config, criteria=("agreement",))
    with pytest.raises(UnknownNameError, match="projection"):
        tune("topk(k=1)", rows, 8, {"steps": [1]}, config, criteria=("projektion",))
    with pytest.raises(ArgumentError, match="was not computed"):
        tune("topk(k=1)", rows, 8, {"steps": [1]}, config).best("agreement")

"""Chance, oracle and anchors alone: each against what it must be."""

import math

import pytest
import torch
from scipy.stats import beta

from monosem.base.errors import ShapeError
from monosem.bench.metrics import score
from monosem.bench.task_scores import anchors_alone, chance, oracle
from monosem.bench.tasks import TaskSource, task


def test_chance_is_the_expected_maximum_of_random_cosines() -> None:
    """cos^2 of a random direction is Beta(1/2, (d - 1)/2), so the mean of the best of n_q is known."""
    source = TaskSource(task("lrb/mini"))
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    below = torch.from_numpy(beta.cdf(grid.square().numpy(), 0.5, 95 / 2))
    expected = float(torch.trapezoid(1 - below**2000, grid))
    got = chance(source, features=source.task.scored())
    for kind in ("encoder_raw", "encoder_cosine", "decoder_cosine"):
        assert got[kind]["M_IP"] == pytest.approx(expected, abs=0.01)
        assert got[kind]["M_GT"]["0.95"] == 0.0


def test_chance_is_keyed_and_shaped_for_every_pairing() -> None:
    for pairing in ("sae", "transcoder", "crosscoder"):
        source = TaskSource(task("lrb/nano", pairing))
        assert chance(source, seed=1) == chance(source, seed=1) != chance(source, seed=2)
        assert chance(source)["encoder_cosine"] != chance(source)["decoder_cosine"]
        assert ("decoder_cosine_min" in chance(source)) == (pairing == "crosscoder")


@pytest.mark.parametrize("pairing", ["sae", "transcoder", "crosscoder"])
def test_the_oracle_codes_an_easy_world(pairing: str) -> None:
    got = oracle(TaskSource(task("lrb/mini", pairing)), rows=500)
    assert got["fvu"] < 1e-6
    assert got["l0"] == pytest.approx(got["true_l0"], abs=0.02)
    assert got["f1"] > 0.99
    assert got["solver"].startswith("nonnegative_omp(k=")


def test_a_starved_oracle_says_so() -> None:
    source = TaskSource(task("lrb/mini"))
    full, starved = oracle(source, rows=500), oracle(source, rows=500, k=1)
    assert starved["l0"] <= 1
    assert starved["recall"] < 0.8 < full["recall"]
    assert starved["precision"] > 0.95
    assert starved["fvu"] > 100 * full["fvu"]


@pytest.mark.parametrize("pairing", ["sae", "transcoder", "crosscoder"])
def test_anchors_alone_know_their_features_and_no_others(pairing: str) -> None:
    source = TaskSource(task("lrb/mini", pairing))
    k = source.task.anchors
    order = source.task.anchor_order()[:k]
    m = len(source.p_widths)
    got = anchors_alone(
        source, source.W_p[:, order] / math.sqrt(m), source.W_r[:, order], features=source.task.scored()
    )
    cosine = got["all"]["decoder_cosine"]
    assert cosine["M_GT"]["0.95"] == pytest.approx(k / 125)
    assert got["held_out"]["decoder_cosine"]["M_GT"]["0.95"] == 0.0
    assert got["held_out"]["decoder_cosine"]["M_IP"] < 0.5
    W_E, W_D = source.W_p[:, order].T, source.W_r[:, order]
    same = score(W_E, W_D, source.W_p, source.W_r, p_widths=source.p_widths, r_widths=source.r_widths)["decoder_cosine"]
    assert cosine == same


def test_anchors_of_the_wrong_width_are_named() -> None:
    source = TaskSource(task("lrb/nano"))
    with pytest.raises(ShapeError, match=r"\(n_p, n_r\) = \(16, 15\), the task \(16, 16\)"):
        anchors_alone(source, torch.ones(16, 2), torch.ones(15, 2), features=torch.arange(3))

"""Sets of anchors: exactly the noise and the errors that they name, on the sides they name."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.anchors.directions import Anchors, true_features
from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.bench.anchor_sets import ANCHOR_SETS, anchor_set, anchors_against_truth
from monosem.bench.tasks import TaskSource, task

NOWHERE = Path("/nonexistent")
SAE = TaskSource(task("lrb/nano", seed=3))
TRANSCODER = TaskSource(task("lrb/nano", "transcoder", seed=3))
FEATURES = torch.tensor([7, 0, 19, 4, 11, 23])


def _cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    left, right = a.double().numpy(), b.double().numpy()
    found: np.ndarray = (left * right).sum(0) / np.linalg.norm(left, axis=0) / np.linalg.norm(right, axis=0)
    return found


def test_true_anchors_are_the_columns_of_the_features_in_their_order() -> None:
    made = anchor_set("true", TRANSCODER, FEATURES, NOWHERE)
    np.testing.assert_allclose(_cosines(made.p, TRANSCODER.W_p[:, FEATURES]), 1.0, atol=1e-6)
    np.testing.assert_allclose(_cosines(made.r, TRANSCODER.W_r[:, FEATURES]), 1.0, atol=1e-6)


@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("source", [SAE, TRANSCODER])
def test_noisy_anchors_have_exactly_their_cosine(source: TaskSource, cosine: float) -> None:
    made = anchor_set(f"noisy(cosine={cosine})", source, FEATURES, NOWHERE)
    np.testing.assert_allclose(_cosines(made.p, source.W_p[:, FEATURES]), cosine, atol=1e-6)
    np.testing.assert_allclose(_cosines(made.r, source.W_r[:, FEATURES]), cosine, atol=1e-6)


def test_each_anchor_is_turned_its_own_way() -> None:
    made = anchor_set("noisy(cosine=0.5)", SAE, FEATURES, NOWHERE)
    away = made.p - 0.5 * SAE.W_p[:, FEATURES]
    between = (away.T @ away / 0.75).abs().fill_diagonal_(0.0)
    assert float(between.max()) < 0.95


@pytest.mark.parametrize("text", ["noisy(cosine=0.6)", "wrong(share=0.5)"])
def test_an_sae_has_the_same_noise_on_both_sides_and_a_transcoder_its_own(text: str) -> None:
    one, two = (anchor_set(text, source, FEATURES, NOWHERE) for source in (SAE, TRANSCODER))
    assert torch.equal(one.p, one.r)
    spoilt = np.abs(_cosines(two.p, TRANSCODER.W_p[:, FEATURES])) < 0.99
    assert (np.abs(_cosines(two.p, two.r))[spoilt] < 0.9).any()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.3, 2), (0.5, 3), (1.0, 6)])
@pytest.mark.parametrize("source", [SAE, TRANSCODER])
def test_wrong_anchors_replace_exactly_their_share(source: TaskSource, share: float, count: int) -> None:
    made = anchor_set(f"wrong(share={share})", source, FEATURES, NOWHERE)
    for found, true in ((made.p, source.W_p), (made.r, source.W_r)):
        right = _cosines(found, true[:, FEATURES]) > 0.999
        assert right.tolist() == [False] * count + [True] * (6 - count)


def test_noise_comes_from_the_worlds_seed() -> None:
    again = anchor_set("noisy", TaskSource(task("lrb/nano", seed=3)), FEATURES, NOWHERE)
    other = anchor_set("noisy", TaskSource(task("lrb/nano", seed=4)), FEATURES, NOWHERE)
    here = anchor_set("noisy(cosine=0.9)", SAE, FEATURES, NOWHERE)
    assert torch.equal(again.p, here.p)
    assert not torch.equal(other.p, here.p)


def test_suppressing_rows_are_the_least_squares_detectors_of_the_features() -> None:
    """Regression of x_d on x_p, by numpy on the same rows, has the same direction for independent features."""
    source = TaskSource(replace(task("lrb/nano", seed=3), world=replace(task("lrb/nano", seed=3).world, rows=8192)))
    made = anchor_set("suppressing", source, FEATURES, NOWHERE)
    truth = source.world.take(torch.arange(8192))
    x_p, x = truth.sources[0].double().numpy(), truth.features.dense().double().numpy()[:, FEATURES.numpy()]
    rows = np.linalg.lstsq(x_p - x_p.mean(0), x - x.mean(0), rcond=None)[0]
    assert _cosines(made.p, torch.from_numpy(rows)).min() > 0.95
    assert _cosines(made.p, SAE.W_p[:, FEATURES]).min() < 0.99  # not the features themselves
    assert torch.equal(made.r, true_features(source.W_p, source.W_r, FEATURES).r)


def test_learned_rows_hold_the_decoder_at_the_truth_only() -> None:
    made = anchor_set("learned(text='topk(k=3)', steps=30)", SAE, FEATURES, NOWHERE)
    np.testing.assert_allclose(_cosines(made.r, SAE.W_r[:, FEATURES]), 1.0, atol=1e-6)
    turned = _cosines(made.p, SAE.W_p[:, FEATURES])
    assert (turned < 0.999).all()
    assert (turned > 0.3).all()  # they started at the features


def test_a_set_that_is_unknown_and_an_argument_that_is() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'noisy'"):
        anchor_set("noise", SAE, FEATURES, NOWHERE)
    with pytest.raises(ArgumentError, match=re.escape("noisy takes cosine, not angle")):
        anchor_set("noisy(angle=0.5)", SAE, FEATURES, NOWHERE)
    with pytest.raises(ArgumentError, match="true takes no arguments, not share"):
        anchor_set("true(share=0.5)", SAE, FEATURES, NOWHERE)
    with pytest.raises(ArgumentError, match=re.escape("cosine = 1.5")):
        anchor_set("noisy(cosine=1.5)", SAE, FEATURES, NOWHERE)
    with pytest.raises(ArgumentError, match=re.escape("share = -0.1")):
        anchor_set("wrong(share=-0.1)", SAE, FEATURES, NOWHERE)


def test_every_set_takes_a_source_features_and_a_folder() -> None:
    assert set(ANCHOR_SETS) >= {"true", "noisy", "wrong", "suppressing", "learned", "discovered"}


def test_anchors_against_the_truth_by_hand() -> None:
    """Four anchors: feature 2, feature 2 again with the other sign, feature 5, and something far from all of them."""
    two, five = SAE.W_r[:, 2], SAE.W_r[:, 5]
    far = two - five
    assert float((SAE.W_r.T @ (far / far.norm())).abs().max()) < 0.95
    r = torch.stack([two, -two, five, far], 1)
    found = anchors_against_truth(Anchors(r, r), SAE)  # w and -w are two features: no warning
    assert found == {"count": 4.0, "precision": 2 / 4, "recall": 2 / 24}


def test_anchors_just_inside_and_just_outside_count_by_their_cosine() -> None:
    inside = anchors_against_truth(anchor_set("noisy(cosine=0.96)", SAE, FEATURES, NOWHERE), SAE)
    outside = anchors_against_truth(anchor_set("noisy(cosine=0.94)", SAE, FEATURES, NOWHERE), SAE)
    assert (inside["precision"], inside["recall"]) == (1.0, 6 / 24)
    assert outside["precision"] == 0.0

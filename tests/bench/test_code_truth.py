"""Codes against features: a ladder of corruptions, each of which must move the metric that is made for it."""

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError, ShapeError
from monosem.base.sparse import Positions, SparseCode
from monosem.bench.code_truth import CodeTruth, Matching, hedging, sparse_probe, stability, uniqueness
from monosem.bench.world import Independent, SparseFeatures, World, WorldSpec

WORLD = World(WorldSpec(24, (32,), 0.2, Independent(0.9), rows=2000, seed=3))
FEATURES, W = WORLD.rows(0, 2000).features, WORLD.W[0]
ALL = torch.arange(24)


def coded(z: Tensor) -> SparseCode:
    return SparseCode(Positions.from_mask(z != 0), z[z != 0])


def metrics(W_D: Tensor, z: Tensor, scored: Tensor = ALL, features: SparseFeatures = FEATURES) -> dict[str, object]:
    truth = CodeTruth(Matching.of(W_D, W))
    for start in range(0, z.shape[0], 500):
        part = torch.arange(start, min(start + 500, z.shape[0]))
        truth.add(coded(z[part]), features.take(part))
    return truth.metrics(scored)


def test_the_truth_scores_one_whatever_the_order_and_scale() -> None:
    x, order = FEATURES.dense(), torch.randperm(24, generator=torch.Generator().manual_seed(0))
    scores = metrics(3.0 * W[:, order], x[:, order] / 3.0)
    assert scores["f1"] == scores["precision"] == scores["recall"] == 1.0
    assert scores["missing"] == scores["splitting"] == 0.0
    assert scores["shrinkage"] == pytest.approx(1.0)
    assert uniqueness(W, W) == 1.0
    assert hedging(W, W) == pytest.approx(0.0, abs=1e-9)


def test_a_missing_feature_counts_as_zero() -> None:
    x = FEATURES.dense()
    scores = metrics(W[:, 6:], x[:, 6:])
    assert scores["missing"] == 0.25
    assert scores["f1"] == pytest.approx(0.75)
    assert metrics(W[:, 6:], x[:, 6:], torch.arange(6, 24))["f1"] == 1.0


def test_false_alarms_cost_precision_and_silence_costs_recall() -> None:
    x, rng = FEATURES.dense(), torch.Generator().manual_seed(1)
    noisy = x + (torch.rand(x.shape, generator=rng) < 0.1) * (x == 0)
    loud, quiet = metrics(W, noisy), metrics(W, x * (torch.rand(x.shape, generator=rng) < 0.5))
    assert loud["recall"] == 1.0
    assert loud["precision"] == pytest.approx(0.53, abs=0.03)
    assert quiet["precision"] == 1.0
    assert quiet["recall"] == pytest.approx(0.5, abs=0.03)
    assert metrics(W, 0.7 * x)["shrinkage"] == pytest.approx(0.7)


def test_a_feature_split_over_two_latents_is_seen() -> None:
    x = FEATURES.dense()
    first = torch.arange(2000)[:, None] % 2 == 0
    scores = metrics(torch.cat([W, W], 1), torch.cat([x * first, x * ~first], 1))
    assert scores["splitting"] == pytest.approx(0.45, abs=0.06)
    assert scores["recall"] == pytest.approx(0.5, abs=0.1)
    assert uniqueness(torch.cat([W, W], 1), W) == 0.5


def test_rare_features_that_are_lost_are_lost_in_the_last_bin() -> None:
    x = FEATURES.dense()
    rarest = (x != 0).sum(0).argsort()[:5]
    keep = torch.ones(24, dtype=torch.bool)
    keep[rarest] = False
    bins = metrics(W[:, keep], x[:, keep])["by_frequency"]
    assert isinstance(bins, dict)
    assert bins["bin0"]["f1"] == 1.0
    assert bins["bin4"]["f1"] == 0.0


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_hedging_grows_with_what_a_column_holds_of_others(share: float) -> None:
    mixed = torch.nn.functional.normalize(W + share * W.roll(1, 1), dim=0)
    assert hedging(mixed, W) == pytest.approx(share**2 / (1 + share**2), abs=0.02)
    assert hedging(torch.randn(32, 5, generator=torch.Generator().manual_seed(0)), W) == 0.0


def test_stability_is_signed_and_one_to_one() -> None:
    assert stability(W, W[:, torch.randperm(24)]) == pytest.approx(1.0)
    assert stability(W, -W) < 0.5
    assert stability(W[:, :1].expand(-1, 24), W) < 0.3


def test_a_label_that_one_latent_carries_is_probed_by_one() -> None:
    x = (FEATURES.dense() != 0).float()
    assert sparse_probe(x, x[:, 3] != 0, k=1)["f1"] > 0.99
    either = (x[:, 3] != 0) | (x[:, 5] != 0)
    assert sparse_probe(x, either, k=2)["f1"] > sparse_probe(x, either, k=1)["f1"] + 0.1
    with pytest.raises(ArgumentError, match="one class"):
        sparse_probe(x, torch.zeros(2000))
    with pytest.raises(ShapeError, match="labels"):
        sparse_probe(x, torch.zeros(3))


def test_no_latent_near_any_feature_scores_nothing() -> None:
    scores = metrics(torch.randn(32, 7, generator=torch.Generator().manual_seed(2)), torch.ones(2000, 7))
    assert scores["f1"] == scores["recall"] == scores["shrinkage"] == 0.0
    assert scores["missing"] == 1.0

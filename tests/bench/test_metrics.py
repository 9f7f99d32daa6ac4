"""Recovery metrics against brute force, and against planted dictionaries whose scores are known."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.bench.metrics import (
    DICTIONARY_METRICS,
    SIMILARITIES,
    TAUS,
    THRESHOLDS,
    Comparison,
    Products,
    Similarity,
    flatten,
    recovery,
    score,
)

COSINES = ("encoder_cosine", "decoder_cosine")


def orthonormal(width: int, n: int, seed: int = 0) -> torch.Tensor:
    """n orthonormal columns: the cosine to every other feature is exactly known."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, n, generator=generator, dtype=torch.float64))[0]


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotated(W: torch.Tensor, theta: float) -> torch.Tensor:
    """Every column turned by theta toward a direction orthogonal to all columns of its kind."""
    width, n = W.shape
    full = torch.linalg.qr(torch.cat([W, noise(width, width - n)], 1))[0]
    return math.cos(theta) * W + math.sin(theta) * full[:, n : n + 1]


def both(W: torch.Tensor, learned: torch.Tensor) -> dict[str, object]:
    return score(learned.T, learned, W, W)


# Brute force.


def test_every_similarity_equals_brute_force() -> None:
    W_E, W_D, W_p, W_r = noise(9, 6, seed=1), noise(5, 9, seed=2), noise(6, 4, seed=3) * 2, noise(5, 4, seed=4)
    got = score(W_E, W_D, W_p, W_r, chunk=4)
    unit = W_p / W_p.norm(dim=0)
    raw = [max(abs(float(W_E[j] @ unit[:, i])) for j in range(9)) for i in range(4)]
    encoder = np.abs(cosine_similarity(W_E.numpy(), W_p.T.numpy())).max(0)
    decoder = cosine_similarity(W_D.T.numpy(), W_r.T.numpy())
    expected = {"encoder_raw": raw, "encoder_cosine": encoder, "decoder_cosine": abs(decoder).max(0)}
    expected["decoder_signed"] = decoder.max(0)
    for kind, s in expected.items():
        assert got[kind]["M_IP"] == pytest.approx(np.mean(s), abs=1e-12)
        assert got[kind]["curve"] == [np.mean(np.asarray(s) > tau) for tau in TAUS]
        assert got[kind]["M_GT"] == {str(tau): np.mean(np.asarray(s) > tau) for tau in THRESHOLDS}


def test_matching_equals_the_best_of_all_permutations() -> None:
    W, learned = noise(6, 4, seed=5), noise(6, 5, seed=6)
    cosines = np.abs(cosine_similarity(W.T.numpy(), learned.T.numpy()))
    best = max(sum(cosines[i, p[i]] for i in range(4)) for p in itertools.permutations(range(5), 4))
    assert both(W, learned)["matched_mcc"] == pytest.approx({"all": best / 4, "pairs": best / 4})


def test_matching_counts_missing_features_as_zero() -> None:
    W = orthonormal(8, 6)
    assert both(W, W[:, :3])["matched_mcc"] == pytest.approx({"all": 0.5, "pairs": 1.0})


def test_sources_are_concatenated_or_the_least_is_taken() -> None:
    """Latent 0 knows feature 0 in source 0 alone; latent 1 knows feature 1 in both, with unequal norms."""
    one = orthonormal(4, 2, 1)
    two = orthonormal(3, 2, 2)
    W = torch.cat([one, two])
    learned = torch.zeros(7, 2, dtype=torch.float64)
    learned[:4, 0] = one[:, 0]
    learned[:4, 1], learned[4:, 1] = 3 * one[:, 1], 4 * two[:, 1]
    best = Comparison(learned.T, learned, W, W, p_widths=(4, 3), r_widths=(4, 3)).best
    joint, least = best["decoder_cosine"].similarity, best["decoder_cosine_min"].similarity
    torch.testing.assert_close(joint, torch.tensor([1 / math.sqrt(2), 7 / (5 * math.sqrt(2))], dtype=torch.float64))
    torch.testing.assert_close(least, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-7, rtol=0)
    assert "decoder_cosine_min" not in score(learned.T, learned, W, W)


@given(st.integers(1, 30))
def test_chunks_do_not_matter(chunk: int) -> None:
    W_E, W_D, W_p, W_r = noise(23, 6, seed=1), noise(5, 23, seed=2), noise(6, 4, seed=3), noise(5, 4, seed=4)
    whole, parts = (Comparison(W_E, W_D, W_p, W_r, chunk=c).best for c in (1000, chunk))
    for kind, best in whole.items():
        assert torch.equal(best.latent, parts[kind].latent)
        assert torch.equal(best.feature, parts[kind].feature)
        torch.testing.assert_close(best.similarity, parts[kind].similarity, atol=1e-14, rtol=0)


@pytest.mark.parametrize("chunk", [3, 100])
def test_of_equal_latents_the_first_is_named(chunk: int) -> None:
    W = orthonormal(8, 6).float()
    twice = torch.cat([W, W], 1)
    assert Comparison(twice.T, twice, W, W, chunk=chunk).best["decoder_cosine"].latent.tolist() == list(range(6))


# The planted-corruption ladder.


def test_the_truth_scores_one() -> None:
    W = orthonormal(12, 8)
    for kind in ("encoder_raw", *COSINES, "decoder_signed"):
        got = both(W, W)[kind]
        assert got["M_IP"] == pytest.approx(1.0)
        assert set(got["M_GT"].values()) == {1.0}
        assert got["area"] == pytest.approx(1.0)


@pytest.mark.parametrize("theta", [0.1, 0.3, 0.6, 1.2])
def test_rotation_gives_its_cosine(theta: float) -> None:
    W = orthonormal(12, 6)
    got = both(W, rotated(W, theta))
    for kind in (*COSINES, "decoder_signed"):
        assert got[kind]["M_IP"] == pytest.approx(math.cos(theta))
        assert got[kind]["area"] == pytest.approx(math.cos(theta))
        assert got[kind]["M_GT"]["0.95"] == float(math.cos(theta) > 0.95)
        assert got[kind]["curve"] == [float(math.cos(theta) > tau) for tau in TAUS]
    assert got["matched_mcc"]["all"] == pytest.approx(math.cos(theta))


def test_a_dropped_column_costs_its_feature() -> None:
    W = orthonormal(12, 8)
    got = both(W, W[:, :6])
    for kind in COSINES:
        assert got[kind]["M_GT"]["0.95"] == 0.75
        assert got[kind]["M_IP"] == pytest.approx(0.75)


def test_zero_columns_score_zero_and_never_nan() -> None:
    W = orthonormal(12, 8)
    dead = W.clone()
    dead[:, 6:] = 0.0
    got = both(W, dead)
    assert got == {**both(W, W[:, :6]), "matched_mcc": {"all": pytest.approx(0.75), "pairs": pytest.approx(0.75)}}
    nothing = flatten(both(W, torch.zeros(12, 5, dtype=torch.float64)))[0]
    assert set(nothing.values()) == {0.0}


def test_duplicates_are_counted_and_change_nothing_else() -> None:
    W = orthonormal(12, 8)
    near = rotated(W, 0.2)[:, :3]
    far = rotated(W, 0.5)[:, :3]
    plain, copied = both(W, W), both(W, torch.cat([W, near, near[:, :1], far], 1))
    assert plain["duplicates"] == {"count": 0, "per_feature": 0.0}
    assert copied["duplicates"] == {"count": 4, "per_feature": 0.5}
    assert copied["decoder_cosine"] == plain["decoder_cosine"]
    assert copied["matched_mcc"]["all"] == pytest.approx(1.0)


def test_one_latent_for_two_features_is_seen_by_matching_only() -> None:
    """Two features at cosine .98 and one latent at the first: best matches hide it, one-to-one matching does not."""
    W = torch.tensor([[1.0, 0.98], [0.0, math.sqrt(1 - 0.98**2)]], dtype=torch.float64)
    got = both(W, W[:, :1])
    assert got["decoder_cosine"]["M_GT"]["0.95"] == 1.0
    assert got["matched_mcc"]["all"] == pytest.approx(0.5)


def test_a_flipped_sign_costs_only_the_signed_similarity() -> None:
    W = orthonormal(12, 8)
    flipped = W.clone()
    flipped[:, :2] *= -1
    got = both(W, flipped)
    assert got["decoder_cosine"]["M_GT"]["0.95"] == 1.0
    assert got["decoder_signed"]["M_GT"]["0.95"] == 0.75
    assert got["decoder_signed"]["M_IP"] == pytest.approx(0.75)


@given(st.floats(0.01, 100.0))
def test_cosines_are_scale_free_and_the_raw_inner_product_is_not(scale: float) -> None:
    W = orthonormal(12, 8)
    learned = rotated(W, 0.3)
    plain, scaled = both(W, learned), both(W, scale * learned)
    for kind in (*COSINES, "decoder_signed"):
        assert scaled[kind]["M_IP"] == pytest.approx(plain[kind]["M_IP"])
    assert scaled["encoder_raw"]["M_IP"] == pytest.approx(scale * plain["encoder_raw"]["M_IP"])


def test_the_raw_inner_product_can_be_bought_with_norm() -> None:
    """Random rows that know nothing pass the printed metric once they are long enough."""
    W, random = orthonormal(12, 8), noise(12, 30)
    got = both(W, 50 * random)
    assert got["encoder_raw"]["M_GT"]["0.95"] == 1.0
    assert got["encoder_cosine"]["M_GT"]["0.95"] == 0.0


def test_permuting_latents_changes_nothing() -> None:
    W, learned = noise(7, 5, seed=2), noise(7, 9, seed=3)
    one, two = (flatten(both(W, part))[0] for part in (learned, learned[:, torch.randperm(9)]))
    assert one == pytest.approx(two)


# Which features are scored.


def test_only_the_features_asked_for_are_scored() -> None:
    W = orthonormal(12, 8)
    learned = torch.cat([W[:, :4], W[:, :4]], 1)
    assert score(learned.T, learned, W, W, features=torch.arange(4))["decoder_cosine"]["M_IP"] == pytest.approx(1.0)
    rest = score(learned.T, learned, W, W, features=torch.arange(4, 8))
    assert rest["decoder_cosine"]["M_IP"] == pytest.approx(0.0, abs=1e-12)
    assert rest["duplicates"]["count"] == 0
    assert rest["matched_mcc"]["all"] == pytest.approx(0.0, abs=1e-12)


# Contracts over the registries.


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_every_similarity_has_its_shape_and_survives_zeros(kind: str) -> None:
    by_source = noise(2, 5, 3).clone()
    norms = noise(2, 5, seed=2).abs() + 3
    by_source[:, 0], norms[:, 0] = 0.0, 0.0
    value = SIMILARITIES[kind].value(Products(by_source, norms))
    assert value.shape == (5, 3)
    assert value.isfinite().all()
    assert (value[0] == 0).all()


@pytest.mark.parametrize("name", DICTIONARY_METRICS)
def test_every_dictionary_metric_is_plain_and_ignores_the_order_of_features(name: str) -> None:
    W, learned = noise(7, 5, seed=2), noise(7, 9, seed=3)
    order = torch.tensor([3, 0, 4, 1, 2])
    one, two = (DICTIONARY_METRICS[name](Comparison(learned.T, learned, V, V)) for V in (W, W[:, order]))
    assert one == pytest.approx(two)
    assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_a_new_similarity_is_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {**SIMILARITIES, "decoder_squared": Similarity("decoder", lambda p: p.joint_cosine.square())}
    monkeypatch.setattr("monosem.bench.metrics.SIMILARITIES", kinds)
    W = orthonormal(12, 6)
    assert both(W, rotated(W, 0.3))["decoder_squared"]["M_IP"] == pytest.approx(math.cos(0.3) ** 2)


@given(st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=20))
def test_area_is_the_integral_of_the_curve(values: list[float]) -> None:
    s = torch.tensor(values, dtype=torch.float64)
    fine = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    integral = float((s[:, None] > fine).double().mean())
    assert recovery(s)["area"] == pytest.approx(integral, abs=1e-4)


def test_scores_are_json_and_flatten_by_name() -> None:
    W = orthonormal(12, 6)
    got = both(W, rotated(W, 0.3))
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    numbers, curves = flatten(got)
    assert numbers["decoder_cosine.M_GT@0.95"] == got["decoder_cosine"]["M_GT"]["0.95"]
    assert numbers["matched_mcc.all"] == got["matched_mcc"]["all"]
    assert curves["encoder_raw"] == got["encoder_raw"]["curve"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_scored_in_float64(dtype: torch.dtype) -> None:
    W = orthonormal(12, 8)
    got = both(W, W.to(dtype))
    assert got["decoder_cosine"]["M_IP"] == pytest.approx(1.0, abs=1e-6 if dtype == torch.float32 else 1e-4)


def test_bad_input_is_named() -> None:
    W = orthonormal(12, 8)
    with pytest.raises(ShapeError, match="n_q = 7 in W_E but 8 in W_D"):
        Comparison(W.T[:7], W, W, W)
    with pytest.raises(ShapeError, match="n_p = 12 in W_E but 11 in W_p"):
        Comparison(W.T, W, W[:11], W)
    with pytest.raises(ShapeError, match="n_p = 12 in W_E but 13 in p_widths"):
        Comparison(W.T, W, W, W, p_widths=(6, 7))
    with pytest.raises(DataError, match="W_D holds NaN"):
        Comparison(W.T, W * math.nan, W, W)
    with pytest.raises(DataError, match="direction is zero"):
        _ = Comparison(W.T, W, W * 0, W).best
    for features in (torch.tensor([8]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ArgumentError, match="from 0 to 7"):
            Comparison(W.T, W, W, W, features=features)

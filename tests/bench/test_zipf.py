"""Zipf's law: rates as stated with and without the cap, who fires with whom, and the same bits in any chunking."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.base.errors import ArgumentError
from monosem.bench.laws import HALVES, Zipf
from monosem.bench.tasks import TASKS
from monosem.bench.world import BLOCK, World, WorldSpec
from tests.bench.rows import assert_rows_agree

LAW = Zipf(exponent=1.0, mean_rate=0.1, max_rate=0.3, c_min=0.5, beta=0.5)
N = 20
SPEC = WorldSpec(n=N, widths=(10,), max_interference=0.8, law=LAW, seed=3)


def features(law: Zipf, rows: int = 20 * BLOCK) -> np.ndarray:
    return World(replace(SPEC, law=law)).rows(0, rows, sources=()).features.dense().double().numpy()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mean", [0.01, 0.1, 0.299, 0.3])
def test_rates_fall_as_a_power_below_the_cap_and_their_mean_holds(exponent: float, mean: float) -> None:
    rates = replace(LAW, exponent=exponent, mean_rate=mean).rates(1000)
    assert abs(rates.mean() - mean) < 1e-12
    assert rates.max() <= 0.3
    free = rates < 0.3
    assert (free.argmax() if free.any() else 1000) == (~free).sum()  # the capped ones come first
    products = rates[free] * (np.flatnonzero(free) + 1.0) ** exponent
    np.testing.assert_allclose(products, products[0] if products.size else 0.0, rtol=1e-10)


def test_without_a_binding_cap_the_rates_are_the_textbook_ones() -> None:
    rank = np.arange(1, 101)
    np.testing.assert_allclose(Zipf().rates(100), 0.01 * 100 * (1 / rank) / (1 / rank).sum(), rtol=1e-12)


@pytest.mark.parametrize("law", [LAW, replace(LAW, exponent=2.0, mean_rate=0.05), replace(LAW, exponent=0.0)])
def test_counts_agree_with_the_rates(law: Zipf) -> None:
    fired, rates = features(law) > 0, law.rates(N)
    error = np.sqrt(rates * (1 - rates) / len(fired))
    assert (np.abs(fired.mean(0) - rates) <= 5 * error).all()


def test_features_and_rows_are_independent() -> None:
    fired, rates = features(LAW) > 0, LAW.rates(N)
    z = (fired - rates) / np.sqrt(rates * (1 - rates))
    for other in (z, np.roll(z, 1, axis=0)):
        between = z.T @ other / len(z)
        apart = np.abs(between[~np.eye(N, dtype=bool)] if other is z else between)
        assert apart.max() <= 5 / np.sqrt(len(z))


def test_sizes_are_shifted_exponentials() -> None:
    x = features(LAW)
    e = (x[x > 0] - 0.5) / 0.5
    assert e.min() >= 0
    for power, mean, variance in ((1, 1, 1), (2, 2, 20)):
        assert abs((e**power).mean() - mean) <= 5 * np.sqrt(variance / e.size)


@pytest.mark.parametrize("rows", [None, 2500])
@given(data=st.data())
def test_any_chunking_and_order_gives_the_same_bits(rows: int | None, data: st.DataObject) -> None:
    assert_rows_agree(replace(SPEC, rows=rows), data)


def test_positions_rise_and_fill_the_block() -> None:
    cells, values = LAW.draw(np.random.default_rng(0), BLOCK, N)
    assert cells.dtype == np.int64
    assert (np.diff(cells) > 0).all()
    assert 0 <= cells[0] < 2 * N
    assert BLOCK * N - 2 * N <= cells[-1] < BLOCK * N
    assert cells.shape == values.shape


def test_halves_part_the_features_and_can_be_anchored() -> None:
    parts = {name: np.flatnonzero(LAW.group(name, 5)).tolist() for name in HALVES}
    assert parts == {"frequent": [0, 1], "rare": [2, 3, 4]}
    assert LAW.group("all", 5).all()
    base = TASKS["lrb/nano"]
    job = replace(base, world=replace(base.world, law=LAW))
    frequent, rare = (job.anchored(12, name) for name in HALVES)
    assert int(frequent.max()) < 12 <= int(rare.min())
    assert sorted([*frequent.tolist(), *rare.tolist()]) == sorted(job.anchor_order()[:12].tolist())


def test_bad_laws_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"exponent = -1"):
        Zipf(exponent=-1.0)
    with pytest.raises(ArgumentError, match=r"max_rate = 1\.0"):
        Zipf(max_rate=1.0)
    with pytest.raises(ArgumentError, match=r"mean_rate = 0\.6 must lie in \(0, max_rate = 0\.5\]"):
        Zipf(mean_rate=0.6)
    with pytest.raises(ArgumentError, match=r"c_min = -1"):
        Zipf(c_min=-1.0)
    with pytest.raises(ArgumentError, match=r"beta = 0"):
        Zipf(beta=0.0)
    with pytest.raises(ArgumentError, match="no 'parents' among its features; ask for all, frequent, rare"):
        LAW.group("parents", N)

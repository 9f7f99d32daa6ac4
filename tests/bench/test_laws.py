"""Hierarchies: who fires with whom, at which rates, in which order, and the same bits however rows are asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.base.errors import ArgumentError
from monosem.bench.laws import GROUPS, Hierarchy
from monosem.bench.world import BLOCK, Independent, World, WorldSpec
from monosem.theory.hierarchy import hierarchical
from tests.bench.rows import assert_rows_agree

LAW = Hierarchy((2, 1, 4), sparsity=0.9, c_min=0.5, beta=0.5)
N = 14  # 3 parents, 7 children, 4 free
SPEC = WorldSpec(n=N, widths=(10,), max_interference=0.5, law=LAW, seed=2)


def features(law: Hierarchy, rows: int = 20 * BLOCK) -> np.ndarray:
    return World(replace(SPEC, law=law)).rows(0, rows, sources=()).features.dense().double().numpy()


@pytest.mark.parametrize("alone", [0.0, 0.3])
def test_a_child_never_fires_without_its_parent(alone: float) -> None:
    fired = features(replace(LAW, alone=alone)) > 0
    for child, parent in enumerate([0, 0, 1, 2, 2, 2, 2]):
        assert fired[fired[:, 3 + child], parent].all()
    lonely = [fired[:, p] & ~fired[:, list(c)].any(1) for p, c in ((0, (3, 4)), (1, (5,)), (2, (6, 7, 8, 9)))]
    assert [bool(one.any()) for one in lonely] == [alone > 0] * 3  # definition 3.2 with alone = 0


@pytest.mark.parametrize(("sparsity", "alone"), [(0.9, 0.0), (0.98, 0.1), (0.5, 0.5), (0.0, 0.0)])
def test_rates_are_those_stated(sparsity: float, alone: float) -> None:
    law = replace(LAW, sparsity=sparsity, alone=alone)
    rates, fired = law.rates(N), features(law) > 0
    silent = [sparsity**k * (1 - alone) for k in (2, 1, 4)] + [sparsity] * 11
    np.testing.assert_allclose(1 - rates, silent, rtol=1e-12)
    error = np.sqrt(rates * (1 - rates) / len(fired))
    assert (np.abs(fired.mean(0) - rates) <= 5 * error).all()


def test_children_and_free_features_are_independent() -> None:
    fired = features(LAW)[:, 3:] > 0
    z = (fired - 0.1) / np.sqrt(0.09)
    between = (z.T @ z / len(z))[~np.eye(11, dtype=bool)]
    assert np.abs(between).max() <= 5 / np.sqrt(len(z))


def test_sizes_are_shifted_exponentials_of_each_features_own() -> None:
    x = features(LAW)
    for columns in (slice(0, 3), slice(3, 10), slice(10, N)):
        e = (x[:, columns][x[:, columns] > 0] - 0.5) / 0.5
        assert e.min() >= 0
        for power, mean, variance in ((1, 1, 1), (2, 2, 20)):
            assert abs((e**power).mean() - mean) <= 5 * np.sqrt(variance / e.size)
    both = (x[:, 0] > 0) & (x[:, 3] > 0)
    assert abs(np.corrcoef(x[both, 0], x[both, 3])[0, 1]) <= 5 / np.sqrt(both.sum())


def test_the_law_is_that_of_the_theory() -> None:
    """Pr of every feature, and of every pair, against the exact law's finitely many supports."""
    exact = hierarchical((2, 1, 4), 0.1, free=1)
    fired = (features(LAW)[:, :11] > 0).astype(float)
    supports, chance = exact.supports.double().numpy(), exact.chance.numpy()
    pairs = supports.T @ (chance[:, None] * supports)
    error = np.sqrt(pairs * (1 - pairs) / len(fired))
    assert (np.abs(fired.T @ fired / len(fired) - pairs) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("rows", [None, 2500])
@given(data=st.data())
def test_any_chunking_and_order_gives_the_same_bits(rows: int | None, data: st.DataObject) -> None:
    assert_rows_agree(replace(SPEC, rows=rows), data)


def test_columns_rise_within_a_row() -> None:
    truth = World(SPEC).rows(0, 3 * BLOCK, sources=()).features
    cells = torch.repeat_interleave(torch.arange(len(truth)), truth.l0) * N + truth.col
    assert bool((cells.diff() > 0).all())


def test_families_are_anchored_as_a_whole() -> None:
    order = LAW.anchor_order(np.random.default_rng(0), N).tolist()
    assert sorted(order) == list(range(N))
    families = [[0, 3, 4], [1, 5], [2, 6, 7, 8, 9]]
    while order[:10] and order[0] < 3:
        family = families[order[0]]
        assert order[: len(family)] == family
        order = order[len(family) :]
    assert set(order) == {10, 11, 12, 13}
    seeds = {tuple(LAW.anchor_order(np.random.default_rng(seed), N)) for seed in range(5)}
    assert len(seeds) > 1


def test_groups_part_the_features() -> None:
    parts = {name: np.flatnonzero(LAW.group(name, N)).tolist() for name in GROUPS}
    assert parts == {"parents": [0, 1, 2], "children": list(range(3, 10)), "free": [10, 11, 12, 13]}
    assert LAW.group("all", N).all()
    assert Independent().group("all", 3).all()


def test_bad_hierarchies_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"families = \(2, 0\)"):
        Hierarchy((2, 0))
    with pytest.raises(ArgumentError, match=r"families = \(\)"):
        Hierarchy(())
    with pytest.raises(ArgumentError, match=r"alone = 1\.0"):
        Hierarchy((2,), alone=1.0)
    with pytest.raises(ArgumentError, match=r"sparsity S = 1\.0"):
        Hierarchy((2,), sparsity=1.0)
    with pytest.raises(ArgumentError, match=r"are 10 features but the world has n = 9"):
        World(replace(SPEC, n=9)).rows(0, 1)
    with pytest.raises(ArgumentError, match="no 'breeds' among its features; ask for all, parents, children, free"):
        LAW.group("breeds", N)
    with pytest.raises(ArgumentError, match="Independent has no 'parents'"):
        Independent().group("parents", 3)

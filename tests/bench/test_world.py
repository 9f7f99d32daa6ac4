"""Worlds: the law of the features, the same bits however rows are asked for, and honest digests."""

import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.base.errors import ArgumentError, DataError
from monosem.bench.world import BLOCK, FeatureLaw, Independent, Truth, World, WorldSpec

STREAM = WorldSpec(n=30, widths=(20, 12), max_interference=0.3, law=Independent(0.9), seed=3)
FIXED = replace(STREAM, rows=2500)


def bits(truth: Truth) -> list[bytes]:
    parts = [truth.features.crow, truth.features.col, truth.features.value, *truth.sources]
    return [part.numpy().tobytes() for part in parts]


# The law. Each statement is a moment with a known standard error; 5 of them leave 1 in 1.7 million to chance.


def big(law: Independent, rows: int = 20 * BLOCK) -> tuple[np.ndarray, np.ndarray]:
    world = World(WorldSpec(n=40, widths=(30,), max_interference=0.5, law=law, seed=1))
    x = world.rows(0, rows, sources=()).features.dense().double().numpy()
    return x, x > 0


@pytest.mark.parametrize("sparsity", [0.99, 0.9, 0.5, 0.0])
def test_firing_rate_of_every_feature(sparsity: float) -> None:
    _, fired = big(Independent(sparsity))
    rate, rows = 1 - sparsity, len(fired)
    error = np.sqrt(rate * sparsity / rows)
    assert np.abs(fired.mean(0) - rate).max() <= 5 * error
    assert abs(fired.mean() - rate) <= 5 * error / np.sqrt(40)


def test_firing_is_independent_between_features_and_rows() -> None:
    _, fired = big(Independent(0.9))
    z = (fired - 0.1) / np.sqrt(0.09)
    rows = len(z)
    between = (z.T @ z / rows)[~np.eye(40, dtype=bool)]
    after = (z[1:] * z[:-1]).mean(0)
    neighbours = (z[:, 1:] * z[:, :-1]).mean()
    assert np.abs(between).max() <= 5.5 / np.sqrt(rows)
    assert np.abs(after).max() <= 5 / np.sqrt(rows - 1)
    assert abs(neighbours) <= 5 / np.sqrt(rows * 39)


def test_l0_has_the_binomial_variance() -> None:
    _, fired = big(Independent(0.9))
    l0 = fired.sum(1)
    variance = 40 * 0.1 * 0.9
    assert l0.var() == pytest.approx(variance, abs=5 * variance * np.sqrt((2 + 1 / variance) / len(l0)))


@pytest.mark.parametrize(("c_min", "beta"), [(0.0, 1.0), (0.5, 2.0)])
def test_magnitudes_are_shifted_exponentials_of_scale_beta(c_min: float, beta: float) -> None:
    x, fired = big(Independent(0.9, c_min, beta))
    e = (x[fired] - c_min) / beta
    count = e.size
    assert x[fired].min() >= c_min
    # Var(e^m) = (2m)! - m!^2; the median is log 2, with standard error 1 / sqrt(count)
    for power, mean, variance in ((1, 1, 1), (2, 2, 20), (3, 6, 684)):
        assert np.abs((e**power).mean() - mean) <= 5 * np.sqrt(variance / count)
    assert np.abs(np.median(e) - np.log(2)) <= 5 / np.sqrt(count)


def test_magnitude_does_not_depend_on_who_fires() -> None:
    x, fired = big(Independent(0.9))
    alone = fired.sum(1) <= 3
    many = fired.sum(1) >= 5
    a, b = x[alone][fired[alone]], x[many][fired[many]]
    assert abs(a.mean() - b.mean()) <= 5 * np.sqrt(1 / a.size + 1 / b.size)


# The same bits.


def test_representation_is_W_x() -> None:
    world = World(STREAM)
    truth = world.rows(100, 300)
    x = truth.features.dense().double()
    for W, source in zip(world.W, truth.sources, strict=True):
        torch.testing.assert_close(source.double(), x @ W.double().T, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("spec", [STREAM, FIXED], ids=["stream", "fixed"])
@given(data=st.data())
def test_any_chunking_and_order_gives_the_same_bits(spec: WorldSpec, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, 2499), min_size=1, max_size=30)))
    taken = World(spec).take(index)
    alone = [World(spec).rows(int(i), int(i) + 1) for i in index[:5]]
    for place, row in enumerate(alone):
        assert torch.equal(taken.features.dense()[place], row.features.dense()[0])
        assert all(torch.equal(a[place], b[0]) for a, b in zip(taken.sources, row.sources, strict=True))


def test_fixed_rows_are_the_first_of_the_stream() -> None:
    assert bits(World(FIXED).rows(900, 2500)) == bits(World(STREAM).rows(900, 2500))


def test_chunks_of_rows_join_to_the_whole() -> None:
    world = World(STREAM)
    whole = world.rows(0, 3000).sources[0]
    for size in (1, 7, 512, 1500):
        edges = [*range(0, 3000, size), 3000] if size > 1 else [0, 1, 1024, 1025, 3000]
        parts = [world.rows(a, b).sources[0] for a, b in pairwise(edges)]
        assert torch.equal(torch.cat(parts), whole)


def test_bits_do_not_depend_on_threads() -> None:
    spec = replace(STREAM, n=300, widths=(256,), law=Independent(0.95))
    one = bits(World(spec).rows(0, 4096))
    torch.set_num_threads(2)
    try:
        two = bits(World(spec).rows(0, 4096))
    finally:
        torch.set_num_threads(1)
    assert one == two


def test_another_process_with_other_threads_has_the_same_digest() -> None:
    program = (
        "import torch; torch.set_num_threads(2)\n"
        "from monosem.bench.world import *\n"
        f"print(World({FIXED!r}).data_digest(rows=2000))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=_environment())
    assert done.stdout.strip() == World(FIXED).data_digest(rows=2000), done.stderr


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    import monosem.bench.world as module

    return {**os.environ, "PYTHONPATH": str(Path(str(module.__file__)).parents[2])}


def test_held_out_rows_are_others_and_chunk_alike() -> None:
    world = World(FIXED)
    held = world.held_out(3000)
    assert torch.equal(held.sources[1][1000:2100], world.held_out(1100, start=1000).sources[1])
    train = {row.numpy().tobytes() for row in world.rows(0, 2500).features.dense() if bool(row.any())}
    assert not any(row.numpy().tobytes() in train for row in held.features.dense() if bool(row.any()))


def test_only_the_sources_asked_for() -> None:
    truth = World(STREAM).rows(0, 4, sources=(1,))
    assert [s.shape for s in truth.sources] == [(4, 12)]
    assert torch.equal(truth.sources[0], World(STREAM).rows(0, 4).sources[1])


def test_empty_rows() -> None:
    for spec in (STREAM, FIXED):
        assert World(spec).rows(5, 5).sources[0].shape == (0, 20)
    assert World(STREAM).held_out(0).sources[0].shape == (0, 20)


# Digests and specifications.


def test_digests_tell_worlds_apart() -> None:
    changes = [{"seed": 4}, {"law": Independent(0.91)}, {"n": 31}, {"max_interference": 0.29}]
    worlds = [STREAM, *(replace(STREAM, **change) for change in changes)]
    assert len({spec.digest for spec in worlds}) == len(worlds)
    assert len({World(spec).data_digest() for spec in worlds}) == len(worlds)
    assert len({World(spec).data_digest(rows=0) for spec in (STREAM, worlds[-1])}) == 2  # the directions count
    assert World(STREAM).data_digest(rows=2000) != World(STREAM).data_digest(rows=1000)
    assert World(STREAM).data_digest(sources=(0,)) != World(STREAM).data_digest(sources=(1,))


def test_realised_interference_keeps_the_cap() -> None:
    assert all(value <= 0.3 for value in World(STREAM).realised_interference)
    assert not torch.equal(World(STREAM).W[0][:12], World(STREAM).W[1])


@dataclass(frozen=True)
class EveryThird(FeatureLaw):
    """A law from elsewhere: cells 0, 3, 6 ... fire with value 2."""

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        cells = np.arange(0, rows * n, 3)
        return cells, np.full(cells.size, 2.0)


def test_a_new_law_needs_nothing_else() -> None:
    x = World(replace(STREAM, law=EveryThird())).rows(0, 2).features.dense()
    assert x.flatten().tolist() == [2.0, 0.0, 0.0] * 20


def test_bad_specifications_and_rows_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"sparsity S = 1\.0"):
        Independent(1.0)
    with pytest.raises(ArgumentError, match=r"beta = 0\.0"):
        Independent(beta=0.0)
    with pytest.raises(ArgumentError, match="widths"):
        WorldSpec(3, ())
    with pytest.raises(ArgumentError, match="rows = 0"):
        WorldSpec(3, (2,), rows=0)
    with pytest.raises(DataError, match=r"2400 to 2500 .* 2500 rows"):
        World(FIXED).rows(2400, 2501)
    with pytest.raises(DataError, match=r"-1 to 3 .* endless"):
        World(STREAM).rows(-1, 4)
    with pytest.raises(ArgumentError, match="source 2 of 2"):
        World(STREAM).directions(2)

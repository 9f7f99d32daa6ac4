"""Discovery: true directions from rows alone, in pairs, whatever their scale; and what it refuses."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.anchors.directions import load_anchors
from monosem.base.errors import DataError, ShapeError
from monosem.bench.laws import Zipf
from monosem.bench.metrics import recall_precision
from monosem.bench.world import Independent, Truth, World, WorldSpec
from monosem.dictionary.climb import Settings
from monosem.dictionary.discover import Discovery, discover, ordinary_rows
from tests.cli.calls import call

QUICK = Settings(
    starts=150, climb_rows=1500, stages=((2000, 0.3), (3000, 0.1)), rounds=4, short=9, passes=10, tries=0, skew_tries=0
)
WORLD = World(WorldSpec(32, (28, 20), 0.35, Independent(0.95), rows=3000, seed=1))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return WORLD.rows(0, 1500)


@pytest.fixture(scope="module")
def found(truth: Truth) -> Discovery:
    return discover(*truth.sources, settings=QUICK)


def test_finds_the_true_directions_and_little_else(found: Discovery, truth: Truth) -> None:
    scores = recall_precision(found.anchors.p, WORLD.W[0])
    assert scores["recall"] > 0.9
    assert scores["precision"] > 0.9
    assert found.l0 == pytest.approx(float(truth.features.l0.float().mean()), rel=0.1)


def test_pairs_point_to_the_same_feature(found: Discovery) -> None:
    p = (found.anchors.p.T @ WORLD.W[0]).max(1)
    r = (found.anchors.r.T @ WORLD.W[1]).max(1)
    right = p.values > 0.95
    assert bool((p.indices == r.indices)[right].all())
    assert float(r.values[right].min()) > 0.95


def test_the_most_confident_come_first(found: Discovery) -> None:
    assert bool((found.confidence.diff() <= 0).all())
    assert 0.0 <= float(found.confidence.min()) <= float(found.confidence.max()) <= 1.0
    assert float(found.rates.median()) == pytest.approx(0.05, rel=0.2)


def test_the_same_rows_give_the_same_bits_and_a_scale_changes_nothing() -> None:
    rows = WORLD.rows(0, 1000, (0,)).sources[0]
    quick = Settings(short=8, passes=8, tries=0)
    once, again, scaled = (discover(x, settings=quick) for x in (rows, rows, 1024.0 * rows))
    assert torch.equal(once.anchors.p, again.anchors.p)
    assert torch.allclose(once.anchors.p, scaled.anchors.p, atol=1e-4)


def test_rows_in_which_nothing_fires_say_nothing_about_company() -> None:
    world = World(WorldSpec(16, (32,), 0.35, Independent(0.9), rows=1500, seed=1))
    truth = world.rows(0, 1500)
    assert float((truth.features.l0 == 0).float().mean()) > 0.1
    found = discover(truth.sources[0], settings=QUICK)
    scores = recall_precision(found.anchors.p, world.W[0])
    assert (scores["recall"], scores["precision"]) == (1.0, 1.0)
    assert found.l0 == pytest.approx(float(truth.features.l0.float().mean()), rel=0.1)


def test_the_sources_of_a_crosscoder_lie_side_by_side_and_stay_pairs() -> None:
    world = World(WorldSpec(24, (40, 40), 0.35, Independent(0.92), rows=1500, seed=6))
    found = discover(torch.cat(world.rows(0, 1500).sources, 1), settings=QUICK)
    halves = found.anchors.p.split(40)
    nearest = [(half.T @ W).max(1).indices for half, W in zip(halves, world.W, strict=True)]
    assert torch.equal(*nearest)
    assert sorted(nearest[0].tolist()) == list(range(24))


@pytest.mark.parametrize(
    ("x_p", "x_r", "error", "text"),
    [
        (torch.zeros(1, 3), None, ShapeError, "two rows"),
        (torch.ones(9, 3), None, DataError, "the same"),
        (torch.full((9, 3), torch.nan), None, DataError, "NaN"),
        (torch.eye(9), torch.ones(8, 2), ShapeError, "pair the rows"),
    ],
)
def test_bad_rows_are_refused(x_p: torch.Tensor, x_r: torch.Tensor | None, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        discover(x_p, x_r)


def test_too_few_rows_are_refused_and_not_a_crash() -> None:
    with pytest.raises(DataError, match="give more rows"):
        discover(torch.eye(6).repeat(3, 1) + 1.0, settings=QUICK)


def test_the_command_writes_anchors_that_load(tmp_path: Path) -> None:
    rows = torch.eye(6).repeat(100, 1) * (1.0 + torch.arange(600)[:, None] % 7)
    np.save(tmp_path / "x.npy", rows.numpy())
    out = tmp_path / "a.safetensors"
    ran = call("anchors", "discover", "--data", str(tmp_path / "x.npy"), "--out", str(out), "--number", "5")
    assert "directions" in ran.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_anchors(out).k == 5


def test_the_command_leaves_out_rows_that_hold_nearly_all_of_the_energy(tmp_path: Path) -> None:
    rows = torch.eye(6).repeat(100, 1) * (1.0 + torch.arange(600)[:, None] % 7)
    rows[::150] = 3000.0 * torch.tensor([1.0, -1, 1, -1, 1, -1])
    np.save(tmp_path / "x.npy", rows.numpy())
    out = tmp_path / "a.safetensors"
    ran = call("anchors", "discover", "--data", tmp_path / "x.npy", "--out", out)
    assert "4 of 600 rows have more than 10 times" in ran.stderr
    assert "0.0% of the median row" in ran.stderr
    assert load_anchors(out).k == 6
    wrong = call("anchors", "discover", "--data", tmp_path / "x.npy", "--out", out, "--within", "0.5")
    assert wrong.exit_code != 0
    assert "--within 0.5" in wrong.stderr


@given(st.integers(0, 50), st.floats(0.01, 100.0))
@settings(max_examples=20, deadline=None)
def test_ordinary_rows_do_not_depend_on_scale_or_offset(seed: int, scale: float) -> None:
    x = torch.randn(80, 5, generator=torch.Generator().manual_seed(seed)).double()
    x[7] += 500.0
    assert (~ordinary_rows(x)).nonzero().flatten().tolist() == [7]
    assert torch.equal(ordinary_rows(x), ordinary_rows(scale * x + 3.0))
    assert bool(ordinary_rows(torch.ones(5, 2)).all())


@pytest.mark.slow
def test_rare_features_of_a_heavy_tail_are_found() -> None:
    world = World(WorldSpec(120, (90,), 0.25, Zipf(1.0, mean_rate=0.02), rows=20_000, seed=2))
    found = discover(world.rows(0, 20_000).sources[0])
    scores = recall_precision(found.anchors.p, world.W[0])
    assert scores["recall"] >= 0.9
    assert scores["precision"] >= 0.9

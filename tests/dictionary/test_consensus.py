"""Consensus of discoveries: the order of the runs, spurious atoms, pairs, signs, one run; and the whole on rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.anchors.directions import Anchors, load_anchors
from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.base.files import read_json
from monosem.bench.metrics import recall_precision
from monosem.bench.world import Independent, World, WorldSpec
from monosem.dictionary.climb import Settings
from monosem.dictionary.consensus import consensus, discover_often, levelled
from monosem.dictionary.discover import Discovery
from tests.cli.calls import call

QUICK = Settings(starts=100, climb_rows=1500, stages=((1500, 0.2),), rounds=5, short=8, passes=8, tries=0, skew_tries=0)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run_of(p: Tensor, r: Tensor, seed: int = 0, confidence: Tensor | None = None) -> Discovery:
    """A discovery of given pairs, with random rates and, unless given, random confidence."""
    k = p.shape[1]
    uniform = torch.rand(2, k, generator=torch.Generator().manual_seed(seed))
    trust = uniform[0] if confidence is None else confidence
    by = trust.argsort(descending=True)
    anchors = Anchors(p[:, by], r[:, by])
    log = [{"atoms": k}]
    return Discovery(anchors, trust[by], uniform[1], float(uniform[1].sum()), random(p.shape[0], seed=seed), log)


def noisy_runs(count: int, seed: int) -> tuple[list[Discovery], Tensor, Tensor]:
    """Runs that see the same 12 pairs in another order, each a little wrong; every run also lacks some."""
    P, R = random(30, 12, seed=seed), random(20, 12, seed=seed + 1)
    runs = []
    for i in range(count):
        seen = torch.randperm(12, generator=torch.Generator().manual_seed(seed + i))[: 9 + i % 3]
        near = 0.15 * random(30, seen.numel(), seed=seed + 10 + i)
        runs.append(run_of(P[:, seen] + near, R[:, seen], seed=seed + i))
    return runs, torch.nn.functional.normalize(P, dim=0), torch.nn.functional.normalize(R, dim=0)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 5), st.sampled_from([0.0, 0.6, 1.0]))
def test_the_order_of_the_runs_changes_no_bit(order: list[int], seed: int, share: float) -> None:
    runs, _, _ = noisy_runs(4, seed)
    one, other = consensus(runs, share=share), consensus([runs[i] for i in order], share=share)
    for name in ("confidence", "rates", "offset"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.anchors.p, other.anchors.p)
    assert torch.equal(one.anchors.r, other.anchors.r)
    assert one.l0 == other.l0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 20))
def test_atoms_are_counted_as_the_runs_that_found_them(seed: int) -> None:
    runs, P, _ = noisy_runs(3, seed)
    times = torch.stack([(run.anchors.p.T @ P).abs().amax(0) > 0.9 for run in runs]).sum(0)
    for share, least in ((0.0, 1), (1 / 3, 1), (0.6, 2), (1.0, 3)):
        found = consensus(runs, share=share)
        assert found.anchors.k == int((times >= least).sum())
        assert recall_precision(found.anchors.p, P, 0.9)["found"] == found.anchors.k


def test_an_atom_of_one_run_only_disappears_and_the_mean_is_nearer_the_truth() -> None:
    P = torch.eye(40)[:, :6]
    exact = [run_of(P + 0.04 * random(40, 6, seed=i), P, confidence=torch.ones(6)) for i in range(5)]
    spurious = torch.cat([exact[0].anchors.p, torch.eye(40)[:, 30:31]], 1)
    runs = [run_of(spurious, spurious, confidence=torch.ones(7)), *exact[1:]]
    found = consensus(runs)
    assert found.anchors.k == 6
    assert float((found.anchors.p.T @ P).amax(0).min()) > max(
        float((run.anchors.p.T @ P).amax(0).min()) for run in exact
    )
    everything = consensus(runs, share=0.0)
    assert everything.anchors.k == 7
    assert float(everything.confidence[-1]) == pytest.approx(0.2)  # one run of five, which was sure


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 20))
def test_pairs_stay_pairs_and_their_signs_go_together(seed: int) -> None:
    runs, P, R = noisy_runs(3, seed)
    flipped = runs[1].anchors
    runs[1] = run_of(-flipped.p, -flipped.r, confidence=0.0 * runs[1].confidence)
    found = consensus(runs, share=0.6)
    nearest = (found.anchors.p.T @ P).abs().argmax(1)
    cosine = (found.anchors.r.T @ R).gather(1, nearest[:, None])[:, 0]
    assert float(cosine.abs().min()) > 0.99  # the same feature, seen exactly on this side
    assert bool((cosine.sign() == (found.anchors.p.T @ P).gather(1, nearest[:, None])[:, 0].sign()).all())


def test_two_atoms_of_a_run_are_never_joined() -> None:
    d = torch.eye(5)
    near = torch.nn.functional.normalize(d[:, :1] + 0.3 * d[:, 1:2], dim=0)  # cosine .958 with the first
    runs = [run_of(d[:, :1], d[:, :1]), run_of(torch.cat([near, d[:, 2:3]], 1), torch.cat([near, d[:, 2:3]], 1))]
    assert consensus(runs, share=0.0).anchors.k == 2
    crowd = torch.nn.functional.normalize(d[:, :1] - 0.3 * d[:, 1:2], dim=0)
    both = torch.cat([near, crowd], 1)
    assert consensus([runs[0], run_of(both, both)], share=0.0).anchors.k == 2  # one of them found a partner
    assert consensus([runs[0], run_of(both, both)], share=1.0).anchors.k == 1


def test_one_run_is_itself() -> None:
    runs, _, _ = noisy_runs(1, 3)
    assert consensus(runs, share=1.0) is runs[0]


@pytest.mark.parametrize(
    ("runs", "share", "error", "text"),
    [
        ([], 0.6, DataError, "one discovery or more"),
        ([run_of(torch.eye(3), torch.eye(3))], 1.5, ArgumentError, r"share = 1\.5"),
        ([run_of(torch.eye(3), torch.eye(3)), run_of(torch.eye(4), torch.eye(4))], 0.6, ShapeError, r"\(4, 4\)"),
        (
            [run_of(torch.eye(4)[:, :1], torch.eye(4)[:, :1]), run_of(torch.eye(4)[:, 1:2], torch.eye(4)[:, 1:2])],
            1.0,
            DataError,
            "no direction is in a share 1.0 of 2 runs",
        ),
    ],
)
def test_what_cannot_agree_is_refused(runs: list[Discovery], share: float, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        consensus(runs, share=share)


def test_levels_scale_every_residual() -> None:
    changed = levelled(Settings(), 2.0)
    assert [tol for _, tol in changed.stages] == [2 * tol for _, tol in Settings().stages]
    assert changed.last == (0.2, 0.1)
    assert levelled(Settings(), 1.0) == Settings()


def test_often_finds_the_pairs_and_says_what_they_leave_over() -> None:
    world = World(WorldSpec(40, (32, 24), 0.35, Independent(0.95), rows=1500, seed=4))
    x_p, x_r = world.rows(0, 1500).sources
    shares: list[float] = []
    found = discover_often(x_p, x_r, settings=QUICK, progress=lambda share, text: shares.append(share))
    scores = recall_precision(found.anchors.p, world.W[0])
    assert scores["precision"] > 0.9
    assert scores["recall"] > 0.8
    p, r = (found.anchors.p.T @ world.W[0]).max(1), (found.anchors.r.T @ world.W[1]).max(1)
    assert bool((p.indices == r.indices)[p.values > 0.95].all())
    assert shares == sorted(shares)
    assert max(shares) < 1.0
    assert found.log[-1]["atoms"] == found.anchors.k
    assert 0.0 < found.log[-1]["fvu"] < 0.5


def test_the_command_runs_several_times_and_says_so(tmp_path: Path) -> None:
    rows = torch.eye(6).repeat(100, 1) * (1.0 + torch.arange(600)[:, None] % 7)
    np.save(tmp_path / "x.npy", rows.numpy())
    out = tmp_path / "a.safetensors"
    ran = call("anchors", "discover", "--data", tmp_path / "x.npy", "--out", out, "--runs", "2")
    assert "in 60% or more of 2 runs" in ran.stderr
    assert load_anchors(out).k == 6
    assert read_json(out.with_suffix(".json"))["runs"] == 2
    wrong = call("anchors", "discover", "--data", tmp_path / "x.npy", "--out", out, "--runs", "0")
    assert wrong.exit_code != 0
    assert "--runs 0" in wrong.stderr

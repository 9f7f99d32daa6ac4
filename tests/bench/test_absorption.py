"""Absorption on dictionaries made by hand, against a loop over rows, and in the records of a bench."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.base.errors import ArgumentError, DataError
from monosem.base.sparse import DenseCode, Positions, SparseCode
from monosem.bench.absorption import CARRIES, Families, absorption
from monosem.bench.laws import Hierarchy
from monosem.bench.metrics import TAUS, flatten
from monosem.bench.records import read_record
from monosem.bench.run import Job, job_record_name, run_job
from monosem.bench.tasks import Task, TaskSource, task
from monosem.bench.world import SparseFeatures, World, WorldSpec
from monosem.train.config import FitConfig

LAW = Hierarchy((3, 2), sparsity=0.8)
N = 8  # two parents, children 2 3 4 and 5 6, one free
WORLD = World(WorldSpec(N, (12,), 0.3, LAW, seed=4))
SKEW = WORLD.W[0].double()
W = torch.linalg.qr(SKEW)[0]  # orthonormal: what a column holds is exactly known
TRUTH = WORLD.rows(0, 3000, sources=()).features
X = TRUTH.dense().double()
ALL = torch.arange(N)
MIX = [W[:, 0] + W[:, c] for c in (2, 3, 4)]


def measured(columns: list[torch.Tensor], z: torch.Tensor, features: torch.Tensor = ALL) -> dict[str, dict[str, float]]:
    families = Families.of(torch.stack(columns, 1), W, LAW)
    return absorption(families, [(DenseCode(z), TRUTH)], features)


def only(parent: int) -> torch.Tensor:
    """Features of one family, so that "hierarchy" holds that family alone."""
    return torch.tensor([parent])


def test_the_true_dictionary_is_perfect() -> None:
    found = measured(list(W.T), X)["hierarchy"]
    assert found["curve"] == [0.0] * len(TAUS)
    del found["curve"]
    wanted = {"recall": 1, "absorbed": 0, "missed": 0, "precision": 1, "merged": 0}
    assert found == pytest.approx(wanted | {"parent_cosine": 1, "child_cosine": 1})


def test_one_child_that_takes_the_parent_absorbs_its_rows() -> None:
    """Figure 5: a latent of child 2 carries parent 0, whose own latent is silent wherever that child is present."""
    z = X.clone()
    z[:, 0] *= X[:, 2] == 0
    columns = [MIX[0] if f == 2 else W[:, f] for f in range(N)]
    found = measured(columns, z, only(0))["hierarchy"]
    lost = float(((X[:, 0] > 0) & (X[:, 2] > 0)).sum() / (X[:, 0] > 0).sum())
    assert found["absorbed"] == pytest.approx(lost)
    assert found["recall"] == pytest.approx(1 - lost)
    assert (found["missed"], found["precision"], found["merged"]) == pytest.approx((0, 1, 1 / 3))
    other = measured(columns, z, only(0))["hierarchy_set_aside"]
    assert (other["recall"], other["absorbed"]) == (1, 0)


def test_silence_without_a_carrier_is_missed_not_absorbed() -> None:
    z = X.clone()
    z[:, 0] *= X[:, 2] == 0  # silent there, but child 2's latent is pure
    found = measured(list(W.T), z, only(0))["hierarchy"]
    assert (found["absorbed"], found["merged"]) == (0, 0)
    assert found["missed"] == pytest.approx(1 - found["recall"])
    assert found["missed"] > 0.1


def test_a_carrier_of_an_absent_child_does_not_count() -> None:
    z = torch.zeros(len(X), N)
    z[:, 2] = X[:, 0] * (X[:, 2] == 0)  # the latent of parent + child 2 fires only where child 2 is absent
    found = measured([MIX[0] if f == 2 else W[:, f] for f in range(N)], z, only(0))["hierarchy"]
    assert found["absorbed"] == 0


def test_total_absorption_has_no_latent_of_the_parent() -> None:
    """Every child merged with its parent: whichever of them lies nearest to the parent stands for it."""
    columns = [W[:, 7], W[:, 1], *MIX, W[:, 5], W[:, 6], W[:, 7]]
    z = X.clone()
    z[:, 0] = 0
    found = measured(columns, z, only(0))["hierarchy"]
    families = Families.of(torch.stack(columns, 1), W, LAW)
    child = int(families.parent[0])
    assert child in (2, 3, 4)
    assert found["merged"] == 1
    assert found["missed"] == 0
    assert found["recall"] == pytest.approx(float((X[:, child] > 0).sum() / (X[:, 0] > 0).sum()))
    assert found["parent_cosine"] == pytest.approx(float(W[:, 0] @ MIX[child - 2] / MIX[child - 2].norm()))


def test_a_dead_parent_is_missed() -> None:
    z = X.clone()
    z[:, 0] = 0
    found = measured(list(W.T), z, only(0))["hierarchy"]
    assert (found["recall"], found["absorbed"], found["missed"]) == (0, 0, 1)
    assert math.isnan(found["precision"])


def test_a_zero_dictionary_stands_for_nothing() -> None:
    found = measured([torch.zeros(12, dtype=torch.float64)] * 3, torch.zeros(len(X), 3))["hierarchy"]
    assert (found["recall"], found["missed"], found["merged"], found["parent_cosine"]) == (0, 1, 0, 0)


def test_scale_of_columns_and_directions_does_not_matter() -> None:
    families = [
        Families.of(a * torch.stack(MIX, 1), b * W, LAW) for a, b in ((1, 1), (8, 0.25))
    ]  # rounds alike, as a tie needs
    assert torch.allclose(families[0].carried, families[1].carried)
    assert float(families[0].carried[0, 0]) == pytest.approx(0.5**0.5)


def test_coordinates_are_those_of_least_squares() -> None:
    """In directions that are not orthogonal; -1 where a feature outside the family lies nearer than the child."""
    columns = torch.randn(12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns[:, :8] = SKEW @ (torch.eye(8, dtype=torch.float64) + 0.5)
    found = Families.of(columns, SKEW, LAW).carried.numpy()
    unit, true = (columns / columns.norm(dim=0)).numpy(), (SKEW / SKEW.norm(dim=0)).numpy()
    family = np.array([0, 1, 0, 0, 0, 1, 1, 2])
    counted = 0
    for c, p in enumerate([0, 0, 0, 1, 1]):
        wanted = np.linalg.lstsq(true[:, [p, 2 + c]], unit, rcond=None)[0].min(0)
        own = true[:, 2 + c] @ unit >= (true[:, family != p].T @ unit).max(0)
        np.testing.assert_allclose(found[own, c], wanted[own], atol=1e-9)
        assert (found[~own, c] == -1).all()
        counted += int(own.sum())
    assert 0 < counted < found.size


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_equals_a_loop_over_rows(seed: int, n_q: int, sparse: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(N, n_q, generator=generator, dtype=torch.float64).pow(4)
    columns = W @ mix
    z = (torch.rand(200, n_q, generator=generator) * 2 - 1).clamp(min=0)
    rows = TRUTH.take(torch.arange(200))
    families = Families.of(columns, W, LAW)
    parts = [slice(0, 90), slice(90, 200)]

    def code(at: slice) -> DenseCode | SparseCode:
        return SparseCode(Positions.from_mask(z[at] > 0), z[at][z[at] > 0]) if sparse else DenseCode(z[at])

    got = absorption(families, [(code(p), rows.take(torch.arange(200)[p])) for p in parts], ALL)["hierarchy"]
    x = rows.dense()
    children = {0: (2, 3, 4), 1: (5, 6)}
    shares = []
    for p, family in children.items():
        j = int((columns / columns.norm(dim=0)).T.mv(W[:, p]).argmax())
        at = [r for r in range(200) if x[r, p] > 0]
        lost = [
            any(
                z[r, i] > 0 and x[r, c] > 0 and float(families.carried[i, c - 2]) > CARRIES
                for i in range(n_q)
                for c in family
            )
            for r in at
            if z[r, j] == 0
        ]
        shares.append((sum(lost) / len(at), 1 - len(lost) / len(at)))
    absorbed, recall = np.mean(shares, axis=0)
    assert (got["absorbed"], got["recall"]) == pytest.approx((absorbed, recall))
    assert got["recall"] + got["absorbed"] + got["missed"] == pytest.approx(1)
    assert got["curve"] == sorted(got["curve"], reverse=True)  # type: ignore[type-var]
    assert got["curve"][TAUS.index(CARRIES)] == pytest.approx(got["absorbed"])  # type: ignore[index]


def test_a_parent_that_never_occurs_is_an_error() -> None:
    families = Families.of(W, W, LAW)
    empty = SparseFeatures(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), N)
    with pytest.raises(DataError, match="2 of 2 parents are present in no row"):
        absorption(families, [(DenseCode(torch.zeros(2, N)), empty)], ALL)


# In the bench.

CONFIG = FitConfig(10, 64, 1e-2, log_every=5, threads=1)
JOB = Job("lrb/hierarchy", "topk(k=3)", 1, CONFIG, held_out=25)
ARMS = [JOB, *(replace(JOB, anchors=25, among=group) for group in ("all", "parents", "children"))]


def test_the_task_anchors_whole_families() -> None:
    one = task("lrb/hierarchy", seed=3)
    law = one.world.law
    assert isinstance(law, Hierarchy)
    parents, children = one.anchored(25, "parents"), one.anchored(25, "children")
    assert (parents.numel(), children.numel()) == (5, 20)
    assert set(one.anchored(25).tolist()) == {*parents.tolist(), *children.tolist()}
    assert set(law.parent_of[children.numpy() - law.parents].tolist()) == set(parents.tolist())
    assert set(one.scored(25).tolist()).isdisjoint(one.anchored(25).tolist())
    with pytest.raises(ArgumentError, match="none of the first k = 1 features are children"):
        one.anchored(1, "children")
    with pytest.raises(ArgumentError, match="Independent has no 'parents'"):
        task("lrb/nano").anchored(4, "parents")


def test_records_hold_absorption_of_both_kinds_of_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosem.bench.task_scores.EVAL_ROWS", 1024)
    record = read_record(run_job(ARMS[2], tmp_path))
    assert (record["anchors"]["kind"], record["anchors"]["k"]) == ("true_parents", 5)
    assert [path.name for path in tmp_path.iterdir()] == [job_record_name(ARMS[2])]
    for group in ("hierarchy", "hierarchy_set_aside"):
        shares = [record["metrics"][f"{group}.{name}"]["value"] for name in ("recall", "absorbed", "missed")]
        assert sum(shares) == pytest.approx(1)
        assert len(record["curves"][group]) == len(TAUS)


def test_every_arm_has_a_name_of_its_own() -> None:
    names = [job_record_name(job) for job in ARMS]
    assert len(set(names)) == len(ARMS)
    assert [name.split("-w1-")[0].split("topk-")[1] for name in names] == ["plain", "k25", "k5", "k20"]
    assert [job.title.split("  ")[1] for job in ARMS] == ["plain", "anchored", "parents anchored", "children anchored"]


def test_a_world_without_hierarchy_has_no_such_metric(tmp_path: Path) -> None:
    record = read_record(run_job(Job("lrb/nano", "topk(k=3)", 0, CONFIG, held_out=4), tmp_path))
    assert not any(name.startswith("hierarchy") for name in record["metrics"])


def test_numbers_flatten_to_the_names_of_the_page() -> None:
    numbers, curves = flatten(measured(list(W.T), X, only(0)))
    names = {"recall", "absorbed", "missed", "precision", "merged", "parent_cosine", "child_cosine"}
    assert set(numbers) == {f"{group}.{name}" for group in ("hierarchy", "hierarchy_set_aside") for name in names}
    assert set(curves) == {"hierarchy", "hierarchy_set_aside"}
    assert isinstance(TaskSource(task("lrb/hierarchy")).task, Task)

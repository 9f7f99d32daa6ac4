"""Tasks: frozen numbers, what a pairing reads and writes, and features held out by the world's seed alone."""

from dataclasses import replace

import pytest
import torch

from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.bench.tasks import SIDES, TASKS, TaskSource, task
from monosem.core.pairs import Source


@pytest.mark.parametrize("pairing", SIDES)
def test_a_source_reads_and_writes_what_its_pairing_says(pairing: str) -> None:
    source = TaskSource(task("lrb/nano", pairing))
    index = torch.tensor([5, 0, 5])
    x_p, x_r = source.take(index)
    world = source.world.take(index)
    assert torch.equal(x_p, torch.cat([world.sources[s] for s in SIDES[pairing][0]], 1))
    assert torch.equal(x_r, torch.cat([world.sources[s] for s in SIDES[pairing][1]], 1))
    x = world.features.dense()
    torch.testing.assert_close(x_p, x @ source.W_p.T)
    torch.testing.assert_close(x_r, x @ source.W_r.T)
    assert (sum(source.p_widths), sum(source.r_widths)) == (x_p.shape[1], x_r.shape[1])
    assert isinstance(source, Source)


def test_all_pairings_share_the_features_and_the_first_source() -> None:
    rows = torch.arange(50)
    sae, transcoder, crosscoder = (TaskSource(task("lrb/nano", pairing)) for pairing in SIDES)
    x_p = sae.take(rows)[0]
    assert torch.equal(transcoder.take(rows)[0], x_p)
    assert torch.equal(crosscoder.take(rows)[0][:, :16], x_p)
    assert not torch.equal(transcoder.take(rows)[1], x_p)
    assert len({source.digest for source in (sae, transcoder)}) == 2


def test_an_sae_never_builds_the_second_source() -> None:
    source = TaskSource(task("lrb/nano"))
    assert len(source.held_out(10).sources) == 1
    assert source.pair(source.held_out(10))[0].shape == (10, 16)


@pytest.mark.parametrize("name", TASKS)
def test_scored_features_are_all_but_the_first_k_of_the_order(name: str) -> None:
    one = task(name)
    order, n = one.anchor_order(), one.world.n
    assert sorted(order.tolist()) == list(range(n))
    for k in (0, 1, one.anchors, n - 1):
        scored = set(one.scored(k).tolist())
        assert scored == set(order.tolist()) - set(order[:k].tolist())
        assert len(scored) == n - k
    assert torch.equal(one.scored(), one.scored(one.anchors))


def test_the_order_depends_on_the_worlds_seed_and_nothing_else() -> None:
    one = task("lrb/mini", seed=4)
    for other in (task("lrb/mini", "crosscoder", 4), replace(one, n_q=7, anchors=3)):
        assert torch.equal(one.anchor_order(), other.anchor_order())
    assert not torch.equal(one.anchor_order(), task("lrb/mini", seed=5).anchor_order())


def test_digests_tell_every_task_apart() -> None:
    tasks = [task(name, pairing, seed) for name in TASKS for pairing in SIDES for seed in (0, 1)]
    assert len({one.digest for one in tasks}) == len(tasks)


def test_the_papers_task_has_the_papers_numbers() -> None:
    paper = task("lrb/paper")
    assert (paper.world.n, paper.world.widths, paper.n_q, paper.world.rows) == (1000, (768, 768), 16000, 100_000)
    assert paper.world.max_interference == 0.1
    assert paper.world.law.sparsity == 0.99  # type: ignore[attr-defined]
    mini = task("lrb/mini")
    assert (mini.world.n, mini.world.widths, mini.n_q) == (125, (96, 96), 2000)


@pytest.mark.parametrize("name", ["lrb/nano", "lrb/mini", "lrb/mini-hard"])
def test_worlds_keep_their_cap_for_other_seeds(name: str) -> None:
    for seed in (11, 12):
        one = task(name, seed=seed)
        assert TaskSource(one).world.directions(0).interference <= one.world.max_interference


def test_bad_tasks_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lrb/mini'"):
        task("lrb/mni")
    with pytest.raises(ArgumentError, match="pairing 'sea'"):
        task("lrb/mini", "sea")
    with pytest.raises(ArgumentError, match="k = 24 anchors of n = 24"):
        task("lrb/nano").scored(24)
    with pytest.raises(ArgumentError, match="leave none to score"):
        replace(task("lrb/nano"), anchors=24)

"""Rankings against brute-force sorting, and what TopK and BatchTopK do over a run."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import ArgumentError
from monosem.base.selection import Above
from monosem.base.sparse import Positions
from monosem.core.activations import AbsTopK, BatchTopK, Context, GroupMax, TopK
from monosem.core.model import SDL
from monosem.core.pairs import SAE
from monosem.kernels.ops import pick
from tests.core.sigma import parameters, selected, sigma

TRAIN, INFER = Context(True), Context(False)


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    """Small matrices with few distinct values: ties, negatives and zeros are common."""
    rows, n_q = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    cells = draw(st.lists(st.integers(-3, 4), min_size=rows * n_q, max_size=rows * n_q))
    return torch.tensor(cells, dtype=torch.float32).view(rows, n_q) / 2


def mask_of(rule: selection.Rule, score: Tensor) -> Tensor:
    chosen = pick(rule, score)
    return chosen.mask() if isinstance(chosen, Positions) else chosen


def best(row: Tensor, k: int) -> list[float]:
    return np.sort(row.numpy())[::-1][:k].tolist()


@given(scores(), st.integers(1, 9))
def test_top_k_takes_the_largest(score: Tensor, k: int) -> None:
    mask = mask_of(selection.TopK(k), score)
    for row, chosen in zip(score, mask, strict=True):
        assert sorted(row[chosen].tolist(), reverse=True) == best(row, k)


@given(scores(), st.integers(1, 9), st.data())
def test_top_k_among_some_latents(score: Tensor, k: int, data: st.DataObject) -> None:
    n_q = score.shape[1]
    among = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n_q, max_size=n_q)), dtype=torch.bool)
    mask = mask_of(selection.TopK(k, among), score)
    assert not bool(mask[:, ~among].any())
    for row, chosen in zip(score, mask, strict=True):
        assert sorted(row[chosen].tolist(), reverse=True) == best(row[among], k)


@given(scores(), st.integers(0, 50))
def test_the_most_of_a_batch_takes_the_largest_positive_ones(score: Tensor, count: int) -> None:
    chosen = score[mask_of(Above(0.0, most=count), score)]
    assert sorted(chosen.tolist(), reverse=True) == [v for v in best(score.reshape(-1), count) if v > 0]


@pytest.mark.parametrize("count", [1, 40, 2000, 30000, 74000, 80000, 200000])
@pytest.mark.parametrize("trap", ["large ones all sampled", "large ones never sampled", "ties at the floor", "plain"])
def test_a_sample_that_misleads_changes_nothing(trap: str, count: int) -> None:
    """More than 65536 cells: the floor comes from every second cell, and here those are not like the others."""
    generator = torch.Generator().manual_seed(count)
    flat = torch.randn(150_000, generator=generator)
    if trap == "large ones all sampled":
        flat[::2] += 5.0
    elif trap == "large ones never sampled":
        flat[1::2] += 5.0
    elif trap == "ties at the floor":
        flat = (flat * 2).round()
    picked = pick(Above(0.0, most=count), flat.view(300, 500))
    assert isinstance(picked, Positions)
    wanted = np.sort(flat.numpy())[::-1][:count]
    np.testing.assert_array_equal(np.sort(flat.view(300, 500)[picked.mask()].numpy())[::-1], wanted[wanted > 0])
    assert bool((picked.crow.diff() >= 0).all())


def test_top_k_of_relu() -> None:
    z = torch.tensor([[0.5, -1.0, 2.0, -3.0], [-0.1, -0.2, -0.3, 0.1]])
    assert sigma(TopK(2), z, {}, TRAIN).tolist() == [[0.5, 0, 2.0, 0], [0, 0, 0, pytest.approx(0.1)]]
    assert sigma(AbsTopK(2), z, {}, TRAIN).tolist() == [
        [0, 0, 2.0, -3.0],
        [0, pytest.approx(-0.2), pytest.approx(-0.3), 0],
    ]


@pytest.mark.parametrize("activation", [TopK(3, rank_by_norm=True), AbsTopK(3, rank_by_norm=True)])
def test_ranking_by_norm_ranks_what_is_written(activation: TopK) -> None:
    z = torch.randn(20, 8, dtype=torch.float64)
    table = parameters(activation, 8)
    ranked = (z.abs() if isinstance(activation, AbsTopK) else z) * table["decoder_norm"]
    wanted = np.argsort(-ranked.numpy(), axis=1)[:, :3]
    mask = selected(activation, z, table, TRAIN)
    assert [sorted(row) for row in wanted.tolist()] == [row.nonzero().squeeze(1).tolist() for row in mask]


@given(scores(), st.integers(1, 4))
def test_group_max_takes_one_of_each_group(score: Tensor, groups: int) -> None:
    z = score.repeat(1, groups)  # n_q is a multiple of the groups
    mask = selected(GroupMax(groups), z, {}, TRAIN)
    size = z.shape[1] // groups
    for row, chosen in zip(z, mask, strict=True):
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            assert row[part][chosen[part]].tolist() == [float(row[part].max())]


def test_group_max_says_what_does_not_divide() -> None:
    with pytest.raises(ArgumentError, match="n_q=10 latents do not split into k=4 equal groups"):
        SDL(SAE().layout(10, (3,), (3,)), GroupMax(4))(torch.randn(2, 3))


def test_k_falls_linearly_and_ends() -> None:
    annealed = TopK(2, k_start=10, anneal=0.5)
    assert [annealed.k_at(Context(True, step, 16)) for step in (0, 2, 4, 8, 12)] == [10, 8, 6, 2, 2]
    assert annealed.k_at(Context(False, 0, 16)) == 2
    assert TopK(3).k_at(Context(True, 0, 10)) == 3
    z = torch.rand(4, 12)
    for step, k in ((0, 10), (5, 5), (8, 2)):
        assert selected(annealed, z, {}, Context(True, step, 16)).sum(1).tolist() == [k] * 4
    assert selected(annealed, z, {}, INFER).sum(1).tolist() == [2] * 4
    batch = BatchTopK(1.5, k_start=4, anneal=1.0)
    assert int(selected(batch, z, parameters(batch, 12), Context(True, 0, 10)).sum()) == 16
    assert int(selected(batch, z, parameters(batch, 12), Context(True, 10, 10)).sum()) == 6


@pytest.mark.parametrize(("k", "rows", "cells"), [(2.5, 20, 50), (1 / 3, 20, 6), (3.0, 7, 21), (0.01, 20, 0)])
def test_batch_topk_counts_over_the_rows_of_the_batch(k: float, rows: int, cells: int) -> None:
    """k is per row, over all rows; a known defect elsewhere counts another axis, or the whole batch."""
    z = torch.rand(rows, 12, dtype=torch.float64) + 0.1
    mask = selected(BatchTopK(k), z, parameters(BatchTopK(k), 12), TRAIN)
    assert int(mask.sum()) == cells
    if cells > 0:
        assert float(z[mask].min()) >= float(z[~mask].max())
        assert len(set(mask.sum(1).tolist())) > 1  # rows share the budget


def model_of(rate: float = 0.25) -> SDL:
    model = SDL(SAE().layout(6, (6,), (6,)), BatchTopK(1.0, rate=rate))
    with torch.no_grad():
        model.encoder.weights[0].copy_(torch.eye(6))
        model.decoder.weights[0].copy_(torch.eye(6))
    return model


def test_the_inference_threshold_is_a_running_mean() -> None:
    """By hand: the first batch starts it, each later one moves it by `rate`; it is saved; inference leaves it alone."""
    model = model_of(0.25)
    assert float(model.act_threshold) == -1.0
    x = torch.tensor([[0.9, 0.5, 0.1, 0.0, -1.0, 0.2]])
    torch.testing.assert_close(model.eval()(x).code.to_dense(), x.clamp(min=0))  # untrained: every positive one
    model.train()
    wanted = None
    for rows in (x, 2 * x, torch.cat([x, 3 * x])):
        model.observe(model(rows))
        least = float(np.sort(rows.numpy().ravel())[::-1][len(rows) - 1])
        wanted = least if wanted is None else wanted + 0.25 * (least - wanted)
        assert float(model.act_threshold) == pytest.approx(wanted, rel=1e-6)
    model.observe(model(-x.abs()))  # nothing passed: nothing learned
    model(9 * x)  # a pass alone teaches nothing
    assert float(model.act_threshold) == pytest.approx(wanted, rel=1e-6)
    assert "act_threshold" in model.state_dict()

    model.eval()
    rows = torch.stack([x[0], 5 * x[0]])
    out = model(rows).code.to_dense()
    assert float(model.act_threshold) == pytest.approx(wanted, rel=1e-6)
    assert wanted is not None
    torch.testing.assert_close(out, torch.where(rows > wanted, rows, 0.0))


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("k", [0.5, 1.0, 2.3, 6.0])
@pytest.mark.parametrize("sizes", [(40,), (1,) * 40, (7, 30, 3)])
def test_the_calibrated_threshold_lets_k_scores_a_row_pass(path: str, k: float, sizes: tuple[int, ...]) -> None:
    model = SDL(SAE().layout(6, (6,), (6,)), BatchTopK(k, rank_by_norm=True))
    model.path = path
    with torch.no_grad():
        model.encoder.weights[0].copy_(torch.eye(6))
        model.decoder.weights[0].copy_(torch.diag(torch.arange(1.0, 7.0)))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    model.eval().calibrate(x.split(sizes))
    positive = int((x > 0).sum())
    assert model(x).code.count() == min(int(k * 40 + 1e-6), positive)
    ranked = np.sort((x * torch.arange(1.0, 7.0)).double().numpy().ravel())[::-1]
    cells = int(k * 40 + 1e-6)
    wanted = ranked[cells - 1 : cells + 1].mean() if cells < positive else 0.0
    assert float(model.act_threshold) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.usefixtures("as_in_production")
def test_the_published_threshold_is_the_mean_of_the_minima() -> None:
    model = SDL(SAE().layout(6, (6,), (6,)), BatchTopK(1.0, threshold="minima"))
    with torch.no_grad():
        model.encoder.weights[0].copy_(torch.eye(6))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    model.calibrate(x.split(10))
    least = [float(np.sort(part.numpy().ravel())[::-1][9]) for part in x.split(10)]
    assert float(model.act_threshold) == pytest.approx(np.mean(least), rel=1e-6)
    with pytest.raises(ArgumentError, match="threshold=''; it is 'quantile' or 'minima'"):
        BatchTopK(1.0, threshold="")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no rows to calibrate on"):
        model.calibrate([])


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_inference_does_not_depend_on_the_batch(path: str) -> None:
    """A known defect elsewhere: no rule for inference, so that a row's latents change with its neighbours."""
    model = model_of()
    model.path = path
    x = torch.randn(40, 6)
    model.train()
    model.observe(model(x))
    model.eval()
    together = model(x).code.to_dense()
    alone = torch.cat([model(row[None]).code.to_dense() for row in x])
    torch.testing.assert_close(together, alone)

"""Selection piece by piece is selection from the whole: tiles of latents, and shards of latents merged."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.selection import Above, Custom, Every, TopK
from monosem.base.sparse import Positions, SparseCode
from monosem.kernels import density
from monosem.kernels import select as ways
from monosem.kernels.density import Counts, crowded, goes_dense, room
from monosem.kernels.fold import Fold, Mergeable, merge, pick, positions
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.native.select import AboveFloor, Tops
from monosem.kernels.precision import dense_products
from monosem.kernels.select import Product, select
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.train.scenes import scene_source

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")


def numbers(seed: int, *shape: int) -> Tensor:
    """Random float32 numbers, rounded so that ties are common."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4).round() / 4


@given(st.data())
@settings(max_examples=60)
def test_pieces_of_any_width_select_what_the_whole_does(data: st.DataObject) -> None:
    n = data.draw(st.sampled_from([1, 5, 40, 300]))
    score, bias = numbers(data.draw(st.integers(0, 99)), 6, n), numbers(1, n)
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, n), max_size=5)) - {n}), n]
    among = None
    if data.draw(st.booleans()):
        among = torch.randperm(n, generator=torch.Generator().manual_seed(n))[: data.draw(st.integers(1, n))].sort()[0]
    k = data.draw(st.integers(1, n if among is None else among.numel()))
    tops, above = Tops(6, k, among, bias), AboveFloor(numbers(2, n), bias)
    for a, b in pairwise(edges):
        piece = score[:, a:b].contiguous()
        tops.see(piece, a)
        assert above.see(piece, a)
    whole = score + bias
    ranked = whole if among is None else whole[:, among]
    wanted = torch.sort(ranked, dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    chosen = tops.found()
    assert chosen is not None
    assert torch.equal(chosen[0], wanted if among is None else among[wanted])
    assert torch.equal(chosen[1], ranked.gather(1, wanted))
    mask = whole > numbers(2, n)
    counts, column, entry = above.found()
    assert torch.equal(counts, mask.sum(1))
    assert torch.equal(column, mask.nonzero()[:, 1])
    assert torch.equal(entry, whole[mask])


@given(st.integers(0, 99), st.integers(1, 400), st.sampled_from([0.0, 0.5]))
@settings(max_examples=40)
def test_a_floor_that_rises_loses_none_of_the_largest(seed: int, most: int, step: float) -> None:
    score = numbers(seed, 8, 200) if step else torch.randn(8, 200, generator=torch.Generator().manual_seed(seed))
    above = AboveFloor(-10.0, None, most)
    for a in range(0, 200, 40):
        assert above.see(score[:, a : a + 40].contiguous(), a)
    counts, column, entry = above.found()
    kept = torch.zeros(8, 200, dtype=torch.bool)
    kept[torch.repeat_interleave(torch.arange(8), counts), column] = True
    least = score.flatten().topk(most).values[-1]
    assert bool(kept[score >= least].all())
    assert torch.equal(entry, score[kept])


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Product:
    """z = x W^T + bias of one whole weight."""
    return Product(x, bias, (Block(0, *weight.shape[:1], 0, weight.shape[1]),), [weight])


def test_requests_of_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "ROWS", 5)
    monkeypatch.setattr(ways, "COLUMNS", 16)
    monkeypatch.setitem(density.DENSE_ABOVE, "cpu", 1.0)
    x, weight, bias = numbers(0, 12, 8), numbers(1, 90, 8), numbers(2, 90)
    dead = numbers(3, 90) > 0.5
    z = x @ weight.T + bias  # sixteenths: exact in any order
    chosen = select(product(x, weight, bias), Above(2.0), [TopK(7), TopK(200, dead)])
    for part, mask in ((chosen.code, z > 2.0), (chosen.extra[1], dead.expand(12, -1))):
        assert isinstance(part, SparseCode)
        wanted = Positions.from_mask(mask)
        assert torch.equal(part.at.crow, wanted.crow)
        assert torch.equal(part.at.col, wanted.col)
        assert torch.equal(part.values, z[mask])
    top = chosen.extra[0]
    assert isinstance(top, SparseCode)
    assert torch.equal(top.values.view(12, 7).sort(1).values, z.topk(7, 1).values.flip(1))


def test_a_custom_rule_chooses_from_every_cell() -> None:
    z = product(numbers(0, 12, 8), numbers(1, 90, 8), numbers(2, 90))
    custom, rule = select(z, Custom(lambda score: score > 8.0), [TopK(3)]), select(z, Above(8.0), [TopK(3)])
    for a, b in ((custom.code, rule.code), (custom.extra[0], rule.extra[0])):
        assert isinstance(a, SparseCode)
        assert isinstance(b, SparseCode)
        assert torch.equal(a.to_dense(), b.to_dense())


def test_rows_that_do_not_split_evenly_lose_nothing() -> None:
    """A known defect: room was shared out evenly over runs of rows, and a run that was full was dropped."""
    x, weight, bias = numbers(0, 5, 8), numbers(1, 4096, 8) * 1e-3, torch.ones(4096)
    fold = Fold(Above(0.0), 5, 4096, bias)
    for first in range(0, 4096, 2048):
        fold.update(x @ weight[first : first + 2048].T, first)
    assert fold.finish().at.nnz == 5 * 4096


RULES = st.sampled_from(["top", "among", "groups", "above", "floors", "most"])


@given(st.data())
@settings(max_examples=80)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_shards_select_what_one_process_does(dtype: torch.dtype, data: st.DataObject) -> None:
    """Small whole numbers, so that ties are everywhere; shards of any size, k beyond a shard's, all of `among` in one.

    Some shards come in tiles, as folds, and some as finished selections.
    """
    n_q, rows = data.draw(st.sampled_from([1, 3, 8, 40])), data.draw(st.integers(1, 5))
    seed, most = data.draw(st.integers(0, 999)), data.draw(st.integers(0, rows * n_q + 2))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(-2, 4, (rows, n_q), generator=generator).to(dtype)
    edges = [0, *sorted(data.draw(st.sets(st.integers(1, n_q), max_size=3)) - {n_q}), n_q]
    shards = list(pairwise(edges))
    k = data.draw(st.integers(1, n_q))
    kind = data.draw(RULES)
    among = torch.zeros(n_q, dtype=torch.bool)
    a, b = shards[data.draw(st.integers(0, len(shards) - 1))]
    among[a:b] = True
    floors = torch.randint(-2, 4, (n_q,), generator=generator).to(dtype)
    rules: dict[str, Mergeable] = {
        "top": TopK(k), "among": TopK(k, among), "groups": TopK(1, groups=1),
        "above": Above(1.0), "floors": Above(floors), "most": Above(0.0, most=most),
    }  # fmt: skip
    rule = rules[kind]
    whole = positions(pick(rule, z)).mask()
    folds = []
    for start, stop in shards:
        fold = Fold(rule, rows, n_q)
        middle = data.draw(st.integers(start, stop))
        for left, right in pairwise(sorted({start, middle, stop})):
            fold.update(z[:, left:right].contiguous(), left)
        folds.append(fold)
    merged = merge(rule, [fold.finish() for fold in folds])
    first, *others = folds
    for other in others:
        first.merge(other)
    assert torch.equal(merged.at.mask(), whole)
    assert torch.equal(merged.to_dense(), torch.where(whole, z, 0))
    assert torch.equal(first.finish().at.mask(), whole)
    assert merged.at.nnz == int(whole.sum())


@pytest.mark.parametrize("rule", [TopK(6), TopK(1, groups=4), Above(0.0, most=70), Above(1.0)])
def test_whole_selections_merge_by_the_scores_that_they_rank(rule: Mergeable) -> None:
    """As processes that share the latents will: each selects from its own product, and |z| is what is ranked."""
    x, weight, bias = numbers(0, 12, 8), numbers(1, 90, 8).round(), numbers(2, 90)
    n = 88
    whole = select(product(x, weight[:n], bias[:n]), rule, score=lambda z, _: z.abs()).code
    parts = []
    for start, stop in ((0, 22), (22, 44), (44, 66), (66, 88)):
        own = TopK(rule.k) if isinstance(rule, TopK) else rule
        code = select(product(x, weight[start:stop], bias[start:stop]), own, score=lambda z, _: z.abs()).code
        code = (
            SparseCode(Positions.from_mask(code), (x @ weight[start:stop].T + bias[start:stop])[code])
            if isinstance(code, Tensor)
            else code
        )
        assert code is not None
        parts.append(SparseCode(Positions(code.at.crow, code.at.col + start, n), code.values))
    merged = merge(rule, parts, lambda z, _: z.abs())
    mask = whole.at.mask() if isinstance(whole, SparseCode) else whole
    assert mask is not None
    assert torch.equal(merged.at.mask(), mask)


def test_whether_a_step_goes_dense_is_one_decision() -> None:
    plenty = Counts(rows=8, n_q=160, available=(160,))
    assert goes_dense(TopK(4), [Every()], plenty)
    assert goes_dense(Custom(lambda score: score > 0), [], Counts(8, 160))
    assert not goes_dense(TopK(99), [], Counts(8, 160))  # its k says that it is sparse
    assert not goes_dense(TopK(4), [TopK(10)], plenty)
    assert goes_dense(TopK(4), [TopK(11)], plenty)
    assert not goes_dense(TopK(4), [TopK(11)], Counts(8, 160, available=(9,)))
    assert goes_dense(Above(0.0, most=81), [], Counts(8, 160))
    assert not goes_dense(Above(0.0, most=80), [], Counts(8, 160))
    assert goes_dense(Above(0.0), [], Counts(8, 160, (), selected=3, sampled=32))
    assert not goes_dense(Above(0.0), [], Counts(8, 160, (), selected=2, sampled=32))


def test_a_gpu_goes_dense_earlier_and_earlier_still_in_bfloat16() -> None:
    """Where a gathered row of 4 n bytes takes as long as so many cells of 2 n flop, by the numbers of an H200."""
    cells, memory = 2**20, 4.8e12
    for low, flop in ((False, 67e12), (True, 0.7e15)):
        with dense_products(low):
            equal = round(cells * memory / (2 * flop))
            assert crowded(round(1.01 * equal), cells, "cuda")
            assert not crowded(round(0.99 * equal), cells, "cuda")
            assert room(cells, "cuda") == pytest.approx(equal, rel=0.01)
            assert room(cells, "cpu") == room(cells, "mps") == cells // 16 + 1  # measured on a CPU alone
            for number, dense in ((round(1.01 * equal), True), (round(0.99 * equal), False)):
                counts = [Counts(1, cells, (cells,), device="cuda"), Counts(1, cells, (), number, cells, "cuda")]
                assert goes_dense(TopK(4), [TopK(number)], counts[0]) is dense
                assert goes_dense(Above(0.0), [], counts[1]) is dense


def test_the_rule_of_the_device_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    z = product(numbers(0, 12, 8), numbers(1, 90, 8), numbers(2, 90))
    assert isinstance(select(z, TopK(4), [TopK(5)]).extra[0], SparseCode)
    monkeypatch.setitem(density.DENSE_ABOVE, "cpu", 1 / 28)
    assert not isinstance(select(z, TopK(4), [TopK(5)]).extra[0], SparseCode)


@pytest.mark.parametrize("name", ["topk(k=4, aux=0.1)", "batch_topk(k=4)", "matryoshka(k=4)", "jumprelu", "gated"])
def test_a_run_in_narrow_pieces_is_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FitConfig(steps=4, batch_size=40, lr=1e-3, clip=1.0)
    wide = fit(name, scene_source(), 96, config).model
    monkeypatch.setattr(ways, "ROWS", 16)
    monkeypatch.setattr(ways, "COLUMNS", 32)
    narrow = fit(name, scene_source(), 96, config).model
    torch.testing.assert_close(narrow.W_D, wide.W_D, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(narrow.W_E, wide.W_E, rtol=1e-4, atol=1e-5)

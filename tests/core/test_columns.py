"""Selection latents by latents is selection from all of them."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core import columns
from monosem.core.columns import Ranked, crowded, select_by_columns
from monosem.core.selection import Above, Largest
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.native.select import AboveFloor, Tops
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
    found = tops.found()
    assert found is not None
    assert torch.equal(found[0], wanted if among is None else among[wanted])
    assert torch.equal(found[1], ranked.gather(1, wanted))
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


def test_wishes_of_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS", 5)
    monkeypatch.setattr(columns, "COLUMNS", 16)
    x, weight, bias = numbers(0, 12, 8), numbers(1, 90, 8), numbers(2, 90)
    dead = numbers(3, 90) > 0.5
    z = x @ weight.T + bias  # quarters: exact in any order
    found = select_by_columns(x, weight, bias, [Largest(7), Above(2.0), Ranked(200, dead)])
    assert found is not None
    for (at, values), mask in zip(found[1:], (z > 2.0, dead.expand(12, -1)), strict=True):
        wanted = Positions.from_mask(mask)
        assert torch.equal(at.crow, wanted.crow)
        assert torch.equal(at.col, wanted.col)
        assert torch.equal(values, z[mask])
    assert torch.equal(found[0][1].view(12, 7).sort(1).values, z.topk(7, 1).values.flip(1))
    x[3] = float("nan")
    assert select_by_columns(x, weight, bias, [Largest(7)]) is None


def test_a_sample_says_whether_a_code_is_dense() -> None:
    sample = torch.zeros(10, 32)
    sample[:, 0] = 1.0
    assert not crowded(Above(0.5), sample)
    sample[:, :3] = 1.0
    assert crowded(Above(0.5), sample)
    assert not crowded(Above(torch.full((32,), 2.0)), sample)


@pytest.mark.parametrize("name", ["topk(k=4, aux=0.1)", "batch_topk(k=4)", "matryoshka(k=4)", "jumprelu", "gated"])
def test_a_run_in_narrow_pieces_is_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FitConfig(steps=4, batch_size=40, lr=1e-3, clip=1.0)
    wide = fit(name, scene_source(), 96, config).model
    monkeypatch.setattr(columns, "ROWS", 16)
    monkeypatch.setattr(columns, "COLUMNS", 32)
    narrow = fit(name, scene_source(), 96, config).model
    torch.testing.assert_close(narrow.W_D, wide.W_D, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(narrow.W_E, wide.W_E, rtol=1e-4, atol=1e-5)

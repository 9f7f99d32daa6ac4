"""The compiled kernels against float64 torch: random shapes, ties, empty rows, strided inputs, several threads."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.kernels.native import calls, select, team
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.native.rows import CellSet, RowStep, inner_alone
from monosem.kernels.workspace import recycled, workspace
from tests.kernels.layouts import positions

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def numbers(seed: int, *shape: int) -> Tensor:
    """Random float32 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    """Rows of few or many columns; few distinct values, so that ties are common, or all different."""
    rows, n = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 7, 63, 64, 65, 130, 700, 2000]))
    seed, step = draw(st.integers(0, 999)), draw(st.sampled_from([0.0, 0.5, 2.0]))
    drawn = numbers(seed, rows, n + 3)
    drawn = (drawn / step).round() * step if step else drawn
    return drawn[:, 1 : n + 1]  # not contiguous


@given(scores(), st.data())
def test_top_takes_the_largest_and_of_ties_the_lower_column(score: Tensor, data: st.DataObject) -> None:
    n = score.shape[1]
    k = data.draw(st.integers(1, n))
    bias = numbers(7, n).round() if data.draw(st.booleans()) else None
    found = select.top(score, k, None, bias)
    assert found is not None
    index, value = found
    whole = score if bias is None else score + bias
    wanted = torch.sort(whole, dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(index, wanted)
    assert torch.equal(value, whole.gather(1, wanted))


@given(scores(), st.data())
def test_top_among_some_columns(score: Tensor, data: st.DataObject) -> None:
    n = score.shape[1]
    among = torch.randperm(n, generator=torch.Generator().manual_seed(n))[: data.draw(st.integers(1, n))].sort().values
    k = data.draw(st.integers(1, among.numel()))
    found = select.top(score, k, among)
    assert found is not None
    here = torch.sort(score[:, among], dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(found[0], among[here])


def test_top_says_when_it_meets_nan_and_takes_infinities() -> None:
    score = numbers(0, 3, 200)
    score[1, 5:] = float("nan")
    assert select.top(score, 6) is None
    score[1] = float("inf")
    score[2] = -float("inf")
    found = select.top(score, 6)
    assert found is not None
    assert found[0][1:].tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@given(scores(), st.booleans(), st.booleans())
def test_above_finds_every_cell_or_says_that_there_is_no_room(score: Tensor, per_column: bool, biased: bool) -> None:
    floors: Tensor | float = numbers(3, score.shape[1]) if per_column else 0.25
    bias = numbers(5, score.shape[1]).round() if biased else None
    raw, score = score, score if bias is None else score + bias
    mask = score > floors
    found = select.above(raw, floors, score.numel(), bias)
    assert found is not None
    assert torch.equal(found[0], mask.sum(1))
    assert torch.equal(found[1], mask.nonzero()[:, 1])
    assert torch.equal(found[2], score[mask])
    if int(mask.sum()) > 8:
        assert select.above(raw, floors, 1, bias) is None


@given(st.data())
@settings(max_examples=40)
def test_sums_over_cells(data: st.DataObject) -> None:
    batch, n_q, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 200))
    at = data.draw(positions(batch, n_q))
    first = data.draw(st.integers(0, n_q - 1))
    last = data.draw(st.integers(first, n_q))
    values, x = numbers(1, at.nnz), numbers(2, batch, width + 2)[:, 1 : width + 1]
    weight = numbers(3, last - first, width + 1)[:, :width]
    code = torch.zeros(batch, n_q, dtype=torch.float64)
    code[at.row, at.col] = values.double()
    part, dense = code[:, first:last], weight.double()
    tiles, whole = calls.order_cells(at.crow, at.col, n_q, 2), calls.order_cells(at.crow, at.col, n_q, batch)[0]
    out = torch.zeros(batch, width)
    calls.scatter(tiles, first, last, values, weight, out)
    torch.testing.assert_close(out.double(), part @ dense, rtol=1e-5, atol=1e-5)
    products = torch.zeros(at.nnz)
    calls.inner(whole, first, last, x, weight, products)
    inside = (at.col >= first) & (at.col < last)
    wanted = torch.zeros(at.nnz, dtype=torch.float64)
    wanted[inside] = (x.double() @ dense.T)[at.row[inside], at.col[inside] - first]
    torch.testing.assert_close(products.double(), wanted, rtol=1e-5, atol=1e-4)
    bags = calls.bags(whole, first, last, values, x)
    torch.testing.assert_close(bags.double(), part.T @ x.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(CellSet(whole, values, x, first).dense(last - first), bags, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("pieces", [(0, 90), (0, 30, 90)])
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("sets", [0, 1, 2])
def test_a_row_step_is_projection_clipping_and_adam(pieces: tuple[int, ...], project: bool, sets: int) -> None:
    """Three steps against float64 formulas written out; one latent never has a cell, one only in the first step."""
    batch, rows, width, first = 40, 25, 90, 3
    weight = numbers(0, rows, width)
    for a, b in itertools.pairwise(pieces):
        weight[:, a:b] /= weight[:, a:b].norm(dim=1, keepdim=True)
    m, v, moved = torch.zeros(rows, width), torch.zeros(rows, width), torch.zeros(rows, dtype=torch.bool)
    W, M, V = (t.double() for t in (weight, m, v))
    rests = torch.zeros(rows, dtype=torch.bool)
    for t in range(1, 4):
        base = numbers(10 + t, rows, width) if sets != 1 else None
        parts = []
        for s in range(sets):
            mask = numbers(100 * t + s, batch, rows + 5) > 1.0
            mask[:, first] = False
            if t > 1:
                mask[:, first + 1] = False
            at = Positions.from_mask(mask)
            cells = calls.order_cells(at.crow, at.col, rows + 5, batch)[0]
            parts.append(CellSet(cells, numbers(7 + t + s, at.nnz), numbers(t + 50 * s, batch, width), first))
        g = torch.zeros(rows, width, dtype=torch.float64) if base is None else base.double()
        for part in parts:
            g = g + part.dense(rows).double()
        if project:
            for a, b in itertools.pairwise(pieces):
                along = (g[:, a:b] * W[:, a:b]).sum(1, keepdim=True) / W[:, a:b].pow(2).sum(1, keepdim=True)
                g[:, a:b] = g[:, a:b] - along * W[:, a:b]
        step = RowStep(weight, base, parts, pieces, project, project)
        assert step.squared_norm() == pytest.approx(float(g.pow(2).sum()), rel=1e-5, abs=1e-9)
        step.adam(m, v, moved, t, 1e-2, (0.9, 0.99), 1e-8, 0.5)
        M, V = 0.9 * M + 0.1 * g * 0.5, 0.99 * V + 0.01 * (g * 0.5) ** 2
        W = W - 1e-2 / (1 - 0.9**t) * M / ((V / (1 - 0.99**t)).sqrt() + 1e-8)
        if project:
            for a, b in itertools.pairwise(pieces):
                W[:, a:b] = W[:, a:b] / W[:, a:b].norm(dim=1, keepdim=True)
        rests |= (g != 0).any(1)
        assert torch.equal(moved, rests)
        for found, wanted in ((weight, W), (m, M), (v, V)):
            torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=2e-6)


def test_one_pass_takes_products_and_what_a_projection_needs() -> None:
    at = Positions.from_mask(numbers(0, 90, 64) > 1.5)
    values, x, weight = numbers(1, at.nnz), numbers(2, 90, 50), numbers(3, 64, 50)
    cells = CellSet(calls.order_cells(at.crow, at.col, 64, 90)[0], values, x, 0)
    products, known = inner_alone(cells, weight)
    wanted = torch.zeros(at.nnz)
    calls.inner(cells.cells, 0, 64, x, weight, wanted)
    assert torch.equal(products, wanted)
    W, M = weight.double(), numbers(4, 64, 50)
    g = cells.dense(64).double()
    g = g - (g * W).sum(1, keepdim=True) / (W * W).sum(1, keepdim=True) * W
    steps = [RowStep(weight.clone(), None, [s], (0, 50), True, True) for s in (cells, known)]
    for step in steps:
        assert step.squared_norm() == pytest.approx(float(g.square().sum()), rel=1e-5)
        step.adam(M.clone(), M.square(), torch.ones(64, dtype=torch.bool), 3, 1e-2, (0.9, 0.99), 1e-8, 0.5)
    torch.testing.assert_close(steps[0].weight, steps[1].weight, rtol=1e-5, atol=1e-6)


def test_threads_change_no_bit() -> None:
    mask = numbers(0, 900, 64) > 1.0
    at = Positions.from_mask(mask)
    values, x, weight = numbers(1, at.nnz), numbers(2, 900, 48), numbers(3, 64, 48)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        tiles = calls.order_cells(at.crow, at.col, 64, calls.row_tile(at.batch, 48))
        out, products, w = torch.zeros(900, 48), torch.zeros(at.nnz), weight.clone()
        calls.scatter(tiles, 0, 64, values, weight, out)
        cells = calls.order_cells(at.crow, at.col, 64, 900)[0]
        calls.inner(cells, 0, 64, x, weight, products)
        step = RowStep(w, None, [CellSet(cells, values, x, 0)], (0, 48), True, True)
        norm = step.squared_norm()
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        step.adam(m, v, torch.zeros(64, dtype=torch.bool), 1, 1e-2, (0.9, 0.99), 1e-8, 1.0)
        results.append((out, products, w, m, v, torch.tensor(norm), calls.bags(cells, 0, 64, values, x)))
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_other_dtypes_and_layouts_are_not_taken() -> None:
    assert calls.usable(torch.zeros(3, 4))
    assert not calls.usable(torch.zeros(3, 4, dtype=torch.float64))
    assert not calls.usable(torch.zeros(3, 4).T)


def test_a_workspace_is_used_again_and_sized_to_the_call() -> None:
    a = workspace("test", (4, 5), torch.float32, torch.device("cpu"))
    b = workspace("test", (5, 3), torch.float32, torch.device("cpu"))
    assert b.shape == (5, 3)
    assert a.data_ptr() == b.data_ptr()
    assert workspace("test", (2, 1), torch.float32, torch.device("cpu")).data_ptr() != a.data_ptr()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.usefixtures("_threads")
def test_every_unit_is_done_once(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if own:  # where torch does not run on GNU's OpenMP
        monkeypatch.setattr(team, "_team", lambda: None)
    values = (numbers(0, 4000) > 0.5).float()
    runs = team.runs_of(4000, 37)

    def counts() -> list[int]:
        return team.each("count", [(team.address(values), a, b) for a, b in runs])

    wanted = [int(values[a:b].sum()) for a, b in runs]
    assert counts() == wanted
    with ThreadPoolExecutor(1) as other:  # a thread that is not the first has a team of its own
        assert other.submit(counts).result() == wanted
    assert team.each("count", []) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is recycled on Linux only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recycled_memory_is_taken_over_once_it_is_free(dtype: torch.dtype) -> None:
    shape, like = (1024, 4096), torch.empty(0)
    a = recycled(shape, like, dtype)
    assert (a.shape, a.dtype, a.is_contiguous()) == (shape, dtype, True)
    a.fill_(1.0)
    b = recycled(shape, like, dtype).fill_(2.0)
    assert a.data_ptr() != b.data_ptr()
    assert bool((a == 1.0).all())
    where, row = b.data_ptr(), b[3]  # a view holds the memory as long as it lives
    del b
    assert recycled(shape, like, dtype).data_ptr() != where
    assert bool((row == 2.0).all())
    del row
    again = recycled(shape, like, dtype)
    assert again.data_ptr() == where
    assert bool((again == 2.0).all())  # fresh memory holds zeros, and may lie at the same address
    kept = recycled(shape, like, dtype)
    leaf = torch.ones(shape, dtype=dtype, requires_grad=True)
    kept.copy_(leaf).sum().backward()  # no view: autograd may write into it
    assert leaf.grad is not None


@pytest.mark.parametrize(
    ("environment", "reason"), [({"MONOSEM_NATIVE": "0"}, "MONOSEM_NATIVE=0"), ({"PATH": ""}, "no C compiler")]
)
def test_without_kernels_the_plain_path_trains(
    environment: dict[str, str], reason: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = (
        "import torch; from monosem.train.loop import fit; from monosem.train.config import FitConfig;"
        "from monosem.core.pairs import TensorSource; from monosem.kernels.native.build import library, why_absent;"
        "assert library() is None; print(why_absent());"
        "print(fit('topk(k=2)', TensorSource(torch.randn(64, 8)), 16, FitConfig(3, 8, clip=1.0)).log[-1]['loss'] > 0)"
    )
    home = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    out = subprocess.run(
        [sys.executable, "-c", program], env=home | environment, capture_output=True, text=True, check=True
    ).stdout
    assert reason in out
    assert "True" in out

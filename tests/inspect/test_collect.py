"""What the page of latents says is what a dense, direct computation says."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch

from monosem import method
from monosem.base.errors import ArgumentError, DataError, ShapeError
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.data.table import Labels
from monosem.inspect import overview
from monosem.inspect.collect import Inspection, collect, nearest_latents
from monosem.inspect.fold import BANDS, BINS, Counts, Keep, cell_hash
from monosem.inspect.options import Options
from monosem.inspect.rows import PASSAGE, Rows

WIDTH, N_Q = 6, 24
MODULE = import_module("monosem.inspect.collect")  # its face gives the function of that name


def _model(name: str = "topk(k=3)", n_q: int = N_Q) -> SDL:
    generator = torch.Generator().manual_seed(0)
    model, _ = method(name).build(n_q, (WIDTH,), (WIDTH,))
    with torch.no_grad():
        model.b_E.copy_(0.1 * torch.randn(n_q, generator=generator))
    return model.eval()


def _rows(count: int, documents: bool = True) -> Rows:
    generator = np.random.default_rng(1)
    x = torch.from_numpy(generator.standard_normal((count, WIDTH)).astype(np.float32))
    labels = Labels(torch.from_numpy(generator.integers(0, 4, count)), ("a", "b", "c", "d"))
    if not documents:
        return Rows(TensorSource(x), labels)
    lengths = generator.integers(1, 300, count)
    document = np.repeat(np.arange(count), lengths)[:count]
    token = generator.integers(0, 50, count)
    return Rows(TensorSource(x), labels, token, document, None, lambda ids: [f"t{i}" for i in ids])


@pytest.fixture(scope="module")
def found() -> tuple[Inspection, Rows, np.ndarray]:
    model, rows = _model(), _rows(3000)
    small = pytest.MonkeyPatch()
    small.setattr(MODULE, "_CELLS", 0)  # batches of 256 rows, so that documents and windows are cut
    result = collect(model, rows, Options(top=5, sample=3, before=4, after=3, nearest=4))
    small.undo()
    with torch.no_grad():
        dense = model.encode(rows.source.take(torch.arange(3000))[0]).to_dense().numpy()
    return result, rows, dense


def test_counts(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, rows, z = found
    counts, size = result.counts, np.abs(z)
    np.testing.assert_array_equal(counts.fired, (z != 0).sum(0))
    np.testing.assert_allclose(counts.total, size.sum(0), rtol=1e-5)
    np.testing.assert_allclose(counts.largest, size.max(0), rtol=1e-5)
    assert result.l0 == pytest.approx((z != 0).sum(1).mean())
    assert rows.labels is not None
    for label in range(4):
        np.testing.assert_array_equal(counts.classes[:, label], (z[rows.labels.codes.numpy() == label] != 0).sum(0))


def test_histograms_are_numpys(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, _, z = found
    counts = result.counts
    np.testing.assert_array_equal(counts.histogram.sum(1), counts.fired)
    for j in range(N_Q):
        edges = np.arange(BINS + 1) * 2.0 ** counts.exponent[j]
        assert BINS / 2 <= counts.largest[j] / 2.0 ** counts.exponent[j] < BINS
        sizes = np.abs(z[:, j])[z[:, j] != 0]
        np.testing.assert_array_equal(counts.histogram[j], np.histogram(sizes, edges)[0])


def test_growing_maxima_merge_bins_exactly() -> None:
    values = np.float32(2.0) ** np.random.default_rng(3).uniform(-30, 30, 400).astype(np.float32)
    latent = np.zeros(400, dtype=np.int64)
    slow, once = Counts(1), Counts(1)
    for value in np.sort(values):
        slow.add(latent[:1], np.array([value]))
    once.add(latent, values)
    np.testing.assert_array_equal(slow.histogram, once.histogram)
    assert slow.exponent == once.exponent
    assert slow.histogram.sum() == 400


def test_fvu_is_the_ratio_of_sums(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, rows, _ = found
    x = rows.source.take(torch.arange(3000))[0]
    with torch.no_grad():
        error = (x - _model()(x).x_r_hat).square().sum()
    assert result.fvu == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-4)


def test_active_latents_of_a_row(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, _, z = found
    np.testing.assert_array_equal(result.active, np.bincount((z != 0).sum(1)))


def test_a_band_holds_the_firing_of_least_hash(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    """The context of every band, and its window, against all firings of the band written out."""
    result, _, z = found
    keep = result.bands
    for j in range(N_Q):
        row = np.flatnonzero(z[:, j])
        width = 4 * 2.0 ** result.counts.exponent[j]
        band = np.floor(np.abs(z[row, j]) / width).astype(int)
        drawn = cell_hash(np.full(row.size, j), row, 0)
        for i in range(BANDS):
            mine = row[band == i]
            expected = mine[drawn[band == i].argmax()] if mine.size else -1
            assert keep.row[BANDS * j + i, 0] == expected
            if mine.size:
                assert keep.window[BANDS * j + i, 0, 4] == pytest.approx(z[expected, j], rel=1e-5)
    assert (keep.row[:, 0].reshape(N_Q, BANDS) >= 0).sum(1).min() >= 2


def test_latents_that_fire_together(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, _, z = found
    exact = np.corrcoef((z != 0).T)
    np.fill_diagonal(exact, -2)
    for j in range(N_Q):
        np.testing.assert_allclose(result.phi[j], np.sort(exact[j])[::-1][:4], atol=1e-5)
        np.testing.assert_allclose(exact[j, result.company[j]], result.phi[j], atol=1e-5)


def test_rows_of_company_are_drawn_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound on pairs the rows that stay are those of least hash, whatever the order in which they come."""
    random = np.random.default_rng(2)
    row = np.repeat(np.arange(400), 5)
    latent = np.concatenate([random.permutation(20)[:5] for _ in range(400)])
    monkeypatch.setattr(overview, "_PAIRS", 2500)
    once, cut = overview.Together(20), overview.Together(20)
    once.add(latent, row)
    for start in range(0, 2000, 100):
        cut.add(latent[start : start + 100], row[start : start + 100])
    np.testing.assert_array_equal(once.row, cut.row)
    np.testing.assert_array_equal(once.latent, cut.latent)
    assert 1250 / 5 < once.row.size <= 2500 / 5
    fired = np.zeros((400, 20))
    fired[row, latent] = 1
    exact = np.corrcoef(fired[np.unique(once.row)].T)
    index, phi = once.most(3)
    np.testing.assert_allclose(np.take_along_axis(exact, index, 1), phi, atol=1e-5)


def test_the_map_keeps_neighbours_together() -> None:
    """Forty directions in four bunches: in the plane, too, every direction's nearest is of its own bunch."""
    random = np.random.default_rng(0)
    bunch = np.repeat(np.arange(4), 10)
    columns = random.standard_normal((16, 4))[:, bunch] + 0.2 * random.standard_normal((16, 40))
    near = nearest_latents(torch.from_numpy(columns), 5)
    place = overview.direction_map(columns, *near)
    gap = np.linalg.norm(place[:, None] - place[None], axis=2)
    np.fill_diagonal(gap, np.inf)
    assert (bunch[gap.argmin(1)] == bunch).all()
    assert np.isfinite(
        overview.direction_map(columns[:1, :3], *nearest_latents(torch.from_numpy(columns[:1, :3]), 8))
    ).all()


def _direct(z: np.ndarray, passage: np.ndarray, most: int) -> list[int]:
    """Rows of the strongest firings, the best of each passage, written out."""
    seen, taken = set(), []
    for row in np.lexsort((np.arange(z.size), -np.abs(z))):
        if z[row] != 0 and passage[row] not in seen and len(taken) < most:
            seen.add(passage[row])
            taken.append(int(row))
    return taken


def test_contexts_are_the_strongest_of_different_passages(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, rows, z = found
    for j in range(N_Q):
        expected = _direct(z[:, j], rows.passage, 5)
        assert result.top.row[j, : len(expected)].tolist() == expected
        assert (result.top.row[j, len(expected) :] == -1).all()


def test_windows_hold_the_neighbours_of_the_same_document(found: tuple[Inspection, Rows, np.ndarray]) -> None:
    result, rows, z = found
    assert rows.document is not None
    edges = 0
    for keep in (result.top, result.sample):
        for j, place in zip(*np.nonzero(keep.row >= 0), strict=True):
            row = keep.row[j, place]
            window = np.zeros(8, dtype=np.float32)
            around = [row + d for d in range(-4, 4) if 0 <= row + d < 3000]
            around = [r for r in around if rows.document[r] == rows.document[row]]
            for r in around:
                window[r - row + 4] = z[r, j]
            np.testing.assert_allclose(keep.window[j, place], window, rtol=1e-5)
            assert keep.left[j, place] == row - min(around)
            assert keep.right[j, place] == max(around) - row
            edges += len(around) < 8
    assert edges > 0  # some contexts end at a document's end


def test_the_sample_is_of_firings_and_uniform() -> None:
    rows = _rows(4000, documents=False)
    result = collect(_model(), rows, Options(top=1, sample=40))
    keep, fired = result.sample, result.counts.fired
    assert (keep.count == np.minimum(fired, 40)).all()
    assert (keep.window[keep.row >= 0] != 0).all()
    many = keep.row[fired > 400] / 4000  # uniform on [0, 1]: mean 1/2, variance 1/12
    assert abs(many.mean() - 0.5) < 5 * math.sqrt(1 / 12 / many.size)
    other = collect(_model(), rows, Options(top=1, sample=40, seed=1))
    assert (other.sample.row != keep.row).any()


@pytest.mark.parametrize(("name", "n_q"), [("relu_l1", 24), ("topk(k=3)", 64)], ids=["dense code", "sparse code"])
def test_batches_do_not_matter(name: str, n_q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = _model(name, n_q), _rows(1500)
    with torch.no_grad():
        assert model.encode(torch.ones(256, WIDTH)).is_sparse == (n_q == 64)
    whole = collect(model, rows)
    monkeypatch.setattr(MODULE, "_CELLS", 0)
    cut = collect(model, rows)
    for name in ("row", "passage", "left", "right"):
        for one, other in ((whole.top, cut.top), (whole.sample, cut.sample), (whole.bands, cut.bands)):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(whole.top.window, cut.top.window, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(whole.counts.fired, cut.counts.fired)
    np.testing.assert_array_equal(whole.active, cut.active)
    np.testing.assert_array_equal(whole.company, cut.company)
    np.testing.assert_array_equal(whole.phi, cut.phi)


def test_equal_strengths_keep_the_earlier_row() -> None:
    x = torch.ones(700, WIDTH)
    result = collect(_model(), Rows(TensorSource(x)), Options(top=3, sample=0))
    for j in np.flatnonzero(result.counts.fired):
        assert result.top.row[j].tolist() == [0, 1, 2]
    assert result.fvu is None  # equal rows have no variance


def test_a_passage_that_is_cut_keeps_its_best_row() -> None:
    keep = Keep(1, 2)

    def look(latent: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nothing = np.zeros(row.size, dtype=np.uint8)
        return row[:, None].astype(np.float32), nothing, nothing

    for row, passage, priority in ((0, 0, 1.0), (1, 1, 3.0), (2, 2, 2.0), (3, 0, 4.0), (4, 3, 2.5)):
        keep.offer(*(np.array([v]) for v in (0, row, passage)), np.array([priority]), look)
    assert keep.row.tolist() == [[3, 1]]
    assert keep.window[0, :, 0].tolist() == [3, 1]


def test_passages() -> None:
    document = np.repeat([7, 8, 7], [PASSAGE + 2, 3, 1])
    rows = Rows(TensorSource(torch.zeros(document.size, 1)), document=document)
    assert rows.passage.tolist() == [0] * PASSAGE + [1, 1, 2, 2, 2, 3]
    position = np.array([0, 2, 5, 0, 1, 1])  # gaps are left-out tokens; falling back begins another window
    rows = Rows(TensorSource(torch.zeros(6, 1)), document=np.zeros(6, dtype=np.int64), position=position)
    assert rows.segment.tolist() == [0, 0, 0, 1, 1, 2]


def test_nearest_latents() -> None:
    W_D = torch.randn(5, 12, generator=torch.Generator().manual_seed(4))
    W_D[:, 3] = 0
    index, cosine = nearest_latents(W_D, 4)
    unit = (W_D / W_D.norm(dim=0).clamp(min=1e-9)).numpy()
    full = unit.T @ unit
    np.fill_diagonal(full, -2)
    for j in range(12):
        assert j not in index[j]
        np.testing.assert_allclose(cosine[j], full[j, index[j]], atol=1e-6)
        np.testing.assert_allclose(cosine[j], np.sort(full[j])[::-1][:4], atol=1e-6)
    assert (cosine[3] == 0).all()
    assert nearest_latents(W_D[:, :2], 8)[0].tolist() == [[1], [0]]


def test_wrong_input() -> None:
    with pytest.raises(ShapeError, match=r"\(7, 7\).*\(6, 6\)"):
        collect(_model(), Rows(TensorSource(torch.zeros(4, 7))))
    with pytest.raises(ArgumentError, match="top=0"):
        Options(top=0)
    with pytest.raises(ShapeError, match="document has 3 entries for 4 rows"):
        Rows(TensorSource(torch.zeros(4, 7)), document=np.zeros(3, dtype=np.int64))
    with pytest.raises(ArgumentError, match="token needs decode"):
        Rows(TensorSource(torch.zeros(4, 7)), token=np.zeros(4, dtype=np.int64))
    stream = TensorSource(torch.zeros(4, 7))
    stream.rows = None
    with pytest.raises(DataError, match="endless"):
        Rows(stream)

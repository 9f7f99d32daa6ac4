"""One pass over the rows: what every latent does on them, its strongest contexts, and a sample of all its firings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Code, SparseCode
from monosem.bench.folds import FVU, Coded
from monosem.core.model import SDL
from monosem.inspect.fold import BANDS, BINS, Bands, Counts, Keep, Look, cell_hash
from monosem.inspect.options import Options
from monosem.inspect.overview import Together, direction_map
from monosem.inspect.rows import Rows

_CELLS = 1 << 25
"""Cells (rows x latents) whose pre-activations are in memory at once."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What `collect` found. `top` are the strongest contexts, `sample` a uniform sample of the firings, `bands` one of
    each band of activation.

    `active[i]` rows have i latents that fire. `cosine` are those of decoder columns with those of `nearest`, the
    largest; `phi` the correlations with the latents `company` that fire on the same rows, the largest; `place` is a map
    of the decoder directions; `fvu` is None where it is undefined.
    """

    options: Options
    rows: int
    counts: Counts
    top: Keep
    sample: Keep
    bands: Bands
    active: Int[np.ndarray, " most"]
    nearest: Int[np.ndarray, "n_q m"]
    cosine: Float[np.ndarray, "n_q m"]
    company: Int[np.ndarray, "n_q c"]
    phi: Float[np.ndarray, "n_q c"]
    place: Float[np.ndarray, "n_q 2"]
    fvu: float | None

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a row."""
        return float(self.counts.fired.sum()) / self.rows


@torch.no_grad()
def collect(
    model: SDL, rows: Rows, options: Options | None = None, progress: Callable[[int], None] | None = None
) -> Inspection:
    """Stream all rows through the model once; memory does not grow with their number.

    Equation: a latent fires where its value is not zero, and |value| is its strength. Its contexts are the rows of
        largest strength (of equal ones the earlier), one per passage, each with the latent's values on the
        neighbouring rows of the same document. The sample takes, in the same way, the rows of smallest hash, and so
        do the bands, each among the firings whose strength lies in it.
    `progress` is called with the number of rows done.
    Raises: ShapeError when the rows have not the model's widths.
    """
    options = options or Options()
    layout = model.layout
    have = (sum(rows.source.p_widths), sum(rows.source.r_widths))
    check(
        have == (layout.n_p, layout.n_r),
        f"the rows have (n_p, n_r) = {have}, the model ({layout.n_p}, {layout.n_r}); give the rows it was trained on",
        ShapeError,
    )
    before, after = (options.before, options.after) if rows.document is not None else (0, 0)
    seen = _Seen(model.n_q, rows, options, before, after)
    metric, state = FVU(), FVU().init()
    step = max(256, min(8192, _CELLS // model.n_q))
    training = model.training
    model.eval()
    for start in range(0, rows.count, step):
        stop = min(start + step, rows.count)
        low, high = max(0, start - before), min(rows.count, stop + after)
        x_p, x_r = (x.to(model.b_E.device) for x in rows.source.take(torch.arange(low, high)))
        out = model(x_p.to(model.b_E.dtype))
        inner = slice(start - low, stop - low)
        batch = Coded(x_r[inner], out.x_r_hat[inner], out.code)
        state = metric.update(state, batch)
        latent, row, value = _cells(out.code)
        row += low
        look = _look(rows, latent, row, value, low, high, before, after)
        mine = (row >= start) & (row < stop)
        seen.add(latent[mine], row[mine], value[mine], look, start, stop)
        if progress:
            progress(stop)
    model.train(training)
    fvu = metric.compute(state) if state.spread > 0 else None
    near, company = nearest_latents(model.W_D, options.nearest), seen.together.most(options.nearest)
    place = direction_map(model.W_D.detach().float().cpu().numpy(), *near)
    kept = (seen.counts, seen.top, seen.sample, seen.bands, seen.active)
    return Inspection(options, rows.count, *kept, *near, *company, place, fvu)


class _Seen:
    """Everything that is kept of the cells while the rows stream by."""

    def __init__(self, n_q: int, rows: Rows, options: Options, before: int, after: int) -> None:
        self.rows, self.options = rows, options
        self.labels = None if rows.labels is None else rows.labels.codes.numpy()
        self.counts = Counts(n_q, 0 if rows.labels is None else len(rows.labels.names))
        self.top, self.sample = (Keep(n_q, most, before, after) for most in (options.top, options.sample))
        self.bands, self.together = Bands(n_q, options.band, before, after), Together(n_q, options.seed)
        self.active = np.zeros(0, dtype=np.int64)

    def add(self, latent: np.ndarray, row: np.ndarray, value: np.ndarray, look: Look, start: int, stop: int) -> None:
        """Cells that are not zero, of the rows from start up to stop."""
        self.bands.merge(*self.counts.add(latent, value, None if self.labels is None else self.labels[row]))
        passage, drawn = self.rows.passage[row], cell_hash(latent, row, self.options.seed)
        self.top.offer(latent, row, passage, np.abs(value).astype(np.float64), look)
        self.sample.offer(latent, row, passage, drawn, look)
        band = self.counts.bin(latent, value) // (BINS // BANDS)
        self.bands.offer(latent * BANDS + band, row, passage, drawn, _of_band(look))
        if self.options.nearest:
            self.together.add(latent, row)
        active = np.bincount(np.bincount(row - start, minlength=stop - start))
        self.active = _added(self.active, active)


def _of_band(look: Look) -> Look:
    """The windows of bands, which are those of their latents."""
    return lambda band, row: look(band // BANDS, row)


def _added(one: np.ndarray, other: np.ndarray) -> Int[np.ndarray, " most"]:
    """The sum of two counts, the shorter one continued by zeros."""
    longest = max(one.size, other.size)
    total: np.ndarray = np.pad(one, (0, longest - one.size)) + np.pad(other, (0, longest - other.size))
    return total


def nearest_latents(W_D: Float[Tensor, "n_r n_q"], most: int) -> tuple[np.ndarray, np.ndarray]:
    """For every latent the others whose decoder columns have the largest cosine with its own, and these cosines.

    Shapes: [n_q, min(most, n_q - 1)] each. A zero column has cosine 0.
    """
    columns = torch.nn.functional.normalize(W_D.detach().float(), dim=0)
    n_q = columns.shape[1]
    most = min(most, n_q - 1)
    index, cosine = np.zeros((n_q, most), dtype=np.int64), np.zeros((n_q, most), dtype=np.float32)
    step = max(1, _CELLS // n_q)
    for start in range(0, n_q, step):
        part = columns[:, start : start + step].T @ columns
        own = torch.arange(part.shape[0], device=part.device)
        part[own, own + start] = -2.0  # itself comes last
        largest = part.topk(most, 1)
        index[start : start + step], cosine[start : start + step] = largest.indices.cpu(), largest.values.cpu()
    return index, cosine


def _cells(code: Code) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells that are not zero, by latent and then by row: (latent, row, value)."""
    if isinstance(code, SparseCode):
        order, _ = code.at.latent_major
        latent, row, value = (part[order].cpu().numpy() for part in (code.at.col, code.at.row, code.values.float()))
    else:
        cells = code.values.float().cpu().numpy()
        latent, row = np.nonzero(cells.T)
        value = cells[row, latent]
    fires = value != 0
    return latent[fires], row[fires], value[fires]


def _look(
    rows: Rows, latent: np.ndarray, row: np.ndarray, value: np.ndarray, low: int, high: int, before: int, after: int
) -> Look:
    """How a context's neighbours are found among the cells of the rows [low, high)."""
    cells = latent * (high - low) + (row - low)
    segment = rows.segment[low:high]

    def same(at: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """How many rows in a line away from `at` belong to its segment."""
        to = at[:, None] + reach
        inside = (to >= low) & (to < high)
        equal = segment[np.clip(to, low, high - 1) - low] == segment[at - low][:, None]
        reached: np.ndarray = np.cumprod(inside & equal, axis=1).sum(1).astype(np.uint8)
        return reached

    def look(of: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left, right = same(at, -np.arange(1, before + 1)), same(at, np.arange(1, after + 1))
        reach = np.arange(-before, after + 1)
        wanted = (of * (high - low))[:, None] + (at - low)[:, None] + reach
        place = np.minimum(np.searchsorted(cells, wanted), max(cells.size - 1, 0))
        shown = (reach >= -left[:, None].astype(int)) & (reach <= right[:, None].astype(int))
        window = np.where(shown & (cells[place] == wanted), value[place], 0.0).astype(np.float32)
        return window, left, right

    return look

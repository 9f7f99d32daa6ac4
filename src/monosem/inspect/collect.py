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
from monosem.inspect.fold import Counts, Keep, Look
from monosem.inspect.options import Options
from monosem.inspect.rows import Rows

_CELLS = 1 << 25
"""Cells (rows x latents) whose pre-activations are in memory at once."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What `collect` found. `top` are the strongest contexts, `sample` a uniform sample of the firings.

    `cosine` are those of decoder columns with those of `nearest`, the largest; `fvu` is None where it is undefined.
    """

    options: Options
    rows: int
    counts: Counts
    top: Keep
    sample: Keep
    nearest: Int[np.ndarray, "n_q m"]
    cosine: Float[np.ndarray, "n_q m"]
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
        neighbouring rows of the same document. The sample takes, in the same way, the rows of smallest hash.
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
    labels = None if rows.labels is None else rows.labels.codes.numpy()
    counts = Counts(model.n_q, 0 if rows.labels is None else len(rows.labels.names))
    top, sample = (Keep(model.n_q, most, before, after) for most in (options.top, options.sample))
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
        latent, row, value = latent[mine], row[mine], value[mine]
        counts.add(latent, value, None if labels is None else labels[row])
        passage = rows.passage[row]
        top.offer(latent, row, passage, np.abs(value).astype(np.float64), look)
        sample.offer(latent, row, passage, _hash(latent, row, options.seed), look)
        if progress:
            progress(stop)
    model.train(training)
    nearest, cosine = nearest_latents(model.W_D, options.nearest)
    fvu = metric.compute(state) if state.spread > 0 else None
    return Inspection(options, rows.count, counts, top, sample, nearest, cosine, fvu)


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


def _hash(latent: np.ndarray, row: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) per cell from its place alone: splitmix64's finaliser (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + latent.astype(np.uint64)
        z = (z + np.uint64(seed)) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    share: np.ndarray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return 1.0 - share

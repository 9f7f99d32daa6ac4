"""What is kept of every latent while rows stream by: counts and histograms, and its best contexts."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

BINS = 32
"""Bins of a latent's histogram; those up to its maximum are between 16 and 32."""
BANDS = 8
"""Bands of a latent's activations, four bins wide; those up to its maximum are between 4 and 8."""


class Counts:
    """Counts per latent of the rows on which it fires (its value is not zero); sizes are |value|.

    Equation: bin i of latent j holds the firings with i 2^e_j <= |value| < (i + 1) 2^e_j, where e_j is the least
        exponent for which the largest |value| lies below BINS 2^e_j. When a new maximum raises e_j, neighbouring
        bins merge, which is exact: the counts are the same for any cut of the rows into batches.
    Shapes: fired, total, largest, exponent [n_q]; histogram [n_q, BINS]; classes [n_q, number of classes].
    """

    def __init__(self, n_q: int, classes: int = 0) -> None:
        self.n_q = n_q
        self.fired: Int[np.ndarray, " n_q"] = np.zeros(n_q, dtype=np.int64)
        self.total: Float[np.ndarray, " n_q"] = np.zeros(n_q)
        self.largest: Float[np.ndarray, " n_q"] = np.zeros(n_q, dtype=np.float32)
        self.exponent: Int[np.ndarray, " n_q"] = np.zeros(n_q, dtype=np.int64)
        self.histogram: Int[np.ndarray, "n_q bins"] = np.zeros((n_q, BINS), dtype=np.int64)
        self.classes: Int[np.ndarray, "n_q classes"] = np.zeros((n_q, classes), dtype=np.int64)

    def add(
        self, latent: np.ndarray, value: np.ndarray, label: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count some cells, none of which is zero; `label` is the class of each cell's row (-1: none).

        Returns the latents whose bins merged, and by how many powers of two.
        """
        size = np.abs(value).astype(np.float32)
        self.fired += np.bincount(latent, minlength=self.n_q)
        self.total += np.bincount(latent, weights=size, minlength=self.n_q)
        merged = self._widen(latent, size)
        bins = self.bin(latent, size)
        self.histogram += np.bincount(latent * BINS + bins, minlength=self.n_q * BINS).reshape(self.n_q, BINS)
        if label is not None and self.classes.shape[1]:
            known, number = label >= 0, self.classes.shape[1]
            cells = np.bincount(latent[known] * number + label[known], minlength=self.n_q * number)
            self.classes += cells.reshape(self.n_q, number)
        return merged

    def bin(self, latent: np.ndarray, value: np.ndarray) -> np.ndarray:
        """The bins of cells that were counted."""
        size = np.abs(value).astype(np.float64)
        bins: np.ndarray = np.floor(np.ldexp(size, -self.exponent[latent])).astype(np.int64)
        return bins

    def _widen(self, latent: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take in new maxima; where a histogram's bins are too narrow for them, merge its bins."""
        largest = self.largest.copy()
        np.maximum.at(largest, latent, size)
        exponent = np.frexp(largest.astype(np.float64))[1].astype(np.int64) - (BINS.bit_length() - 1)
        empty = self.largest == 0
        self.exponent[empty] = exponent[empty]
        wider = np.flatnonzero((exponent > self.exponent) & ~empty)
        shift = np.minimum(exponent[wider] - self.exponent[wider], BINS.bit_length())
        for j, by in zip(wider, shift, strict=True):
            merged = np.arange(BINS) >> by
            self.histogram[j] = np.bincount(merged, weights=self.histogram[j], minlength=BINS).astype(np.int64)
        self.exponent[wider] = exponent[wider]
        self.largest = largest
        return wider, shift


Look = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From (latents, rows) to the latents' values in the window around each row [c, width], and its length to the
left and to the right of the row."""


class Keep:
    """The `most` contexts of highest priority per latent, each the best row of its passage.

    The result is the same for any cut of the rows into batches: of equal priorities the earlier row stays.
    Shapes: priority, row, passage, left, right [n_q, most]; window [n_q, most, width], width = before + 1 + after. An
        empty place has row -1; places are in order, the best first.
    """

    def __init__(self, n_q: int, most: int, before: int = 0, after: int = 0) -> None:
        self.most, self.before = most, before
        width = before + 1 + after
        self.priority: Float[np.ndarray, "n_q most"] = np.full((n_q, most), -np.inf)
        self.row: Int[np.ndarray, "n_q most"] = np.full((n_q, most), -1, dtype=np.int64)
        self.passage: Int[np.ndarray, "n_q most"] = np.full((n_q, most), -1, dtype=np.int64)
        self.window: Float[np.ndarray, "n_q most width"] = np.zeros((n_q, most, width), dtype=np.float32)
        self.left: Int[np.ndarray, "n_q most"] = np.zeros((n_q, most), dtype=np.uint8)
        self.right: Int[np.ndarray, "n_q most"] = np.zeros((n_q, most), dtype=np.uint8)

    @property
    def count(self) -> Int[np.ndarray, " n_q"]:
        """How many places are taken."""
        taken: np.ndarray = (self.row >= 0).sum(1)
        return taken

    def offer(self, latent: np.ndarray, row: np.ndarray, passage: np.ndarray, priority: np.ndarray, look: Look) -> None:
        """Show it some cells; `look` is asked for the windows of those that stay."""
        if not self.most:
            return
        fresh = priority > self.priority[:, -1][latent]  # the last place is the worst
        if not fresh.any():
            return
        latent, row, passage, priority = latent[fresh], row[fresh], passage[fresh], priority[fresh]
        mine = _best(latent, passage, priority, row, self.most)
        latent, row, passage, priority = latent[mine], row[mine], passage[mine], priority[mine]

        touched = np.unique(latent)
        slot_latent, slot = np.nonzero(self.row[touched] >= 0)
        slot_latent = touched[slot_latent]
        old = slot_latent.size
        latents = np.concatenate([slot_latent, latent])
        rows = np.concatenate([self.row[slot_latent, slot], row])
        passages = np.concatenate([self.passage[slot_latent, slot], passage])
        priorities = np.concatenate([self.priority[slot_latent, slot], priority])

        stay = _best(latents, passages, priorities, rows, self.most)
        place = _rank(latents[stay])
        kept_old, from_old = stay < old, stay[stay < old]
        from_new = stay[~kept_old] - old
        width = self.window.shape[2]
        window = np.zeros((stay.size, width), dtype=np.float32)
        left, right = np.zeros(stay.size, dtype=np.uint8), np.zeros(stay.size, dtype=np.uint8)
        at = (slot_latent[from_old], slot[from_old])
        window[kept_old], left[kept_old], right[kept_old] = self.window[at], self.left[at], self.right[at]
        window[~kept_old], left[~kept_old], right[~kept_old] = look(latent[from_new], row[from_new])

        self.priority[touched], self.row[touched] = -np.inf, -1
        to = (latents[stay], place)
        self.priority[to], self.row[to], self.passage[to] = priorities[stay], rows[stay], passages[stay]
        self.window[to], self.left[to], self.right[to] = window, left, right

    def move(self, old: Int[np.ndarray, " k"], new: Int[np.ndarray, " k"]) -> None:
        """Give the contexts of latents `old` to latents `new`, several to one: the best of them stay."""
        slot, place = np.nonzero(self.row[old] >= 0)
        at = (old[slot], place)
        latent, row, passage, priority = new[slot], self.row[at], self.passage[at], self.priority[at]
        parts = self.window[at], self.left[at], self.right[at]
        keys = latent * (int(row.max(initial=0)) + 1) + row  # a latent has one context of a row
        order = np.argsort(keys)

        def look(of: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            mine = order[np.searchsorted(keys[order], of * (int(row.max(initial=0)) + 1) + rows)]
            window, left, right = (part[mine] for part in parts)
            return window, left, right

        self.priority[old], self.row[old], self.passage[old] = -np.inf, -1, -1
        self.window[old], self.left[old], self.right[old] = 0, 0, 0
        self.offer(latent, row, passage, priority, look)


class Bands(Keep):
    """Contexts of every band of every latent's activations: band i holds the bins 4 i to 4 i + 3 of `Counts`.

    Latent j's band i is this Keep's latent BANDS j + i. Bands merge as bins do, so that a context drawn at random stays
    one: the result is the same for any cut of the rows into batches.
    """

    def __init__(self, n_q: int, most: int, before: int = 0, after: int = 0) -> None:
        super().__init__(BANDS * n_q, most, before, after)

    def merge(self, latent: np.ndarray, shift: np.ndarray) -> None:
        """Follow the latents whose bins became 2^shift times as wide."""
        band = np.arange(BANDS)
        old = (latent[:, None] * BANDS + band).reshape(-1)
        self.move(old, (latent[:, None] * BANDS + (band >> shift[:, None])).reshape(-1))

    def by_latent(self) -> Keep:
        """The same contexts by latent, a latent's bands one after the other, empty places between them."""
        keep = Keep(0, BANDS * self.most, self.before)
        for name in ("priority", "row", "passage", "window", "left", "right"):
            part = getattr(self, name)
            setattr(keep, name, part.reshape(-1, BANDS * self.most, *part.shape[2:]))
        return keep


def _rank(latent: np.ndarray) -> np.ndarray:
    """The place of every entry among those of its latent, for entries sorted by latent."""
    starts = np.flatnonzero(np.diff(latent, prepend=-1))
    lengths = np.diff(starts, append=latent.size)
    rank: np.ndarray = np.arange(latent.size) - np.repeat(starts, lengths)
    return rank


def _best(latent: np.ndarray, passage: np.ndarray, priority: np.ndarray, row: np.ndarray, most: int) -> np.ndarray:
    """Which entries stay: per latent the best of each passage, and of these the first `most`; best first."""
    order = np.lexsort((row, -priority, latent))
    same = latent[order].astype(np.int64) * (int(passage.max(initial=0)) + 1) + passage[order]
    first = np.sort(np.unique(same, return_index=True)[1])  # np.unique points at the first, which is the best
    order = order[first]
    stay: np.ndarray = order[_rank(latent[order]) < most]
    return stay


def cell_hash(latent: np.ndarray, row: np.ndarray, seed: int) -> np.ndarray:
    """A number in (0, 1] per cell from its place alone: splitmix64's finaliser (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + latent.astype(np.uint64)
        z = (z + np.uint64(seed)) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    share: np.ndarray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return 1.0 - share

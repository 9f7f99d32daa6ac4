"""What is said of all latents at once: which fire together, how specific each is, and a map of their directions."""

import numpy as np
from jaxtyping import Float, Int

from monosem.base.seeds import philox
from monosem.inspect.fold import cell_hash

_PAIRS = 1 << 25
"""Pairs of firings on one row that are counted."""
_CELLS = 1 << 22
"""Pairs of latents whose counts are in memory at once."""


class Together:
    """Firings on the same rows, of as many rows as hold `_PAIRS` pairs, drawn by their hash.

    A row stays while its hash is at most 2^-t, t the least that keeps the pairs within bounds: the rows that stay are
    the same for any cut of the rows into batches.
    """

    def __init__(self, n_q: int, seed: int = 0) -> None:
        self.n_q, self.seed, self.limit, self.pairs = n_q, seed, 1.0, 0.0
        self.latent = self.row = np.zeros(0, dtype=np.int64)

    def add(self, latent: np.ndarray, row: np.ndarray) -> None:
        """Show it the cells that are not zero, of rows that it has not seen."""
        stay = self._stays(row)
        self.latent, self.row = np.append(self.latent, latent[stay]), np.append(self.row, row[stay])
        self.pairs += _pairs(row[stay])
        while self.pairs > _PAIRS:
            self.limit /= 2
            stay = self._stays(self.row)
            self.latent, self.row = self.latent[stay], self.row[stay]
            self.pairs = _pairs(self.row)

    def _stays(self, row: np.ndarray) -> np.ndarray:
        stays: np.ndarray = cell_hash(np.zeros(1), row, self.seed) <= self.limit
        return stays

    def most(self, number: int) -> tuple[Int[np.ndarray, "n_q c"], Float[np.ndarray, "n_q c"]]:
        """For every latent the others that it fires with most, and how much, c = min(number, n_q - 1).

        Equation: phi_ij = (n n_ij - n_i n_j) / sqrt(n_i (n - n_i) n_j (n - n_j)), n_ij of the n rows on which both
            fire; 0 for a latent that fires on none or on all.
        Source: Yule (1912).
        """
        number = min(number, self.n_q - 1)
        if not number:
            return np.zeros((self.n_q, 0), dtype=np.int64), np.zeros((self.n_q, 0), dtype=np.float32)
        rows, at = np.unique(self.row, return_inverse=True)
        by_row = np.lexsort((self.latent, at))
        length = np.bincount(at, minlength=rows.size)
        start = np.cumsum(length) - length
        others = self.latent[by_row]
        by_latent = np.lexsort((at, self.latent))
        latent, place = self.latent[by_latent], at[by_latent]
        fired = np.bincount(latent, minlength=self.n_q).astype(np.float64)
        spread = np.sqrt(fired * (rows.size - fired))
        index, phi = np.zeros((self.n_q, number), dtype=np.int64), np.zeros((self.n_q, number), dtype=np.float32)
        step = max(1, _CELLS // self.n_q)
        for first in range(0, self.n_q, step):
            mine = slice(*np.searchsorted(latent, (first, min(first + step, self.n_q))))
            reach = length[place[mine]]
            cell = np.arange(reach.sum()) - np.repeat(np.cumsum(reach) - reach, reach)
            other = others[cell + np.repeat(start[place[mine]], reach)]
            key = np.repeat(latent[mine] - first, reach) * self.n_q + other
            size = min(step, self.n_q - first)
            both = np.bincount(key, minlength=size * self.n_q).reshape(size, self.n_q)
            block = slice(first, first + size)
            scale = spread[block, None] * spread
            value = (rows.size * both - fired[block, None] * fired) / np.where(scale > 0, scale, np.inf)
            value[np.arange(size), np.arange(size) + first] = -2.0  # itself comes last
            best = np.argpartition(-value, number - 1, axis=1)[:, :number]
            best = np.take_along_axis(best, np.argsort(-np.take_along_axis(value, best, 1), 1, kind="stable"), 1)
            index[block], phi[block] = best, np.take_along_axis(value, best, 1)
        return index, phi


def _pairs(row: np.ndarray) -> float:
    """How many pairs of firings lie on one row."""
    return float((np.unique(row, return_counts=True)[1].astype(np.float64) ** 2).sum())


def specificity(
    hits: Int[np.ndarray, " n_q"], shown: Int[np.ndarray, " n_q"], base: Float[np.ndarray, " n_q"]
) -> Float[np.ndarray, " n_q"]:
    """What a firing says about one word or class, in bits.

    Equation: p log2(p / q) + (1 - p) log2((1 - p) / (1 - q)), p = (hits + q) / (shown + 1) the share of the firings
        that have the word, q its share of all rows; 0 where p <= q.

    Example:
        >>> bits = specificity(np.array([8, 1]), np.array([8, 8]), np.array([0.01, 0.2]))
        >>> bool(bits[0] > 4), float(bits[1])
        (True, 0.0)
    """
    q = np.clip(base, 1e-12, 1 - 1e-12)
    p = (hits + q) / (shown + 1)
    rest = np.maximum(1 - p, 1e-300)
    bits: np.ndarray = np.where(p > q, p * np.log2(p / q) + rest * np.log2(rest / (1 - q)), 0.0)
    return bits


def modal(
    latent: Int[np.ndarray, " cells"], word: Int[np.ndarray, " cells"], n_q: int
) -> tuple[Int[np.ndarray, " n_q"], Int[np.ndarray, " n_q"]]:
    """The most frequent word of every latent's cells, and how often it has it; (0, 0) without cells.

    Example:
        >>> modal(np.array([0, 0, 0, 2]), np.array([5, 7, 7, 3]), 3)
        (array([7, 0, 3]), array([2, 0, 1]))
    """
    size = int(word.max(initial=0)) + 1
    key, count = np.unique(latent * size + word, return_counts=True)
    order = np.lexsort((-key, count))  # the largest count comes last, of equal ones the smallest word
    best, most = np.zeros(n_q, dtype=np.int64), np.zeros(n_q, dtype=np.int64)
    best[key[order] // size], most[key[order] // size] = key[order] % size, count[order]
    return best, most


def direction_map(
    columns: Float[np.ndarray, "n_r n_q"],
    nearest: Int[np.ndarray, "n_q m"],
    cosine: Float[np.ndarray, "n_q m"],
    epochs: int = 150,
) -> Float[np.ndarray, "n_q 2"]:
    """Places in the plane for decoder directions: a latent lies near those of the most similar columns.

    Equation: gradient steps on -sum_ij w_ij log s_ij - 4 sum_ik log(1 - s_ik), s_ij = 1 / (1 + |y_i - y_j|^2), over
        the nearest latents j with weights w = max(0, cosine) that sum to 1, and over five latents k that are drawn at
        every step. They start from the two leading principal components.
    Source: McInnes et al. 2018 (UMAP), with a = b = 1.
    """
    n_q, m = nearest.shape
    random = philox(0, "direction map")
    y = _principal(columns, random)
    if m == 0:
        return y
    weight = np.maximum(cosine.astype(np.float64), 0)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
    from_, to = np.repeat(np.arange(n_q), m), nearest.reshape(-1)
    pull = weight.reshape(-1)
    for epoch in range(epochs):
        rate = 1.0 - epoch / epochs
        gap = y[from_] - y[to]
        force = -2 * pull[:, None] / (1 + (gap**2).sum(1, keepdims=True)) * gap
        moved = _sums(from_, force, n_q) - _sums(to, force, n_q)
        for _ in range(5):
            away = y - y[random.permutation(n_q)]
            square = (away**2).sum(1, keepdims=True)
            moved += 8 / ((0.01 + square) * (1 + square)) * away
        y = y + rate * np.clip(moved, -2, 2)
    return y


def _sums(at: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    return np.stack([np.bincount(at, values[:, i], size) for i in range(2)], 1)


def _principal(columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The unit columns' two leading principal components by subspace iteration, each of spread 10."""
    unit = columns.astype(np.float64) / np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    unit -= unit.mean(1, keepdims=True)
    unit = np.pad(unit, ((0, max(0, 2 - unit.shape[0])), (0, 0)))
    axes = random.standard_normal((unit.shape[0], 2))
    for _ in range(15):
        axes = np.linalg.qr(unit @ (unit.T @ axes))[0]
    y = unit.T @ axes
    y *= np.where(y[np.abs(y).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    scaled: np.ndarray = 10 * y / np.maximum(y.std(0), 1e-12)
    return scaled

"""What is counted of every latent while rows stream by: firings, sums, maxima, histograms, classes."""

import numpy as np
from jaxtyping import Float, Int

BINS = 32
"""Bins of a latent's histogram; those up to its maximum are between 16 and 32."""


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

    def add(self, latent: np.ndarray, value: np.ndarray, label: np.ndarray | None = None) -> None:
        """Count some cells, none of which is zero; `label` is the class of each cell's row (-1: none)."""
        size = np.abs(value).astype(np.float32)
        self.fired += np.bincount(latent, minlength=self.n_q)
        self.total += np.bincount(latent, weights=size, minlength=self.n_q)
        self._widen(latent, size)
        bins = np.floor(np.ldexp(size.astype(np.float64), -self.exponent[latent])).astype(np.int64)
        self.histogram += np.bincount(latent * BINS + bins, minlength=self.n_q * BINS).reshape(self.n_q, BINS)
        if label is not None and self.classes.shape[1]:
            known, number = label >= 0, self.classes.shape[1]
            cells = np.bincount(latent[known] * number + label[known], minlength=self.n_q * number)
            self.classes += cells.reshape(self.n_q, number)

    def _widen(self, latent: np.ndarray, size: np.ndarray) -> None:
        """Take in new maxima; where a histogram's bins are too narrow for them, merge its bins."""
        largest = self.largest.copy()
        np.maximum.at(largest, latent, size)
        exponent = np.frexp(largest.astype(np.float64))[1].astype(np.int64) - (BINS.bit_length() - 1)
        empty = self.largest == 0
        self.exponent[empty] = exponent[empty]
        for j in np.flatnonzero((exponent > self.exponent) & ~empty):
            merged = np.arange(BINS) >> min(int(exponent[j] - self.exponent[j]), BINS.bit_length())
            self.histogram[j] = np.bincount(merged, weights=self.histogram[j], minlength=BINS).astype(np.int64)
            self.exponent[j] = exponent[j]
        self.largest = largest

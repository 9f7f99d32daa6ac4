"""Class means of labelled rows: what they would be as anchors, raw and centred, and whether they tell classes apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.anchors.directions import COINCIDENT, Anchors
from monosem.base.errors import DataError, check
from monosem.data.source import FileSource
from monosem.data.table import Labels, Table


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Counts, means and variances of the rows of each class, on one side.

    Shapes: count [classes]; mean [classes, width]; variance [width], within classes, pooled.
    """

    count: Int[Tensor, " classes"]
    mean: Float[Tensor, "classes width"]
    variance: Float[Tensor, " width"]

    @cached_property
    def centre(self) -> Float[Tensor, " width"]:
        """The mean of all class means."""
        return self.mean.mean(0)

    def directions(self, centre: bool = True, shrinkage: float = 0.0) -> Float[Tensor, "classes width"]:
        """Unit class means.

        Equation: d_c = m_c - m, m the mean of all m_c; with shrinkage t each coordinate of d_c is multiplied by
            max(0, 1 - t s_j^2 / (n_c b_j)), s_j^2 its variance within classes, b_j = sum over c of
            d_cj^2 / (classes - 1); with `centre` d_c over its norm, else m + d_c over its norm.
        Source: eq 23-24 of Tang et al. 2025, which do not centre; t = 1 is the positive-part James-Stein estimate,
            which trusts a coordinate as far as classes differ in it by more than the noise of their means.
        Raises: ArgumentError for a negative shrinkage; DataError when nothing of a class is left.
        """
        check(shrinkage >= 0, f"shrinkage={shrinkage}; it is 0 (none) or more, 1 as James and Stein")
        apart = self.mean - self.centre
        if shrinkage:
            between = (apart.square().sum(0) / max(1, len(apart) - 1)).clamp(min=1e-30)
            apart = apart * (1 - shrinkage * self.variance / (self.count[:, None] * between)).clamp(min=0)
        vectors = apart if centre else apart + self.centre
        norms = vectors.norm(dim=1, keepdim=True)
        gone = (norms[:, 0] == 0).nonzero().flatten().tolist()
        check(not gone, f"classes {gone} have no direction left; use less shrinkage, or more rows", DataError)
        unit: Tensor = vectors / norms
        return unit


@dataclass(frozen=True)
class AnchorQuality:
    """What class means are worth as anchors, measured with means of half of the rows on the other half.

    `closest`: the largest cosine of two anchors; `coincident`: pairs above 0.95; `accuracy`: rows whose own
    class's anchor is the nearest by cosine, averaged over classes, beside `chance` = 1 / classes.
    """

    closest: float
    coincident: int
    accuracy: float
    chance: float


def means_of(table: Table, labels: Labels, parity: int | None = None) -> ClassMeans:
    """Class means of a table, read in chunks, in float64; of its even or odd rows only with `parity` 0 or 1.

    Raises: DataError when a class has no row.
    """
    classes = len(labels.names)
    total = torch.zeros(classes, table.width, dtype=torch.float64)
    square = torch.zeros(table.width, dtype=torch.float64)
    count = torch.zeros(classes, dtype=torch.int64)
    for x, codes in _chunks(table, labels, parity):
        total.index_add_(0, codes, x)
        square += x.square().sum(0)
        count += torch.bincount(codes, minlength=classes)
    few = [labels.names[c] for c in (count == 0).nonzero().flatten().tolist()]
    check(not few, f"classes {', '.join(few[:5])} have too few rows; drop them, or give more", DataError)
    mean = total / count[:, None]
    within = (square - (count[:, None] * mean.square()).sum(0)).clamp(min=0)
    return ClassMeans(count, mean, within / max(1, int(count.sum()) - classes))


def read_means(table: Table, labels: Labels, centre: bool = True, shrinkage: float = 0.0) -> AnchorQuality:
    """How well class means serve as anchors. Raises: as `means_of`, for classes with a single row too."""
    even = means_of(table, labels, 0)
    directions = even.directions(centre, shrinkage)
    right = torch.zeros(len(labels.names), dtype=torch.float64)
    seen = torch.zeros(len(labels.names), dtype=torch.int64)
    for x, codes in _chunks(table, labels, 1):
        x = x - even.centre if centre else x
        hit = (x @ directions.T).argmax(1) == codes
        right.index_add_(0, codes, hit.double())
        seen += torch.bincount(codes, minlength=len(labels.names))
    there = seen > 0
    every = means_of(table, labels).directions(centre, shrinkage)
    cosine = (every @ every.T).fill_diagonal_(0)
    accuracy = float((right[there] / seen[there]).mean())
    return AnchorQuality(float(cosine.max()), int((cosine > COINCIDENT).sum()) // 2, accuracy, 1 / len(labels.names))


def class_anchors(
    source: FileSource,
    labels: Labels,
    classes: Sequence[str] | None = None,
    centre: bool = True,
    shrinkage: float = 0.0,
) -> Anchors:
    """Anchors at class means of x_p (encoder rows) and x_r (decoder columns), as `ClassMeans.directions` gives them.

    All classes count for the centre, also when anchors are wanted at some `classes` only.
    Raises: DataError when all rows have one label, or a class that is asked for has no row.
    """
    check(len(labels.names) > 1, f"all rows are labelled {labels.names[0]!r}; class means need two classes", DataError)
    chosen = torch.arange(len(labels.names)) if classes is None else labels.pick(classes)
    p = means_of(source.x_p, labels).directions(centre, shrinkage)[chosen]
    r = p if source.x_r is None else means_of(source.x_r, labels).directions(centre, shrinkage)[chosen]
    return Anchors(p.T, r.T, "class_means")


def _chunks(table: Table, labels: Labels, parity: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    for start, rows in table.chunks():
        codes = labels.codes[start : start + rows.shape[0]]
        if parity is not None:
            rows, codes = rows[parity::2], codes[parity::2]
        yield rows.double(), codes

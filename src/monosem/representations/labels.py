"""Labels of rows, and the anchors that the means of their classes give."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from monosem.anchoring.anchors import Anchors, class_means
from monosem.base.errors import DataError, check
from monosem.representations.source import FileSource
from monosem.representations.table import Table, read_array

__all__ = ["Labels", "class_anchors", "read_labels"]


@dataclass(frozen=True, eq=False)
class Labels:
    """One class per row, as a number into `names`."""

    codes: Int[Tensor, " rows"]
    names: tuple[str, ...]

    def pick(self, names: Sequence[str]) -> Int[Tensor, " picked"]:
        """The numbers of some classes. Raises: DataError for a name that no row carries."""
        absent = [name for name in names if name not in self.names]
        check(not absent, f"no row is labelled {', '.join(absent)}; known: {', '.join(self.names)}", DataError)
        return torch.tensor([self.names.index(name) for name in names], dtype=torch.int64)


def read_labels(path: str | Path, rows: int, key: str | None = None) -> Labels:
    """Labels from a .npy, .safetensors or .parquet file: whole numbers or text, one per row.

    Raises: DataError, naming the file, when they are not one per row or not labels.
    """
    values = read_array(path, key)
    values = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    check(
        values.ndim == 1,
        f"{path} has shape {values.shape}; labels are one number or word per row, shape ({rows},)",
        DataError,
    )
    check(values.shape[0] == rows, f"{path} has {values.shape[0]} labels for {rows} rows; give one per row", DataError)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(np.where(np.isfinite(values), values, 0.5)))
        if not whole.all():
            row = int((~whole).argmax())
            raise DataError(f"{path}: label {row} is {values[row]}, not a whole number; labels name classes")
        values = values.astype(np.int64)
    check(values.dtype.kind in "iubUS", f"{path} holds {values.dtype}, not labels; give integers or text", DataError)
    names, codes = np.unique(values, return_inverse=True)
    words = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    return Labels(torch.from_numpy(codes.reshape(-1)), words)


def class_anchors(
    source: FileSource, labels: Labels, classes: Sequence[str] | None = None, centre: bool = True
) -> Anchors:
    """Anchors at the class means of a source, as `anchoring.class_means`, reading the rows in chunks.

    Equation: mean over class c of x_p (and of x_r), minus the mean of all class means with `centre`, over its norm.
    """
    check(len(labels.names) > 1, f"all rows are labelled {labels.names[0]!r}; class means need two classes", DataError)
    x_p = _means(source.x_p, labels)
    x_r = x_p if source.x_r is None else _means(source.x_r, labels)
    chosen = None if classes is None else labels.pick(classes)
    return class_means(x_p, torch.arange(len(labels.names)), x_r, centre, chosen)


def _means(table: Table, labels: Labels) -> Tensor:
    """[classes, width] means in float64."""
    total = torch.zeros(len(labels.names), table.width, dtype=torch.float64)
    for start, rows in table.chunks():
        total.index_add_(0, labels.codes[start : start + rows.shape[0]], rows.double())
    return total / torch.bincount(labels.codes, minlength=len(labels.names))[:, None]

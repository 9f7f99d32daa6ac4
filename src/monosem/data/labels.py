"""Labels of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.data.table import read_array


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

"""FVU of all rows, trimmed and by dimension, against numpy on all rows at once."""

import numpy as np
import pytest
import torch

from monosem.base.errors import DataError
from monosem.bench.robust import RobustFVU


def _rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """3,000 rows, 12 of them thirty times as long; one dimension that varies most, one that does not at all."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, 7, generator=generator) + 4
    x[:, 2] *= 20
    x[::250] *= 30
    x[:, 5] = 3
    return x, x + 0.3 * torch.randn(3000, 7, generator=generator) * (x - x.mean(0)).abs().clamp(max=5)


def test_three_numbers_in_any_batches() -> None:
    x, y = _rows()
    a, b = x.double().numpy(), y.double().numpy()

    def fvu(rows: np.ndarray) -> float:
        return float(((a[rows] - b[rows]) ** 2).sum() / ((a[rows] - a[rows].mean(0)) ** 2).sum())

    order = np.argsort(-np.linalg.norm(a, axis=1), kind="stable")
    varies = [0, 1, 2, 3, 4, 6]
    by_dimension = (((a - b) ** 2).sum(0) / ((a - a.mean(0)) ** 2).sum(0).clip(1e-300))[varies].mean()
    for size in (3000, 400, 7):
        sums = RobustFVU(7)
        for start in range(0, 3000, size):
            sums.update(x[start : start + size], y[start : start + size])
        result = sums.result()
        assert result.fvu == pytest.approx(fvu(order), rel=1e-9)
        assert result.trimmed == pytest.approx(fvu(order[30:]), rel=1e-5)
        assert result.by_dimension == pytest.approx(by_dimension, rel=1e-9)
    assert result.trimmed > 3 * result.fvu  # twelve rows decided it
    assert set(result.plain()) == {"fvu", "trimmed", "by_dimension"}


def test_nothing_to_say() -> None:
    with pytest.raises(DataError, match="0 rows to evaluate"):
        RobustFVU(3).result()
    sums = RobustFVU(3)
    sums.update(torch.ones(4, 3), torch.zeros(4, 3))
    with pytest.raises(DataError, match="all equal"):
        sums.result()

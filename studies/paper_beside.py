"""Our numbers beside the printed ones, in sentences: how far apart, in which order, and against k."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from monosem.report.summary import HEADLINE
from studies.bench.base import Study
from studies.report.study import Cell

RAW, COS = "encoder_raw.M_IP", "decoder_cosine.M_IP"
_RAW_SHARE = "encoder_raw.M_GT@0.95"

Beside = list[tuple[Cell, float, float, float]]
"""A cell, what is printed of it, and ours by the raw inner product and by |cos| of decoder columns."""


def _beside(study: Study, cells: Sequence[Cell], which: int, raw: str, cosine: str) -> Beside:
    """Cells with a printed M_GT (`which` 0) or M_IP (1), beside two scores of ours."""
    found: Beside = []
    for cell in cells:
        printed = study.printed.get((cell.row, cell.arm), (None, None))[which]
        by_raw, by_cosine = cell.value(raw), cell.value(cosine)
        if printed is not None and by_raw is not None and by_cosine is not None:
            found.append((cell, printed, by_raw.mean, by_cosine.mean))
    return found


def distance(study: Study, cells: Sequence[Cell]) -> str:
    """How far the printed M_IP lies from ours by the raw inner product and by the decoder cosine."""
    found = _beside(study, cells, 1, RAW, COS)
    if not found:
        return ""
    raw = sum(abs(printed - by_raw) for _, printed, by_raw, _ in found) / len(found)
    cosine = sum(abs(printed - by_cosine) for _, printed, _, by_cosine in found) / len(found)
    return (
        f"- Over {len(found)} cells with the paper's (inferred) settings the printed M_IP differs on average by "
        f"{raw:.3f} from our raw inner product of encoder rows, and by {cosine:.3f} from the |cos| of the decoder "
        "columns of the same dictionaries."
    )


def order(study: Study, cells: Sequence[Cell]) -> str:
    """Whether our numbers fall where the printed ones fall: Spearman's rank correlation of M_GT over cells."""
    found = _beside(study, cells, 0, _RAW_SHARE, HEADLINE)
    columns = [np.array([row[i] for row in found]) for i in (1, 2, 3)]
    if len(found) < 10 or any(len(np.unique(column)) < 3 for column in columns):
        return ""
    raw, cosine = (float(spearmanr(columns[0], column).statistic) for column in columns[1:])
    return (
        f"- The order of the rows: over {len(found)} cells with the paper's (inferred) settings the printed M_GT has "
        f"rank correlation {raw:.2f} with ours by the raw inner product, and {cosine:.2f} by |cos| of decoder columns."
    )


def k_by_rate(study: Study, cells: Sequence[Cell]) -> str:
    """Table 6 beside k against the true L0: the paper's TopK with one k, by activation probability."""
    if study.name != "table6":
        return ""
    found = [row for row in _beside(study, cells, 0, _RAW_SHARE, HEADLINE) if row[0].arm == "paper"]
    found = [row for row in found if row[0].row.endswith(", topk")]
    columns = [[row[1] for row in found], [100 * row[3] for row in found]]
    if len(found) < 2 or any(column != sorted(column) for column in columns):
        return ""
    printed, ours = (max(column) - min(column) for column in columns)
    rates = [float(row[0].row.split()[1].rstrip(",")) for row in found]
    parts = [
        f"{1000 * rate:g} active, {share:g} ({100 * raw:.1f}, {100 * cosine:.1f})"
        for rate, (_, share, raw, cosine) in zip(rates, found, strict=True)
    ]
    return (
        "- **More is found as the true L0 nears k**, in print as here; but a higher rate also shows each feature more "
        "often, and this table cannot tell the two apart ([table 7](table7.md) moves k alone). TopK with k = 128, by "
        "the mean number of active features: printed M_GT in percent (ours by the inner product, by |cos| of decoder "
        f"columns): {'; '.join(parts)}. The printed numbers differ by {printed:.1f} points between these rows, ours "
        f"by {ours:.1f}; runs here are short for a large k ([settings](settings.md))."
    )

"""The scores of SynthSAEBench, as its released scorer counts them, and the truth's side of the same comparison."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import check
from monosem.base.sparse import Code
from monosem.bench.world import SparseFeatures

BINS = (0.0, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1.0)
"""Edges of realised rates by which features are grouped."""


@dataclass(frozen=True)
class Scored:
    """One batch: the model's code, its reconstruction, the rows and the features that made them."""

    code: Code
    x_hat: Float[Tensor, "batch width"]
    x: Float[Tensor, "batch width"]
    features: SparseFeatures


def synth_scores(
    W_D: Float[Tensor, "width n_q"], directions: Float[Tensor, "n width"], batches: Iterable[Scored]
) -> dict[str, Any]:
    """Every score of a dictionary on one set of rows.

    Equation:
        best(j) = argmax_i |cos(W_D[:, j], d_i)|; over rows, latent j fires where its code is not 0, feature i where its
        size is not 0; F1_j = 2 TP / (fires_j + count_best(j)), 0 where undefined; `f1`, `precision`, `recall`: plain
        means over all latents, dead ones included.
        `mcc` = mean |cos| over the assignment of latents to features that maximises their sum; `uniqueness` = distinct
        best(j) / n_q; `ev` = 1 - mean |x - x_hat|^2 / (mean |x|^2 - |mean x|^2); `shrinkage` = mean |x_hat| / |x|.
        `truth_f1`: over the features, of each one's assigned latent, 0 for a feature that has none or whose cosine is
        negative; `truth_f1_by_rate` the same by realised rate; `signed_mcc`: the assignment's mean signed cosine.
    Reduction: all counts over all rows; sums in float64.
    Source: Chanin et al. (arXiv 2602.14687) for all but the truth's side, which is ours.
    """
    cosines = _cosines(W_D, directions)
    best = cosines.abs().argmax(1)
    latent, feature = _assigned(cosines)
    partner = torch.full((len(cosines),), -1, dtype=torch.int64)
    partner[latent] = feature
    counts = _Counts(len(cosines), len(directions), W_D.shape[0])
    for batch in batches:
        counts.add(batch, best, partner)
    check(counts.rows > 0, "there are no rows to score; give at least one batch")
    matched = cosines[latent, feature]
    return {
        **_latents(counts, best),
        "mcc": float(matched.abs().double().mean()),
        "signed_mcc": float(matched.double().mean()),
        "uniqueness": len(set(best.tolist())) / len(best),
        **_truth(counts, latent, feature, matched),
        **_rows(counts),
    }


def _cosines(W_D: Tensor, directions: Tensor) -> Float[Tensor, "n_q n"]:
    columns = torch.nn.functional.normalize(W_D.detach().float(), dim=0)
    return columns.T @ torch.nn.functional.normalize(directions.float(), dim=1).T


def _assigned(cosines: Float[Tensor, "n_q n"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    from scipy.optimize import linear_sum_assignment

    latent, feature = linear_sum_assignment(cosines.abs().numpy(), maximize=True)
    return torch.from_numpy(latent), torch.from_numpy(feature)


class _Counts:
    """Counters over rows, for each latent and each feature."""

    def __init__(self, n_q: int, n: int, width: int) -> None:
        self.rows = self.active = 0
        self.fires, self.hits, self.partner_hits = (torch.zeros(n_q, dtype=torch.int64) for _ in range(3))
        self.count = torch.zeros(n, dtype=torch.int64)
        self.error = self.square = self.ratio = 0.0
        self.ratios = 0
        self.total = torch.zeros(width, dtype=torch.float64)

    def add(self, batch: Scored, best: Int[Tensor, " n_q"], partner: Int[Tensor, " n_q"]) -> None:
        """Count one batch."""
        row, latent = _cells(batch.code)
        n, features = len(self.count), batch.features
        present = torch.zeros(len(features), n, dtype=torch.bool)
        present[torch.repeat_interleave(torch.arange(len(features)), features.l0), features.col] = True
        self.count += torch.bincount(features.col, minlength=n)
        self.fires += torch.bincount(latent, minlength=len(best))
        self.hits += torch.bincount(latent[present[row, best[latent]]], minlength=len(best))
        paired = partner[latent] >= 0
        both = paired & present[row, partner[latent].clamp(min=0)]
        self.partner_hits += torch.bincount(latent[both], minlength=len(best))
        self.rows += len(features)
        self.active += latent.numel()
        self._reconstruction(batch.x.double(), batch.x_hat.detach().double())

    def _reconstruction(self, x: Tensor, x_hat: Tensor) -> None:
        self.error += float((x - x_hat).square().sum())
        self.square += float(x.square().sum())
        self.total += x.sum(0)
        norm, own = x.norm(dim=1), x_hat.norm(dim=1)
        clear = norm > 1e-6
        self.ratio += float((own[clear] / norm[clear]).sum())
        self.ratios += int(clear.sum())


def _cells(code: Code) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"]]:
    """(row, latent) of the latents that are not zero."""
    if code.is_sparse:
        on = code.values != 0
        return code.at.row[on], code.at.col[on]  # type: ignore[union-attr]
    row, latent = code.values.nonzero(as_tuple=True)
    return row, latent


def _latents(counts: _Counts, best: Tensor) -> dict[str, float]:
    hits, fires, count = counts.hits.double(), counts.fires.double(), counts.count[best].double()
    return {
        "f1": float(_ratio(2 * hits, fires + count).mean()),
        "precision": float(_ratio(hits, fires).mean()),
        "recall": float(_ratio(hits, count).mean()),
        "accuracy": float(1.0 - ((fires - hits) + (count - hits)).mean() / counts.rows),
        "dead": float((fires == 0).double().mean()),
        "l0": counts.active / counts.rows,
    }


def _truth(counts: _Counts, latent: Tensor, feature: Tensor, matched: Tensor) -> dict[str, Any]:
    f1 = torch.zeros(len(counts.count), dtype=torch.float64)
    own = _ratio(2 * counts.partner_hits[latent].double(), (counts.fires[latent] + counts.count[feature]).double())
    f1[feature] = torch.where(matched > 0, own, 0.0)
    rates = counts.count.double().numpy() / counts.rows
    group = np.digitize(rates, BINS[1:-1])
    kinds = range(len(BINS) - 1)
    by_rate = [float(f1.numpy()[group == kind].mean()) if (group == kind).any() else None for kind in kinds]
    return {
        "truth_f1": float(f1.mean()),
        "truth_f1_by_rate": by_rate,
        "features_by_rate": np.bincount(group, minlength=len(kinds)).tolist(),
    }


def _rows(counts: _Counts) -> dict[str, float]:
    spread = counts.square / counts.rows - float((counts.total / counts.rows).square().sum())
    return {
        "ev": 1.0 - counts.error / counts.rows / spread,
        "shrinkage": counts.ratio / max(counts.ratios, 1),
        "rows": counts.rows,
        "true_l0": float(counts.count.sum()) / counts.rows,
    }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1e-300), 0.0)

"""Codes against the features that made the rows: F1 with missing features as 0, by frequency, shrinkage, splitting."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Code
from monosem.bench.world import SparseFeatures

BINS = 5
"""Parts of equal size by how often a feature fires."""
NEAR = 0.8
"""A latent belongs to a feature above this |cos|."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Which latent stands for which feature: one to one, of the largest total |cos|, only where it exceeds NEAR.

    `near` are the latents that are near some feature, and all that codes are read of; `family` marks which is near
    which. Shapes: latent [n], a place in `near` (-1: missing); sign [n]; near, norms [k]; family [n, k].
    """

    latent: Int[Tensor, " n"]
    sign: Float[Tensor, " n"]
    near: Int[Tensor, " k"]
    family: Bool[Tensor, "n k"]
    norms: Float[Tensor, " k"]

    @staticmethod
    def of(W_D: Float[Tensor, "n_r n_q"], W_r: Float[Tensor, "n_r n"]) -> "Matching":
        """By the Hungarian method on |cos| of decoder columns with true ones."""
        from scipy.optimize import linear_sum_assignment

        check(W_D.shape[0] == W_r.shape[0], f"n_r = {W_D.shape[0]} in W_D but {W_r.shape[0]} in W_r", ShapeError)
        unit = torch.nn.functional.normalize
        cosine = unit(W_r.double(), dim=0).T @ unit(W_D.double(), dim=0)
        feature, latent = (
            torch.from_numpy(part) for part in linear_sum_assignment(cosine.abs().numpy(), maximize=True)
        )
        family = cosine.abs() > NEAR
        near = family.any(0).nonzero().flatten()
        place = torch.full((cosine.shape[1],), -1)
        place[near] = torch.arange(near.numel())
        own = cosine[feature, latent]
        good = own.abs() > NEAR
        chosen, sign = torch.full((cosine.shape[0],), -1), torch.ones(cosine.shape[0], dtype=torch.float64)
        chosen[feature[good]] = place[latent[good]]
        sign[feature] = own.sign()
        return Matching(chosen, sign, near, family[:, near], W_D[:, near].norm(dim=0).double())


class CodeTruth:
    """Counts over batches of rows, from which every metric of codes against features is read.

    Equation: F1_i = 2 TP_i / (fires_i + events_i), 0 for a feature without a latent; macro: the mean over features
    """

    def __init__(self, matching: Matching) -> None:
        self.matching, n = matching, matching.latent.numel()
        zeros = torch.zeros(n, dtype=torch.float64)
        self.hits, self.fires, self.events = zeros.clone(), zeros.clone(), zeros.clone()
        self.product, self.square = zeros.clone(), zeros.clone()
        self.covered = torch.zeros_like(matching.family, dtype=torch.float64)
        self.any_covered = zeros.clone()

    def add(self, code: Code, features: SparseFeatures) -> None:
        """One batch: codes and the features of the same rows."""
        z, x = code.to_dense()[:, self.matching.near].double(), features.dense().double()
        check(z.shape[0] == x.shape[0], f"{z.shape[0]} rows of codes for {x.shape[0]} of features", ShapeError)
        present, latent = x != 0, self.matching.latent
        self.events += present.sum(0)
        if not z.shape[1]:
            return
        own = torch.where(latent >= 0, z[:, latent.clamp(min=0)], 0.0)
        on = own != 0
        both = present & on
        self.hits += both.sum(0)
        self.fires += on.sum(0)
        size = own * (self.matching.norms[latent.clamp(min=0)] * self.matching.sign)
        self.product += (size * x * both).sum(0)
        self.square += (x.square() * both).sum(0)
        active = (z != 0).double()
        self.covered += (present.double().T @ active) * self.matching.family
        self.any_covered += (((active @ self.matching.family.double().T) > 0) & present).sum(0)

    def metrics(self, scored: Int[Tensor, " scored"]) -> dict[str, Any]:
        """Over the scored features that occur: macro F1, precision and recall, by frequency, shrinkage, splitting.

        `missing` is the share without a latent. `shrinkage` is the slope of decoded sizes against true ones where both
        fire (1: none). `splitting` is 1 less the share of a feature's covered events that one latent covers.
        """
        which = scored[self.events[scored] > 0]
        check(which.numel() > 0, "none of the scored features occurs in these rows; give more")
        hits, fires, events = self.hits[which], self.fires[which], self.events[which]
        precision, recall = hits / fires.clamp(min=1), hits / events
        f1 = 2 * hits / (fires + events)
        one = self.covered[which].amax(1) if self.covered.shape[1] else torch.zeros_like(hits)
        split = 1 - one / self.any_covered[which].clamp(min=1)
        kept = self.any_covered[which] > 0
        order = events.argsort(descending=True)
        bins = {
            f"bin{i}": {
                "f1": float(f1[b].mean()),
                "precision": float(precision[b].mean()),
                "recall": float(recall[b].mean()),
            }
            for i, b in enumerate(order.chunk(BINS))
        }
        slope = float(self.product[which].sum() / self.square[which].sum().clamp(min=1e-30))
        return {
            "f1": float(f1.mean()),
            "precision": float(precision.mean()),
            "recall": float(recall.mean()),
            "missing": float((self.matching.latent[which] < 0).double().mean()),
            "shrinkage": slope if bool(hits.any()) else 0.0,
            "splitting": float(split[kept].mean()) if bool(kept.any()) else 0.0,
            "by_frequency": bins,
        }


def hedging(W_D: Float[Tensor, "n_r n_q"], W_r: Float[Tensor, "n_r n"], most: int = 4) -> float:
    """How much of the columns near a feature is other features: the mean share of the rest of a sparse signed fit.

    Equation: column ~ sum_k a_k w_r^k of at most `most` terms;  mean over columns of 1 - max_k a_k^2 / sum_k a_k^2
    """
    from monosem.dictionary.coding import nonnegative_omp

    unit = torch.nn.functional.normalize
    columns, truth = unit(W_D.double(), dim=0), unit(W_r.double(), dim=0)
    near = (truth.T @ columns).abs().amax(0) > NEAR
    if not bool(near.any()):
        return 0.0
    n = truth.shape[1]
    a = nonnegative_omp(columns[:, near].T, torch.cat([truth, -truth], 1), most, 1e-3)
    share = (a[:, :n] - a[:, n:]).square()
    return float((1 - share.amax(1) / share.sum(1).clamp(min=1e-30)).mean())


def uniqueness(W_D: Float[Tensor, "n_r n_q"], W_r: Float[Tensor, "n_r n"]) -> float:
    """Distinct nearest features over the number of latents."""
    unit = torch.nn.functional.normalize
    nearest = (unit(W_r.double(), dim=0).T @ unit(W_D.double(), dim=0)).abs().argmax(0)
    return len(set(nearest.tolist())) / W_D.shape[1]


def stability(one: Float[Tensor, "d m"], other: Float[Tensor, "d k"]) -> float:
    """How alike two dictionaries are: the mean signed cosine of the best one-to-one matching.

    Stable is not right: all seeds may hedge alike.
    Source: pairwise mean correlation coefficient, arXiv 2505.20254.
    """
    from scipy.optimize import linear_sum_assignment

    unit = torch.nn.functional.normalize
    cosine = (unit(one.double(), dim=0).T @ unit(other.double(), dim=0)).numpy()
    return float(cosine[linear_sum_assignment(cosine, maximize=True)].mean())


def sparse_probe(
    codes: Float[Tensor, "rows n_q"], label: Tensor, k: int = 1, *, ridge: float = 1e-2, steps: int = 12
) -> dict[str, float]:
    """A logistic probe on the k latents whose means differ most between the classes, scored on rows held out.

    Latents are chosen and the probe is fitted on even rows. A label that one latent carries is probed as well by k = 1.

    Source: Gurnee et al. (2023), Finding neurons in a haystack: case studies with sparse probing.
    """
    y = label.bool()
    check(codes.shape[0] == y.shape[0], f"{codes.shape[0]} rows of codes for {y.shape[0]} labels", ShapeError)
    train, test = slice(0, None, 2), slice(1, None, 2)
    for name, part in (("even", y[train]), ("odd", y[test])):
        check(bool(part.any()) and not bool(part.all()), f"the {name} rows hold one class only; give more rows")
    z = codes.double()
    spread = z[train].std(0).clamp(min=1e-12)
    apart = (z[train][y[train]].mean(0) - z[train][~y[train]].mean(0)).abs() / spread
    best = apart.topk(min(k, z.shape[1])).indices
    X = torch.cat([z[:, best] / spread[best], z.new_ones(z.shape[0], 1)], 1)
    w, goal = z.new_zeros(X.shape[1]), y[train].double()
    penalty = ridge * torch.eye(X.shape[1], dtype=torch.float64)
    for _ in range(steps):  # Newton
        p = torch.sigmoid(X[train] @ w)
        gradient = X[train].T @ (p - goal) / goal.numel() + penalty @ w
        curvature = (X[train] * (p * (1 - p))[:, None]).T @ X[train] / goal.numel() + penalty
        w = w - torch.linalg.solve(curvature, gradient)
    said = X[test] @ w > 0
    hits = int((said & y[test]).sum())
    return {
        "accuracy": float((said == y[test]).double().mean()),
        "f1": 2 * hits / max(int(said.sum()) + int(y[test].sum()), 1),
    }

"""Recovery: how well the columns of a learned dictionary match the true feature directions."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, ShapeError, check
from monosem.base.registry import Registry

TAUS = tuple(i / 100 for i in range(101))
"""The grid of the M_GT(tau) curve."""
THRESHOLDS = (0.8, 0.9, 0.95, 0.99)
"""Where M_GT is reported as a number."""
DUPLICATE_COSINE = 0.95
"""Above this |cos| two latents stand for the same feature."""


@dataclass(frozen=True, eq=False)
class Products:
    """Learned columns against unit true columns, source by source.

    Shapes: by_source [m, n_q, n], inner products within each of m sources; norms [m, n_q], the learned columns' norms.
    """

    by_source: Tensor
    norms: Tensor

    @cached_property
    def joint(self) -> Float[Tensor, "n_q n"]:
        """Inner products of the concatenated columns; the true ones are renormalised, so divided by sqrt(m)."""
        return self.by_source.sum(0) / math.sqrt(self.by_source.shape[0])

    @cached_property
    def joint_cosine(self) -> Float[Tensor, "n_q n"]:
        """Cosines of the concatenated columns; 0 for a zero column."""
        return _cosine(self.joint, self.norms.square().sum(0).sqrt())

    @cached_property
    def least_cosine(self) -> Float[Tensor, "n_q n"]:
        """min over sources of |cos|: what a latent shares with a feature in every source at once."""
        return _cosine(self.by_source, self.norms).abs().amin(0)


@dataclass(frozen=True)
class Similarity:
    """A kind of similarity: which side it reads, and its value for every (latent, feature)."""

    side: Literal["encoder", "decoder"]
    value: Callable[[Products], Tensor]
    several: bool = False  # only for two sources or more


SIMILARITIES: Registry[Similarity] = Registry("similarity")
SIMILARITIES.add("encoder_raw", Similarity("encoder", lambda p: p.joint.abs()))
SIMILARITIES.add("encoder_cosine", Similarity("encoder", lambda p: p.joint_cosine.abs()))
SIMILARITIES.add("decoder_cosine", Similarity("decoder", lambda p: p.joint_cosine.abs()))
SIMILARITIES.add("decoder_signed", Similarity("decoder", lambda p: p.joint_cosine))
SIMILARITIES.add("encoder_cosine_min", Similarity("encoder", lambda p: p.least_cosine, several=True))
SIMILARITIES.add("decoder_cosine_min", Similarity("decoder", lambda p: p.least_cosine, several=True))


@dataclass(frozen=True, eq=False)
class Best:
    """Best matches both ways: of each feature among the latents, and of each latent among the features."""

    similarity: Float[Tensor, " n"]
    latent: Int[Tensor, " n"]
    latent_similarity: Float[Tensor, " n_q"]
    feature: Int[Tensor, " n_q"]


class Comparison:
    """A learned dictionary and the true one: the input of every metric.

    Shapes: W_E [n_q, n_p], W_D [n_r, n_q], W_p [n_p, n], W_r [n_r, n]; several sources lie side by side, `p_widths` and
    `r_widths` give their widths. `features` are the numbers of the scored features (None: all). The [n_q, n] products
    are formed `chunk` latents at a time, in float64.
    """

    def __init__(
        self,
        W_E: Tensor,
        W_D: Tensor,
        W_p: Tensor,
        W_r: Tensor,
        *,
        p_widths: tuple[int, ...] | None = None,
        r_widths: tuple[int, ...] | None = None,
        features: Tensor | None = None,
        chunk: int = 4096,
    ) -> None:
        for name, W in (("W_E", W_E), ("W_D", W_D), ("W_p", W_p), ("W_r", W_r)):
            check(W.ndim == 2 and W.numel() > 0, f"{name} has shape {tuple(W.shape)}; give a matrix", ShapeError)
            check(bool(W.isfinite().all()), f"{name} holds NaN or infinity; it cannot be scored", DataError)
        n = W_p.shape[1]
        self.features = torch.arange(n) if features is None else features.cpu()
        if self.features.numel() == 0 or int(self.features.min()) < 0 or int(self.features.max()) >= n:
            raise ArgumentError(
                f"features must be numbers from 0 to {n - 1}, at least one; got {self.features.tolist()[:5]}"
            )
        self.n_q, self.chunk = W_E.shape[0], chunk
        p_widths, r_widths = p_widths or (W_E.shape[1],), r_widths or (W_D.shape[0],)
        same = [
            ("n_p", W_E.shape[1], "W_E", W_p.shape[0], "W_p"),
            ("n_r", W_D.shape[0], "W_D", W_r.shape[0], "W_r"),
            ("n_q", W_E.shape[0], "W_E", W_D.shape[1], "W_D"),
            ("n", W_p.shape[1], "W_p", W_r.shape[1], "W_r"),
            ("n_p", W_E.shape[1], "W_E", sum(p_widths), "p_widths"),
            ("n_r", W_D.shape[0], "W_D", sum(r_widths), "r_widths"),
        ]
        for axis, left, left_name, right, right_name in same:
            check(
                left == right,
                f"{axis} = {left} in {left_name} but {right} in {right_name}; make them agree",
                ShapeError,
            )
        self._sides = {"encoder": (W_E, W_p, p_widths), "decoder": (W_D.T, W_r, r_widths)}

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The similarities that apply: those over several sources only where there are several."""
        return tuple(k for k, s in SIMILARITIES.items() if not s.several or len(self._sides[s.side][2]) > 1)

    @cached_property
    def best(self) -> Mapping[str, Best]:
        """Best matches by kind of similarity, over all n features."""
        return self._best("encoder") | self._best("decoder")

    def cosines(self) -> Float[Tensor, "scored n_q"]:
        """|cos| of the decoder columns with the scored features, as one matrix."""
        return torch.cat([p.joint_cosine[:, self.features].abs().T for p in self._products("decoder")], 1)

    def _products(self, side: str) -> Iterator[Products]:
        learned, truth, widths = self._sides[side]
        sources = list(pairwise([0, *accumulate(widths)]))
        true = [_unit(truth[first:stop].detach().cpu().double()) for first, stop in sources]
        for start in range(0, self.n_q, self.chunk):
            rows = learned[start : start + self.chunk].detach().cpu().double()
            parts = [rows[:, first:stop] for first, stop in sources]
            by_source = torch.stack([part @ columns for part, columns in zip(parts, true, strict=True)])
            yield Products(by_source, torch.stack([part.norm(dim=1) for part in parts]))

    def _best(self, side: str) -> dict[str, Best]:
        kinds = [k for k in self.kinds if SIMILARITIES[k].side == side]
        best: dict[str, Best] = {}
        for number, products in enumerate(self._products(side)):
            for kind in kinds:
                value = SIMILARITIES[kind].value(products)
                (similarity, latent), (of_latent, feature) = value.max(0), value.max(1)
                new = Best(similarity, latent + number * self.chunk, of_latent, feature)
                best[kind] = _merge(best[kind], new) if kind in best else new
        return best


DICTIONARY_METRICS: Registry[Callable[[Comparison], dict[str, Any]]] = Registry("dictionary metric")


def recovery(similarity: Float[Tensor, " scored"]) -> dict[str, Any]:
    """GT recovery from s_i = max_j similarity: the curve, its values at four thresholds, its area, and the mean.

    Equation:
        M_GT(tau) = share of i with s_i > tau;  M_IP = mean s_i
        area = integral of M_GT over tau in [0, 1] = mean of s_i clipped to [0, 1]
    Source:
        Tang et al. (arXiv 2512.05534), appendix C.

    Example:
        >>> recovery(torch.tensor([0.5, 1.0]))["M_GT"]["0.95"]
        0.5
    """
    s = similarity.double()
    at = {str(tau): float((s > tau).double().mean()) for tau in THRESHOLDS}
    curve = [float((s > tau).double().mean()) for tau in TAUS]
    return {"M_GT": at, "M_IP": float(s.mean()), "area": float(s.clamp(0.0, 1.0).mean()), "curve": curve}


def _summary(similarity: Float[Tensor, " n"]) -> dict[str, Any]:
    """Recovery without its curve."""
    whole = recovery(similarity)
    return {name: whole[name] for name in ("M_GT", "M_IP")}


@DICTIONARY_METRICS.register("matched_mcc")
def _matched_mcc(comparison: Comparison) -> dict[str, Any]:
    """Mean |cos| of the best one-to-one matching; over all scored features (unmatched ones count 0), and over pairs."""
    from scipy.optimize import linear_sum_assignment

    cosines = comparison.cosines().numpy()
    matched = float(cosines[linear_sum_assignment(cosines, maximize=True)].sum())
    return {"all": matched / cosines.shape[0], "pairs": matched / min(cosines.shape)}


@DICTIONARY_METRICS.register("duplicates")
def _duplicates(comparison: Comparison) -> dict[str, Any]:
    """Latents beyond the first whose nearest feature, at |cos| > .95, is the same; all, and per scored feature."""
    best = comparison.best["decoder_cosine"]
    copies = torch.bincount(best.feature[best.latent_similarity > DUPLICATE_COSINE], minlength=best.latent.numel())
    extra = int((copies[comparison.features] - 1).clamp(min=0).sum())
    return {"count": extra, "per_feature": extra / comparison.features.numel()}


def score(
    W_E: Float[Tensor, "n_q n_p"],
    W_D: Float[Tensor, "n_r n_q"],
    W_p: Float[Tensor, "n_p n"],
    W_r: Float[Tensor, "n_r n"],
    *,
    p_widths: tuple[int, ...] | None = None,
    r_widths: tuple[int, ...] | None = None,
    features: Int[Tensor, " scored"] | None = None,
    chunk: int = 4096,
) -> dict[str, Any]:
    """Every recovery metric of a dictionary, as plain values ready for JSON.

    One entry per similarity (see `recovery`): encoder_raw = |<w_E^j, w_p^i>| with unit true columns only (the paper's,
    as printed, not scale free); encoder_cosine; decoder_cosine (the headline); decoder_signed; and for several sources
    the least |cos| over the sources. Then one entry per dictionary metric. Sources are concatenated and renormalised.
    Where only some features are scored, `all` holds the recovery of every feature, anchored ones included.

    Raises:
        ShapeError: two matrices disagree.
        DataError: a weight is NaN or infinite.
    """
    comparison = Comparison(W_E, W_D, W_p, W_r, p_widths=p_widths, r_widths=r_widths, features=features, chunk=chunk)
    result: dict[str, Any] = {
        kind: recovery(comparison.best[kind].similarity[comparison.features]) for kind in comparison.kinds
    }
    if features is not None:
        result["all"] = {kind: _summary(comparison.best[kind].similarity) for kind in comparison.kinds}
    return result | {name: metric(comparison) for name, metric in DICTIONARY_METRICS.items()}


def flatten(result: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, float], dict[str, list[float]]]:
    """A nested score as (numbers, curves) by dotted name, as records hold them.

    Example:
        >>> flatten({"a": {"M_GT": {"0.9": 1.0}, "curve": [1.0, 0.5]}})
        ({'a.M_GT@0.9': 1.0}, {'a': [1.0, 0.5]})
    """
    numbers: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    for name, value in result.items():
        if name == "curve":
            curves[prefix] = value
        elif isinstance(value, Mapping):
            below = flatten(value, f"{prefix}.{name}" if prefix else name)
            numbers, curves = numbers | below[0], curves | below[1]
        else:
            glue = "@" if prefix.endswith("M_GT") else "."
            numbers[f"{prefix}{glue}{name}" if prefix else name] = float(value)
    return numbers, curves


def _unit(columns: Tensor) -> Tensor:
    norms = columns.norm(dim=0)
    check(bool((norms > 0).all()), "a true feature direction is zero; every feature needs one", DataError)
    unit: Tensor = columns / norms
    return unit


def _cosine(products: Tensor, norms: Tensor) -> Tensor:
    """products / norms, exactly 0 for zero columns, within [-1, 1]."""
    cosine: Tensor = products / norms.masked_fill(norms == 0, 1.0)[..., None]
    return cosine.clamp_(-1.0, 1.0)


def _merge(left: Best, right: Best) -> Best:
    """Best matches over the latents of both; the earlier latent wins a tie."""
    newer = right.similarity > left.similarity
    return Best(
        torch.where(newer, right.similarity, left.similarity),
        torch.where(newer, right.latent, left.latent),
        torch.cat([left.latent_similarity, right.latent_similarity]),
        torch.cat([left.feature, right.feature]),
    )


def recall_precision(D: Float[Tensor, "_ m"], W: Float[Tensor, "_ n"], tau: float = 0.95) -> dict[str, Any]:
    """Atoms against true directions, each direction counted once: a second atom on it is wrong.

    Equation:
        found = directions i that are the nearest of some atom j with |cos(d_j, w_i)| > tau
        recall = found / n,  precision = found / m,  M_IP = mean over i of max_j |cos(d_j, w_i)|

    Example:
        >>> recall_precision(torch.eye(3)[:, [0, 0, 1]], torch.eye(3)[:, :2])
        {'atoms': 3, 'found': 2, 'recall': 1.0, 'precision': 0.6666666666666666, 'M_IP': 1.0}
    """
    check(D.shape[0] == W.shape[0], f"d = {D.shape[0]} in D but {W.shape[0]} in W; make them agree", ShapeError)
    cosine = (torch.nn.functional.normalize(D, dim=0).T @ torch.nn.functional.normalize(W, dim=0)).abs()
    if cosine.shape[0] == 0:
        return {"atoms": 0, "found": 0, "recall": 0.0, "precision": 0.0, "M_IP": 0.0}
    best, nearest = cosine.max(1)
    recovered = len(set(nearest[best > tau].tolist()))
    shares = {"recall": recovered / W.shape[1], "precision": recovered / D.shape[1]}
    return {"atoms": D.shape[1], "found": recovered} | shares | {"M_IP": float(cosine.amax(0).mean())}

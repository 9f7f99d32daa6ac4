"""What a language model loses when some of its sites hold something else: cross-entropy and KL, summed over batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monosem.base.errors import DataError, RefusedError
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.data.batches import Batch
from monosem.networks.rewrite import Places, Rewrite, rewriting
from monosem.networks.sites import Site

INTERVENTIONS = ("spliced", "zero", "mean")
"""What stands in the place of x_r: x_r_hat, nothing, the mean of x_r."""

Key = tuple[str, tuple[int, ...]]
"""An intervention and the targets that it replaces; ("clean", ()) for none."""

_CHUNK = 512
"""Predictions whose distributions over the vocabulary are compared at once."""


def subsets(targets: int) -> list[tuple[int, ...]]:
    """Which targets are replaced together: each alone, then all of them."""
    alone: list[tuple[int, ...]] = [(target,) for target in range(targets)]
    return alone if targets == 1 else [*alone, tuple(range(targets))]


@dataclass
class Losses:
    """Sums over the counted predictions, in float64."""

    predictions: int = 0
    ce: dict[Key, float] = field(default_factory=dict)
    kl: dict[Key, float] = field(default_factory=dict)

    def add(self, key: Key, ce: float, kl: float = 0.0) -> None:
        """The sums of one batch."""
        self.ce[key] = self.ce.get(key, 0.0) + ce
        self.kl[key] = self.kl.get(key, 0.0) + kl


def intervene(model: nn.Module, sdl: SDL, where: Places, batch: Batch, mean: Tensor, losses: Losses) -> None:
    """Add one batch's losses of the clean network, and of every intervention at every subset of targets.

    Only kept tokens are replaced; a prediction counts when its token and the next are kept. x_r_hat comes from the
    clean pass, whatever is replaced.
    Raises: DataError when the batch holds no tokens; RefusedError when the network gives no logits.
    """
    keep = batch.keep
    if keep is None or batch.token is None:
        raise DataError("batches hold no tokens; give token numbers or a tokenizer's mappings")
    pairs = keep[:, :-1] & keep[:, 1:]
    if not bool(pairs.any()):
        return
    seen: dict[Site, Tensor] = {}
    clean = _log_probabilities(model, batch, [(site, partial(_tap, seen, site)) for site in where.reads], pairs)
    target = batch.token[:, 1:][pairs].to(clean.device)
    losses.predictions += target.numel()
    losses.add(("clean", ()), _cross_entropy(clean, target))
    here = keep.to(clean.device)
    x_p = torch.cat([seen[site][here] for site in where.reads], 1).to(sdl.b_E)
    x_r_hat = sdl.forward(x_p, context=Context()).x_r_hat
    instead = {"spliced": x_r_hat, "zero": torch.zeros_like(x_r_hat), "mean": mean.to(x_r_hat).expand_as(x_r_hat)}
    for chosen in subsets(len(where.writes)):
        for name in INTERVENTIONS:
            rows = instead[name]
            changes = [
                (where.writes[number], partial(_put, rows[:, sdl.layout.r_slices[number]], here)) for number in chosen
            ]
            other = _log_probabilities(model, batch, changes, pairs)
            losses.add((name, chosen), _cross_entropy(other, target), divergence(clean, other))


def divergence(clean: Float[Tensor, "predictions vocabulary"], other: Float[Tensor, "predictions vocabulary"]) -> float:
    """sum over predictions of KL(p || q) = sum of p (log p - log q), from log p and log q, in float64."""
    return sum(_divergences(clean, other))


def _divergences(clean: Tensor, other: Tensor) -> Iterator[float]:
    for start in range(0, clean.shape[0], _CHUNK):
        p, q = clean[start : start + _CHUNK].double(), other[start : start + _CHUNK].double()
        yield float((p.exp() * (p - q)).sum())


def _cross_entropy(log_p: Float[Tensor, "predictions vocabulary"], target: Int[Tensor, " predictions"]) -> float:
    """sum over predictions of -log p(target)."""
    return -float(log_p.gather(1, target[:, None]).double().sum())


def _tap(seen: dict[Site, Tensor], site: Site, x: Tensor) -> Tensor:
    seen[site] = x
    return x


def _put(rows: Tensor, keep: Bool[Tensor, "batch time"], x: Tensor) -> Tensor:
    """Rows in the place of the kept ones."""
    new = x.clone()
    new[keep] = rows.to(x)
    return new


def _log_probabilities(
    model: nn.Module, batch: Batch, changes: Sequence[tuple[Site, Rewrite]], pairs: Bool[Tensor, "batch pairs"]
) -> Float[Tensor, "predictions vocabulary"]:
    """log p(next token) at the counted predictions, in float32."""
    with rewriting(model, changes):
        out = model(**batch.inputs) if isinstance(batch.inputs, Mapping) else model(batch.inputs)
    logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if logits is None or logits.ndim != 3 or logits.shape[1] != pairs.shape[1] + 1:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
        raise RefusedError(
            f"{type(model).__name__} gives {given}, not logits [batch, {pairs.shape[1] + 1}, vocabulary]; losses need "
            "a language model"
        )
    kept: Tensor = logits[:, :-1][pairs.to(logits.device)]
    return kept.float().log_softmax(1)

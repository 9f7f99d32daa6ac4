"""Scores of a model on its network: the metrics of its code, and what the network loses by reading x_r_hat for x_r."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monosem.base.errors import DataError, RefusedError, ShapeError, check
from monosem.bench.folds import FVU, Coded, Dead, Fold, MeanL0
from monosem.bench.robust import RobustFVU, Unexplained
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.data.batches import Batch, TokenFilter, number_documents
from monosem.networks.devices import input_device, moved
from monosem.networks.harvest import Runner
from monosem.networks.rewrite import Places, Rewrite, places, rewriting
from monosem.networks.sites import Site

_INTERVENTIONS = ("spliced", "zero", "mean")
"""What stands in the place of x_r: x_r_hat, nothing, the mean of x_r."""

_Key = tuple[str, tuple[int, ...]]
"""An intervention and the targets that it replaces; ("clean", ()) for none."""

_CELLS = 1 << 24
"""Numbers (predictions x vocabulary) whose distributions are in memory at once, in float32."""


@dataclass(frozen=True)
class Effect:
    """What happens to the network when some of its sites hold something else, in nats per counted prediction.

    Equation: ce = mean of -log p(next token); kl = mean of KL(p_clean || p).
    `ce` is by intervention: spliced (x_r_hat), zero, mean (of x_r over the counted tokens), and clean; `kl` is of those
    that were asked for.
    """

    sites: tuple[str, ...]
    ce: Mapping[str, float]
    kl: Mapping[str, float]

    def recovered(self, ablation: str = "zero") -> float | None:
        """Loss recovered: the share of an ablation's loss that the reconstruction wins back; 1 is a perfect splice.

        Equation: (ce[ablation] - ce[spliced]) / (ce[ablation] - ce[clean]); None where ablation does not
            raise the loss.
        """
        lost = self.ce[ablation] - self.ce["clean"]
        return (self.ce[ablation] - self.ce["spliced"]) / lost if lost > 0 else None


@dataclass(frozen=True)
class NetworkScores:
    """Scores over all counted tokens; each is a ratio of sums, never a mean of the ratios of batches.

    Equation: fvu = sum |x_r - x_r_hat|^2 / sum |x_r - mean x_r|^2; `unexplained`, by site: that, without the largest
        rows, and by dimension; l0 = active latents per token; dead = share of latents that never fire;
        cosine = mean over tokens of cos(x_r, x_r_hat).
    """

    tokens: int
    predictions: int
    fvu: float
    l0: float
    dead: float
    cosine: float
    unexplained: Mapping[str, Unexplained]
    effects: tuple[Effect, ...]

    @property
    def fvu_at(self) -> dict[str, float]:
        """FVU by site."""
        return {name: value.fvu for name, value in self.unexplained.items()}

    def plain(self) -> dict[str, Any]:
        """As plain values, for records."""
        rest = {name: getattr(self, name) for name in ("tokens", "predictions", "fvu", "l0", "dead", "cosine")}
        effects = [
            {
                "sites": list(effect.sites),
                "ce": dict(effect.ce),
                "kl": dict(effect.kl),
                "recovered": {name: effect.recovered(name) for name in ("zero", "mean")},
            }
            for effect in self.effects
        ]
        unexplained = {name: value.plain() for name, value in self.unexplained.items()}
        return rest | {"fvu_at": self.fvu_at, "unexplained": unexplained, "effects": effects}


class _Cosine(Fold[tuple[int, float]]):
    """Mean over rows of cos(x_r, x_r_hat); 0 where either is zero."""

    def init(self) -> tuple[int, float]:
        """No rows."""
        return 0, 0.0

    def of(self, batch: Coded) -> tuple[int, float]:
        """Rows and the sum of their cosines."""
        x, y = batch.target.double(), batch.reconstruction.double()
        size = x.norm(dim=1) * y.norm(dim=1)
        cosines = torch.where(size > 0, (x * y).sum(1) / size.clamp(min=1e-300), torch.zeros_like(size))
        return x.shape[0], float(cosines.sum())

    def merge(self, left: tuple[int, float], right: tuple[int, float]) -> tuple[int, float]:
        """Both add."""
        return left[0] + right[0], left[1] + right[1]

    def compute(self, state: tuple[int, float]) -> float:
        """The mean."""
        check(state[0] > 0, "no rows to evaluate; give at least one", DataError)
        return state[1] / state[0]


def network_scores(
    model: nn.Module,
    sdl: SDL,
    at: str,
    batches: Iterable[Any],
    to: str | None = None,
    keep: TokenFilter | None = None,
    kl: Sequence[str] = ("spliced",),
) -> NetworkScores:
    """How well reconstructions replace activations in a language model, on a text.

    Tokens are counted when attended and kept by `keep` (special tokens and places left out); only they are replaced. A
    prediction counts when its token and the next are counted. The code is of the clean network, also where several
    sites are read: first a pass gives x_p, then passes with x_r_hat, 0 and the mean of x_r in the place of x_r. Models
    with several targets are spliced at each alone, then at all.
    `at`, `to`: sites, as `places` reads them (a transcoder: "layer.mlp:in,out"). `batches`: what `harvest` takes, token
    numbers or a tokenizer's mappings; they are gone through twice. `kl`: the interventions whose KL is wanted.
    The network, its parts and the model may lie on different devices; inputs and rows are moved to where they belong.
    Distributions are compared some predictions at a time, in float32, and summed in float64.
    Raises: DataError when batches can be read only once, or count nothing; RefusedError when the network gives no
        logits; ShapeError when sites and sources differ.
    Source: loss recovered: Gao et al. 2024, 4.1 and Rajamanoharan et al. 2024a, as a ratio of sums.
    """
    if iter(batches) is batches:
        raise DataError("batches can be read only once, and they are needed twice; give a list, or the like")
    unknown = [name for name in kl if name not in _INTERVENTIONS]
    check(not unknown, f"kl={tuple(kl)} names {unknown}; known: {', '.join(_INTERVENTIONS)}")
    check(not model.training, "the network is in training mode (dropout acts); call model.eval() first")
    where = places(sdl, model, at, to)
    coding, losses = _Coding(sdl, where), _Losses(frozenset(kl))
    runner = Runner({"": model}, tuple(dict.fromkeys((*where.reads, *where.writes))))
    with torch.inference_mode():
        for batch in number_documents(batches, keep):
            rows, _ = runner.rows(batch)
            coding.update(dict(zip(runner.sites, rows, strict=True)))
        check(coding.tokens > 0, "no token is counted; loosen the token filter", DataError)
        for batch in number_documents(batches, keep):
            _intervene(model, sdl, where, batch, coding.total / coding.tokens, losses)
    check(losses.predictions > 0, "no two neighbouring tokens are counted; loosen the token filter", DataError)
    return coding.scores(losses)


@dataclass
class _Losses:
    """Sums over the counted predictions, in float64; KL of the interventions in `compared`."""

    compared: frozenset[str]
    predictions: int = 0
    ce: dict[_Key, float] = field(default_factory=dict)
    kl: dict[_Key, float] = field(default_factory=dict)

    def add(
        self,
        key: _Key,
        logits: Float[Tensor, "predictions vocabulary"],
        target: Int[Tensor, " predictions"],
        clean: Float[Tensor, "predictions vocabulary"] | None = None,
    ) -> None:
        """One batch under an intervention; `clean` are the logits that it is compared with."""
        reference = clean if key[0] in self.compared else None
        ce, kl = _losses(logits, target.to(logits.device), reference)
        self.ce[key] = self.ce.get(key, 0.0) + ce
        if reference is not None:
            self.kl[key] = self.kl.get(key, 0.0) + kl


class _Coding:
    """Metrics of the code, streamed, and the sum of x_r."""

    def __init__(self, sdl: SDL, where: Places) -> None:
        self.sdl, self.where, self.tokens = sdl, where, 0
        self.folds: dict[str, Fold[Any]] = {"fvu": FVU(), "l0": MeanL0(), "dead": Dead(), "cosine": _Cosine()}
        self.states = {name: fold.init() for name, fold in self.folds.items()}
        self.sites = [RobustFVU(width) for width in sdl.layout.r_widths]
        self.total: Float[Tensor, " n_r"] = torch.zeros(sdl.layout.n_r, dtype=torch.float64)

    def update(self, rows: Mapping[Site, Tensor]) -> None:
        """One batch's rows by site."""
        x_p = _together(rows, self.where.reads, self.sdl.layout.p_widths, self.sdl.b_E)
        x_r = _together(rows, self.where.writes, self.sdl.layout.r_widths, self.sdl.b_E)
        if x_p.shape[0] == 0:
            return
        done = self.sdl.forward(x_p, context=Context())
        batch = Coded(x_r, done.x_r_hat, done.code)
        self.states = {name: fold.update(self.states[name], batch) for name, fold in self.folds.items()}
        for number, columns in enumerate(self.sdl.layout.r_slices):
            self.sites[number].update(x_r[:, columns], done.x_r_hat[:, columns])
        self.tokens += x_p.shape[0]
        self.total += x_r.double().sum(0).cpu()

    def scores(self, losses: _Losses) -> NetworkScores:
        """Everything, from the sums."""
        names, count = [str(site) for site in self.where.writes], losses.predictions
        clean = {"clean": losses.ce["clean", ()] / count}
        effects = tuple(
            Effect(
                tuple(names[target] for target in targets),
                clean | {name: losses.ce[name, targets] / count for name in _INTERVENTIONS},
                {name: losses.kl[name, targets] / count for name in _INTERVENTIONS if name in losses.compared},
            )
            for targets in _subsets(len(names))
        )
        unexplained = {name: sums.result() for name, sums in zip(names, self.sites, strict=True)}
        code = {name: fold.compute(self.states[name]) for name, fold in self.folds.items()}
        return NetworkScores(self.tokens, count, **code, unexplained=unexplained, effects=effects)


def _together(rows: Mapping[Site, Tensor], sites: Sequence[Site], widths: Sequence[int], like: Tensor) -> Tensor:
    """Sources side by side, on one device and of one type; each must have its width."""
    for site, width in zip(sites, widths, strict=True):
        check(
            rows[site].shape[1] == width,
            f"{site} has width {rows[site].shape[1]}, the model has {width} there; choose its own site",
            ShapeError,
        )
    return torch.cat([rows[site].to(like) for site in sites], 1)


def _subsets(targets: int) -> list[tuple[int, ...]]:
    """Which targets are replaced together: each alone, then all of them."""
    alone: list[tuple[int, ...]] = [(target,) for target in range(targets)]
    return alone if targets == 1 else [*alone, tuple(range(targets))]


def _intervene(model: nn.Module, sdl: SDL, where: Places, batch: Batch, mean: Tensor, losses: _Losses) -> None:
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
    clean = _logits(model, batch, [(site, partial(_tap, seen, site)) for site in where.reads], pairs)
    target = batch.token[:, 1:][pairs]
    losses.predictions += target.numel()
    losses.add(("clean", ()), clean, target)
    x_p = torch.cat([seen[site][keep.to(seen[site].device)].to(sdl.b_E) for site in where.reads], 1)
    x_r_hat = sdl.forward(x_p, context=Context()).x_r_hat
    instead = {"spliced": x_r_hat, "zero": torch.zeros_like(x_r_hat), "mean": mean.to(x_r_hat).expand_as(x_r_hat)}
    for chosen in _subsets(len(where.writes)):
        for name in _INTERVENTIONS:
            rows = instead[name]
            changes = [
                (where.writes[number], partial(_put, rows[:, sdl.layout.r_slices[number]], keep)) for number in chosen
            ]
            losses.add((name, chosen), _logits(model, batch, changes, pairs), target, clean)


def _losses(
    logits: Float[Tensor, "predictions vocabulary"],
    target: Int[Tensor, " predictions"],
    clean: Float[Tensor, "predictions vocabulary"] | None,
) -> tuple[float, float]:
    """(sum over predictions of -log p(target), sum of KL(p_clean || p) or 0), some predictions at a time.

    Equation: -log p(target) = logsumexp(z) - z[target]; KL = sum over v of p_clean(v) (log p_clean(v) - log p(v)),
        in float32; sums over predictions in float64.
    """
    ce = kl = 0.0
    rows = max(1, _CELLS // logits.shape[1])
    for part in (slice(start, start + rows) for start in range(0, logits.shape[0], rows)):
        log_q = logits[part].float().log_softmax(1)
        ce -= float(log_q.gather(1, target[part, None]).double().sum())
        if clean is not None:
            log_p = clean[part].to(log_q).log_softmax(1)
            kl += float((log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64))
    return ce, kl


def _tap(seen: dict[Site, Tensor], site: Site, x: Tensor) -> Tensor:
    seen[site] = x
    return x


def _put(rows: Tensor, keep: Bool[Tensor, "batch time"], x: Tensor) -> Tensor:
    """Rows in the place of the kept ones."""
    new = x.clone()
    new[keep.to(x.device)] = rows.to(x)
    return new


def _logits(
    model: nn.Module, batch: Batch, changes: Sequence[tuple[Site, Rewrite]], pairs: Bool[Tensor, "batch pairs"]
) -> Float[Tensor, "predictions vocabulary"]:
    """What the network says of the next token at the counted predictions, in its own type."""
    inputs = moved(batch.inputs, input_device(model))
    with rewriting(model, changes):
        out = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if logits is None or logits.ndim != 3 or logits.shape[1] != pairs.shape[1] + 1:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
        raise RefusedError(
            f"{type(model).__name__} gives {given}, not logits [batch, {pairs.shape[1] + 1}, vocabulary]; losses need "
            "a language model"
        )
    kept: Tensor = logits[:, :-1][pairs.to(logits.device)]
    return kept

"""Scores of a model on its network: the metrics of its code, and what the network loses by reading x_r_hat for x_r."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import DataError, ShapeError, check
from monosem.bench.folds import FVU, Coded, Dead, Fold, MeanL0
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.data.batches import TokenFilter, number_documents
from monosem.networks.harvest import Runner
from monosem.networks.intervene import INTERVENTIONS, Losses, intervene, subsets
from monosem.networks.rewrite import Places, places
from monosem.networks.sites import Site


@dataclass(frozen=True)
class Effect:
    """What happens to the network when some of its sites hold something else, in nats per counted prediction.

    Equation: ce = mean of -log p(next token); kl = mean of KL(p_clean || p).
    `ce` and `kl` are by intervention: spliced (x_r_hat), zero, mean (of x_r over the counted tokens), and clean.
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

    Equation: fvu = sum |x_r - x_r_hat|^2 / sum |x_r - mean x_r|^2, `fvu_at` by site; l0 = active latents per token;
        dead = share of latents that never fire; cosine = mean over tokens of cos(x_r, x_r_hat).
    """

    tokens: int
    predictions: int
    fvu: float
    l0: float
    dead: float
    cosine: float
    fvu_at: Mapping[str, float]
    effects: tuple[Effect, ...]

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
        return rest | {"fvu_at": dict(self.fvu_at), "effects": effects}


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
) -> NetworkScores:
    """How well a model stands in for what it reconstructs, on a language model and its text.

    Tokens are counted when attended and kept by `keep` (special tokens and places left out); only they are replaced. A
    prediction counts when its token and the next are counted. The code is of the clean network, also where several
    sites are read: first a pass gives x_p, then passes with x_r_hat, 0 and the mean of x_r in the place of x_r. Models
    with several targets are spliced at each alone, then at all.
    `at`, `to`: sites, as `places` reads them (a transcoder: "layer.mlp:in,out"). `batches`: what `harvest` takes, token
    numbers or a tokenizer's mappings; they are gone through twice.
    Raises: DataError when batches can be read only once, or count nothing; RefusedError when the network gives no
        logits; ShapeError when sites and sources differ.
    Source: loss recovered: Gao et al. 2024, 4.1 and Rajamanoharan et al. 2024a, as a ratio of sums.
    """
    if iter(batches) is batches:
        raise DataError("batches can be read only once, and they are needed twice; give a list, or the like")
    check(not model.training, "the network is in training mode (dropout acts); call model.eval() first")
    where = places(sdl, model, at, to)
    coding, losses = _Coding(sdl, where), Losses()
    runner = Runner({"": model}, tuple(dict.fromkeys((*where.reads, *where.writes))))
    with torch.inference_mode():
        for batch in number_documents(batches, keep):
            rows, _ = runner.rows(batch)
            coding.update(dict(zip(runner.sites, rows, strict=True)))
        check(coding.tokens > 0, "no token is counted; loosen the token filter", DataError)
        for batch in number_documents(batches, keep):
            intervene(model, sdl, where, batch, coding.total / coding.tokens, losses)
    check(losses.predictions > 0, "no two neighbouring tokens are counted; loosen the token filter", DataError)
    return coding.scores(losses)


class _Coding:
    """Metrics of the code, streamed, and the sum of x_r."""

    def __init__(self, sdl: SDL, where: Places) -> None:
        self.sdl, self.where, self.tokens = sdl, where, 0
        self.folds: dict[str, Fold[Any]] = {"fvu": FVU(), "l0": MeanL0(), "dead": Dead(), "cosine": _Cosine()}
        self.states = {name: fold.init() for name, fold in self.folds.items()}
        self.sites = [FVU().init() for _ in where.writes]
        self.total: Float[Tensor, " n_r"] = torch.zeros(sdl.layout.n_r, dtype=torch.float64)

    def update(self, rows: Mapping[Site, Tensor]) -> None:
        """One batch's rows by site."""
        x_p = _together(rows, self.where.reads, self.sdl.layout.p_widths).to(self.sdl.b_E)
        x_r = _together(rows, self.where.writes, self.sdl.layout.r_widths).to(self.sdl.b_E)
        if x_p.shape[0] == 0:
            return
        done = self.sdl.forward(x_p, context=Context())
        batch = Coded(x_r, done.x_r_hat, done.code)
        self.states = {name: fold.update(self.states[name], batch) for name, fold in self.folds.items()}
        for number, columns in enumerate(self.sdl.layout.r_slices):
            part = Coded(x_r[:, columns], done.x_r_hat[:, columns], done.code)
            self.sites[number] = FVU().update(self.sites[number], part)
        self.tokens += x_p.shape[0]
        self.total += x_r.double().sum(0).cpu()

    def scores(self, losses: Losses) -> NetworkScores:
        """Everything, from the sums."""
        names, count = [str(site) for site in self.where.writes], losses.predictions
        clean = {"clean": losses.ce["clean", ()] / count}
        effects = tuple(
            Effect(
                tuple(names[target] for target in targets),
                clean | {name: losses.ce[name, targets] / count for name in INTERVENTIONS},
                {name: losses.kl[name, targets] / count for name in INTERVENTIONS},
            )
            for targets in subsets(len(names))
        )
        fvu_at = {name: FVU().compute(state) for name, state in zip(names, self.sites, strict=True)}
        code = {name: fold.compute(self.states[name]) for name, fold in self.folds.items()}
        return NetworkScores(self.tokens, count, **code, fvu_at=fvu_at, effects=effects)


def _together(rows: Mapping[Site, Tensor], sites: Sequence[Site], widths: Sequence[int]) -> Tensor:
    """Sources side by side; each must have its width."""
    for site, width in zip(sites, widths, strict=True):
        check(
            rows[site].shape[1] == width,
            f"{site} has width {rows[site].shape[1]}, the model has {width} there; choose its own site",
            ShapeError,
        )
    return torch.cat([rows[site] for site in sites], 1)

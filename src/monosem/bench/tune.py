"""Choose k, width, penalty or length of training without knowing the truth: by what held-out rows say of each model."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, check
from monosem.base.registry import Registry
from monosem.base.seeds import torch_generator
from monosem.core.model import SDL
from monosem.core.pairs import Source
from monosem.methods import Method, method
from monosem.train.config import FitConfig
from monosem.train.loop import fit

LEAST = 0.01
"""No noise is taken to be smaller than this share of the rows' root mean square."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at: a model, the same trained on other rows where asked for, and held-out rows."""

    model: SDL
    twin: SDL | None
    x_p: Float[Tensor, "rows n_p"]
    x_r: Float[Tensor, "rows n_r"]
    train_rows: int


Criterion = Callable[[Evidence], float]
CRITERIA: Registry[Criterion] = Registry("criterion")
"""Each gives a number of which less is better."""


@CRITERIA.register("projection")
def decoder_projection(evidence: Evidence) -> float:
    """How much rows project on latents that should not fire: least where L0 is right, if the dictionary is wide.

    Equation: Z = (x_r - b_D) W_D with unit columns; the (rows n_q / 2)-th largest entry of Z over all rows.
        Too small an L0 mixes features into one latent, too large a one splits them over several; either makes columns
        that are no feature, onto which rows project.
    Source: Chanin and Garriga-Alonso 2025 (arXiv 2508.16560), n = n_q / 2.
    """
    model = evidence.model
    columns = torch.nn.functional.normalize(model.W_D.detach(), dim=0)
    projections = ((evidence.x_r - model.b_D.detach()) @ columns).reshape(-1)
    scale = float(evidence.x_r.square().mean().sqrt())
    return float(projections.kthvalue(projections.numel() - projections.numel() // 2 + 1).values) / scale


@CRITERIA.register("length")
def code_length(evidence: Evidence) -> float:
    """Nats to describe a held-out row by the dictionary, the dictionary's own cost included.

    Equation: n_r/2 log(2 pi s^2) + |r|^2 / (2 s^2) - sum_j log(1 - p_j)
        + sum over active j of [log((1 - p_j) / p_j) + max(0, log(mu_j |W_D[:, j]| / s) + 1 - log(2 pi) / 2)]
        + (1 / rows) sum over used j of (n_p + n_r)/2 log(4 c_j),
        with p_j, mu_j the rate and mean size of latent j on these rows, c_j = p_j rows of training, r the residual and
        s its root mean square, not below LEAST of that of the rows. Mean over rows.
    """
    model, x_r = evidence.model, evidence.x_r
    with torch.no_grad():
        code = model.encode(evidence.x_p)
        x_q = code.to_dense().double().abs()
        r = (x_r - model.decode(code, evidence.x_p)).double()
    rows, n_r = x_r.shape
    fires = x_q > 0
    count = fires.sum(0).double()
    used = count > 0
    p = (count / rows).clamp(min=0.5 / rows, max=1 - 0.5 / rows)
    mu = x_q.sum(0) / count.clamp(min=1)
    norms = model.decoder_norm().detach().double()
    s = max(float(r.square().mean().sqrt()), LEAST * float(x_r.square().mean().sqrt()))
    half = torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)) / 2
    size = torch.log((mu * norms).clamp(min=1e-30) / s) + 1 - half  # what a size costs at the precision that s is worth
    cost = torch.log((1 - p) / p) + size.clamp(min=0.0)
    active = float((fires.double() @ torch.where(used, cost, 0.0)).mean())
    silent = float(-torch.log1p(-p[used]).sum())
    noise = n_r * (float(half) + torch.log(torch.tensor(s)).item()) + float(r.square().sum(1).mean()) / (2 * s * s)
    width = (evidence.x_p.shape[1] + n_r) / 2
    book = width * float(torch.log((4 * p[used] * evidence.train_rows).clamp(min=1)).sum()) / evidence.train_rows
    return noise + silent + active + book


@CRITERIA.register("fvu")
def held_out_fvu(evidence: Evidence) -> float:
    """Fraction of variance unexplained on held-out rows. It keeps falling as k rises: no criterion for k."""
    with torch.no_grad():
        code = evidence.model.encode(evidence.x_p)
        r = evidence.x_r - evidence.model.decode(code, evidence.x_p)
    return float(r.square().sum() / (evidence.x_r - evidence.x_r.mean(0)).square().sum())


@CRITERIA.register("agreement")
def disagreement(evidence: Evidence) -> float:
    """1 - mean cosine of the two models' latents, matched one to one: two trainings that agree are likelier right.

    Latents that never fire on the held-out rows are left out. Raises: ArgumentError without a twin.
    Source: pairwise MCC, Paulo and Belrose 2025 (arXiv 2501.16615).
    """
    from scipy.optimize import linear_sum_assignment

    if evidence.twin is None:
        raise ArgumentError("agreement compares two trainings; call tune(..., twins=True)")
    columns = []
    for model in (evidence.model, evidence.twin):
        with torch.no_grad():
            alive = model.encode(evidence.x_p).to_dense().ne(0).any(0)
        columns.append(torch.nn.functional.normalize(model.W_D.detach()[:, alive], dim=0))
    if not all(part.shape[1] for part in columns):
        return 1.0
    cosine = (columns[0].T @ columns[1]).abs()
    a, b = linear_sum_assignment(cosine.numpy(), maximize=True)
    return 1.0 - float(cosine[a, b].sum()) / max(cosine.shape)


@dataclass(frozen=True)
class Trial:
    """One setting: what was varied, and every criterion's number."""

    settings: Mapping[str, Any]
    scores: Mapping[str, float]
    model: SDL


@dataclass(frozen=True)
class Tuned:
    """All trials, and the best by each criterion."""

    method: str
    trials: tuple[Trial, ...]

    def best(self, criterion: str = "length") -> Trial:
        """The trial of the least number. Raises: ArgumentError for a criterion that was not computed."""
        known = self.trials[0].scores
        check(criterion in known, f"criterion {criterion!r} was not computed; one of {', '.join(known)}", ArgumentError)
        return min(self.trials, key=lambda trial: trial.scores[criterion])

    def table(self) -> list[dict[str, Any]]:
        """A line per trial: its settings and its scores."""
        return [{**trial.settings, **trial.scores} for trial in self.trials]


class _Part:
    """Some rows of a source."""

    def __init__(self, source: Source, index: Int[Tensor, " rows"], name: str) -> None:
        self.source, self.index = source, index
        self.p_widths, self.r_widths = source.p_widths, source.r_widths
        self.rows: int | None = index.numel()
        self.digest = f"{source.digest}/{name}"

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Rows by their number among these."""
        return self.source.take(self.index[index])


def tune(
    text: str,
    source: Source,
    n_q: int,
    vary: Mapping[str, Sequence[Any]],
    config: FitConfig | None = None,
    *,
    criteria: Sequence[str] = ("length", "projection", "fvu"),
    held_out: float = 0.1,
    twins: bool = False,
    on_trial: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Train every combination of some settings, and score each on rows that none was trained on, without any truth.

    `vary` names arguments of the method ("k", "l1"), "n_q", or any field of FitConfig ("steps", "lr"), each with its
    values. `held_out`: the share of rows that is set aside, at most 20,000. `twins`: train each setting a second time
    on the other half of the rows, which "agreement" needs; the first then has half of them too.
    `on_trial` is called with how many trials are done, and how many there are.
    Raises: ArgumentError for a setting or criterion that is unknown; as `fit`.
    Example:
        >>> from monosem.bench.tasks import TaskSource, task
        >>> tuned = tune("topk", TaskSource(task("lrb/nano")), 24, {"k": [1, 2]}, FitConfig(steps=5, batch_size=32))
        >>> [trial.settings for trial in tuned.trials]
        [{'k': 1}, {'k': 2}]
    """
    config = config or FitConfig()
    chosen = (*criteria, *(("agreement",) if twins and "agreement" not in criteria else ()))
    measures = {name: CRITERIA[name] for name in chosen}
    parts, x_p, x_r = _split(source, held_out, 2 if twins else 1, config.seed)
    grid, trials = _grid(vary), []
    for number, settings in enumerate(grid):
        models = [
            _trained(text, part, n_q, settings, replace(config, seed=config.seed + i)) for i, part in enumerate(parts)
        ]
        evidence = Evidence(models[0], models[1] if twins else None, x_p, x_r, parts[0].index.numel())
        trials.append(Trial(settings, {name: measure(evidence) for name, measure in measures.items()}, models[0]))
        if on_trial is not None:
            on_trial(number + 1, len(grid))
    return Tuned(text, tuple(trials))


def _grid(vary: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values."""
    check(bool(vary) and all(len(values) > 0 for values in vary.values()), "vary is empty; give {'k': [8, 16, 32]}")
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def _split(source: Source, held_out: float, parts: int, seed: int) -> tuple[list[_Part], Tensor, Tensor]:
    """Disjoint rows to train on, in `parts` parts, and (x_p, x_r) of the rows that are set aside."""
    check(0 < held_out < 1, f"held_out={held_out} must lie between 0 and 1; it is a share of the rows")
    check(source.rows is not None, "tune sets rows aside, so that it needs a fixed set of rows; give a file or a store")
    assert source.rows is not None
    order = torch.randperm(source.rows, generator=torch_generator(seed, "tune"))
    count = max(1, min(20_000, int(held_out * source.rows)))
    rest = order[count:]
    x_p, x_r = source.take(order[:count])
    return [_Part(source, rest[i::parts], f"tune/{i}of{parts}") for i in range(parts)], x_p, x_r


def _trained(text: str, source: Source, n_q: int, settings: Mapping[str, Any], config: FitConfig) -> SDL:
    chosen, width, changed = applied(text, n_q, settings, config)
    return fit(chosen, source, width, changed).model


def applied(text: str, n_q: int, settings: Mapping[str, Any], config: FitConfig) -> tuple[Method, int, FitConfig]:
    """(method, n_q, configuration) with each setting where its name belongs.

    Raises: ArgumentError for a name that neither the method nor FitConfig has.

    Example:
        >>> chosen, n_q, config = applied("topk", 24, {"k": 3, "lr": 0.01}, FitConfig())
        >>> chosen.spec, n_q, config.lr
        ('topk(k=3, aux=0.03125)', 24, 0.01)
    """
    fields = {name: value for name, value in settings.items() if hasattr(config, name) and name != "seed"}
    own = {name: value for name, value in settings.items() if name not in fields and name != "n_q"}
    return method(text, **own), settings.get("n_q", n_q), replace(config, **fields)

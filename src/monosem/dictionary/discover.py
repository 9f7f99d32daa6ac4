"""Anchors without labels: true directions from rows alone."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.anchors.directions import Anchors, AnchorWarning
from monosem.base.errors import DataError, ShapeError, check
from monosem.base.seeds import philox
from monosem.base.sparse import Positions, SparseCode
from monosem.dictionary.atoms import Progress
from monosem.dictionary.climb import Settings, climbed
from monosem.dictionary.coded import CodedRows, fit
from monosem.dictionary.model_search import SKEW_MOVES, Plan, Rows, State, fitted, polished
from monosem.dictionary.sparse_model import SparseModel, described, fit_background, gain, typical_length

CONFIDENCE: tuple[tuple[float, float, str], ...] = (
    (0.98, 0.99, "reliable"),
    (0.95, 0.95, "probable"),
    (0.90, 0.88, "doubtful"),
    (0.80, 0.62, "doubtful"),
    (-1.0, 0.52, "unlikely"),
)
"""(agreement from, share of atoms that were right in 54 small worlds of development, what it is called)."""
OPPOSITE, LEAST = 0.8, 0.7
"""An atom of larger -cosine to a better one is that one's other sign; atoms of less agreement are not returned."""


@dataclass(frozen=True, eq=False)
class Discovery:
    """What was discovered: anchors in falling confidence, and what their codes say about the rows.

    `confidence` is the share of atoms of such an `agreement` that were right in worlds of development; `agreement`
    is the least cosine among an atom and its nearest ones in two fits to half of the rows each. `rates` are the atoms'
    firing rates, `l0` the mean number of atoms of a row, `offset` what every row shares, `log` one entry per step.
    `gain` is in nats a row, on rows that nothing was fitted to, over a law without a sparse code; `outside` is the
    share of rows that such a law explains better. `signed` marks atoms whose opposite is an atom as well, in agreement:
    a direction is returned once, and -p is the other anchor of such a one.
    """

    anchors: Anchors
    confidence: Float[Tensor, " m"]
    rates: Float[Tensor, " m"]
    l0: float
    offset: Float[Tensor, " n_p"]
    log: list[dict[str, Any]] = field(default_factory=list)
    agreement: Float[Tensor, " m"] | None = None
    gain: float = float("nan")
    outside: float = float("nan")
    signed: Bool[Tensor, " m"] | None = None

    def confident(self, least: float | None = None) -> Anchors:
        """The anchors of at least that confidence; all of them where none has it.

        `least` None: .9, which is agreement from .95 on; .5 for climbed atoms, whose confidence is a rank only.
        """
        least = (0.5 if self.agreement is None else 0.9) if least is None else least
        count = int((self.confidence >= least).sum()) or self.anchors.k
        return Anchors(self.anchors.p[:, :count], self.anchors.r[:, :count], self.anchors.kind)

    @property
    def sparse(self) -> bool:
        """Whether the rows have a sparse code at all, as far as this search can tell."""
        return not (self.gain <= 0.5 or self.outside > 0.5)


def discover(
    x_p: Float[Tensor, "rows n_p"],
    x_r: Float[Tensor, "_ n_r"] | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Discovery:
    """Directions of which the rows are sparse nonnegative combinations, found from the rows alone.

    Neither the number of features, their rates, the number of active ones, the noise nor an offset is asked for. Up to
    `settings.widest` dimensions a generative model is fitted, from several starts, and the one of the best score goes
    on; two fits to half of the rows each then say how far every atom can be trusted. Wider rows are searched by
    climbing, which needs features that fire seldom and in independence. `progress` is called with the share done and a
    line of text.

    Equation:
        x_p ~ b + D z + e,  z >= 0 sparse;  anchors p = unit columns of D,  r = p, or from x_r ~ D_r z + b_r
    Shapes: x_p [rows, n_p], x_r [rows, n_r]; several sources lie side by side.
    Raises:
        ShapeError: x_p is no matrix of two rows or more, or x_r has another number of rows.
        DataError: rows hold NaN or infinity, are all the same, or nothing stands out in them.

    Example:
        >>> x = torch.eye(6).repeat(200, 1) * (1.0 + torch.arange(1200)[:, None] % 7)
        >>> result = discover(x)
        >>> result.anchors.k, round(result.l0, 2), result.sparse
        (6, 1.0, True)
    """
    s = settings or Settings()
    x_p, x_r = _checked(x_p, x_r)
    if x_p.shape[1] > s.widest:
        return _by_climbing(x_p, x_r, seed, progress, s)
    order = torch.from_numpy(philox(seed, "discover/rows").permutation(x_p.shape[0]))[: s.model_rows]
    apart = order[: order.numel() // 6]
    used = order[order.numel() // 6 :]
    x, log = x_p[used], list[dict[str, Any]]()
    rows = Rows(x, seed, "whole")

    def tell(share: float, state: State) -> None:
        log.append(_entry(state, x) | {"score": state.score, "noise": state.model.noise})
        if progress is not None:
            progress(share, f"{state.model.m} directions")

    state = _best_start(rows, s, seed, lambda share, state: tell(0.4 * share, state))
    shift = bool(state.model.offset.any())
    if shift:
        state = fitted(rows, state.model, Plan(passes=s.short, shift=True), stream=5)
        tell(0.5, state)
    state = polished(rows, state, s.tries, shift, lambda state: tell(0.6, state))
    state = polished(rows, state, s.skew_tries, shift, lambda state: tell(0.7, state), SKEW_MOVES)
    check(state.model.m > 1 and _events(state) >= s.least_events, _NOTHING, DataError)
    halves = [_half(x[part::2], state.model, seed, part, s) for part in (0, 1)]
    tell(0.95, state)
    return _result(state, x, None if x_r is None else x_r[used], x_p[apart], halves, log)


_NOTHING = "no direction stands out in these rows; give more rows, or features that fire more seldom"


def _events(state: State) -> float:
    """In how many rows the median atom is active."""
    m = state.model.m
    return float(state.code.sum_of((state.code.value > 0).float(), m).median())


def _checked(x_p: Tensor, x_r: Tensor | None) -> tuple[Tensor, Tensor | None]:
    check(x_p.ndim == 2 and x_p.shape[0] >= 2, f"x_p has shape {tuple(x_p.shape)}; give two rows or more", ShapeError)
    for name, x in (("x_p", x_p), ("x_r", x_r)):
        if x is None:
            continue
        rows, have = x_p.shape[0], tuple(x.shape)
        check(x.ndim == 2 and have[0] == rows, f"{name} has shape {have}, x_p {rows} rows; pair the rows", ShapeError)
        check(bool(x.isfinite().all()), f"{name} holds NaN or infinity; remove those rows", DataError)
    check(bool((x_p != x_p[0]).any()), "all rows of x_p are the same; give rows that differ", DataError)
    return x_p.detach().float(), None if x_r is None or x_r is x_p else x_r.detach().float()


def _from_rows(
    x: Float[Tensor, "rows d"], offset: Float[Tensor, " d"], factors: Float[Tensor, "d q"], seed: int, part: int = 0
) -> SparseModel:
    """A model to start from: 5 d rows as atoms, factors taken out. A row with one feature is an exact atom."""
    d = x.shape[1]
    centred = x - offset
    if factors.shape[1]:
        basis = torch.linalg.qr(factors)[0]
        centred = centred - centred @ basis @ basis.T
    size = centred.norm(dim=1)
    loud = (size > 1e-2 * size.square().mean().sqrt()).nonzero().flatten()
    pick = loud[torch.from_numpy(philox(seed, "discover/start", part).permutation(loud.numel())[: 5 * d])]
    D = torch.nn.functional.normalize(centred[pick], dim=1).T.contiguous()
    return _begun(x, D, offset, factors)


def _begun(x: Tensor, D: Tensor, offset: Tensor, factors: Tensor) -> SparseModel:
    length, m = typical_length(x - offset), D.shape[1]
    sizes = torch.full((m,), length * x.shape[1] ** 0.5)
    return SparseModel(D, offset, 0.5 * length, factors, torch.full((m,), 1.0 / max(m, 2)), sizes)


def mode(x: Float[Tensor, "rows d"], most: int = 2000) -> Float[Tensor, " d"]:
    """Where rows lie densest: the median of the neighbourhood of the row whose 2 %-nearest neighbour is closest."""
    part = x[:: -(-x.shape[0] // most)]
    count = max(2, part.shape[0] // 50)
    near = torch.cdist(part, part).topk(count, largest=False)
    tightest = int(near.values[:, -1].argmin())
    centre: Tensor = part[near.indices[tightest]].median(0).values
    return centre


def dense_factors(x: Float[Tensor, "rows d"]) -> Float[Tensor, "d q"]:
    """Leading principal directions that look Gaussian, up to a gap of 1.8 in the spectrum; none without a gap."""
    d = x.shape[1]
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / x.shape[0])
    values, vectors = values.flip(0).clamp(min=1e-30), vectors.flip(1)
    top = max(1, d // 3)
    ratio = values[:top] / values[1 : top + 1] if d > top else values[:0]
    if ratio.numel() == 0 or float(ratio.max()) <= 1.8:
        return x.new_zeros(d, 0)
    q = int(ratio.argmax()) + 1
    z = centred.double() @ vectors[:, :q] / values[:q].sqrt()
    if bool(((z**4).mean(0) - 3).abs().max() >= 1.0):
        return x.new_zeros(d, 0)
    factors: Tensor = vectors[:, :q] * (values[:q] - values[q]).sqrt()
    return factors.float()


def _best_start(rows: Rows, s: Settings, seed: int, tell: Any) -> State:
    """Short fits from rows as they are, less their mode, and without dense factors; climbed atoms where these fail."""
    x, d = rows.x, rows.x.shape[1]
    zero, none = torch.zeros(d), torch.zeros(d, 0)
    starts = [_from_rows(x, zero, none, seed)]
    centre = mode(x)
    if float(centre.norm()) > 0.02 * float(x.norm(dim=1).median()):
        starts.append(_from_rows(x, centre, none, seed))
    factors = dense_factors(x)
    if factors.shape[1]:
        starts += [_from_rows(x, start.offset, factors, seed) for start in list(starts)]
    plan = Plan(passes=s.short)
    best: State | None = None
    for i, start in enumerate(starts):
        state = fitted(rows, start, plan, stream=i)
        best = state if best is None or state.score > best.score else best
        tell((i + 1) / (len(starts) + 1), best)
    assert best is not None
    if best.model.outside > 0.05 and rows.x.shape[0] >= 200:
        other, _ = climbed(x, s, seed)
        if other.D.shape[1] > 1:
            begun = _begun(x, other.D, best.model.offset * 0, none)
            state = fitted(rows, replace(begun, noise=begun.noise / 2), plan, stream=9)
            best = state if state.score > best.score else best
    return best


def _half(x: Tensor, whole: SparseModel, seed: int, part: int, s: Settings) -> Float[Tensor, "d m"]:
    """Atoms from half of the rows, found afresh: only the offset and the number of factors are taken over."""
    rows = Rows(x, seed, f"half/{part}")
    start = _from_rows(x, whole.offset, whole.factors, seed, part + 1)
    return fitted(rows, start, Plan(passes=s.passes, shift=bool(whole.offset.any())), stream=part).model.D


def agreement(D: Float[Tensor, "d m"], one: Float[Tensor, "d k"], other: Float[Tensor, "d l"]) -> Float[Tensor, " m"]:
    """The least cosine among each atom, its nearest in one dictionary, and its nearest in the other."""
    if not one.shape[1] or not other.shape[1]:
        return D.new_full((D.shape[1],), -1.0)
    first, second = one[:, (D.T @ one).argmax(1)], other[:, (D.T @ other).argmax(1)]
    pairs = torch.stack([(D * first).sum(0), (D * second).sum(0), (first * second).sum(0)])
    return pairs.amin(0)


def confidence_of(agreed: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The share that was right among atoms of such an agreement."""
    confidence = torch.zeros_like(agreed)
    for least, right, _ in reversed(CONFIDENCE):
        confidence = torch.where(agreed >= least, right, confidence)
    return confidence


def _result(
    state: State, x: Tensor, x_r: Tensor | None, apart: Tensor, halves: list[Tensor], log: list[dict[str, Any]]
) -> Discovery:
    model = state.model
    agreed = agreement(model.D, *halves)
    z = state.code.dense(model.m)
    rates = (z > 0).float().mean(0)
    often = rates.argsort(descending=True, stable=True)
    by, signed = _once(model.D, agreed, often[agreed[often].round(decimals=3).argsort(descending=True, stable=True)])
    code = SparseCode(Positions.from_mask(z > 0), z[z > 0])
    targets = model.D if x_r is None else fit(code, x_r)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorWarning)
        anchors = Anchors(model.D[:, by], targets[:, by], "discovered")
    log = [*log, _entry(state, x)]
    gained = gain(model, apart, fit_background(x)) if apart.shape[0] else float("nan")
    return Discovery(
        anchors,
        confidence_of(agreed)[by],
        rates[by],
        float(rates.sum()),
        model.offset,
        log,
        agreed[by],
        gained,
        model.outside,
        signed,
    )


def _once(D: Float[Tensor, "d m"], agreed: Float[Tensor, " m"], by: Tensor) -> tuple[Tensor, Tensor]:
    """(atoms, best first, each direction once and in agreement; which of them have a reliable opposite).

    Where features fire together, a code also takes back what another atom put too much of, along that one's opposite.
    """
    cosine, kept, signed = D.T @ D, list[int](), set[int]()
    for j in by.tolist():
        against = [i for i in kept if float(cosine[i, j]) < -OPPOSITE]
        if not against:
            kept.append(j)
        elif float(agreed[j]) >= 0.9:
            signed.update(against)
    kept = [j for j in kept if float(agreed[j]) >= LEAST] or kept
    return torch.tensor(kept), torch.tensor([j in signed for j in kept])


def _entry(state: State, x: Tensor) -> dict[str, Any]:
    """What a log says of a state: atoms, and what they leave of the variance and of the median row."""
    model, z = state.model, state.code.dense(state.model.m)
    centred = x - model.offset
    left, size = (centred - z @ model.D.T).square().sum(1), centred.square().sum(1)
    typical = left[size > 0] / size[size > 0]
    return {
        "rows": x.shape[0],
        "atoms": model.m,
        "l0": float((z > 0).float().sum(1).mean()),
        "fvu": float(left.sum() / (x - x.mean(0)).square().sum()),
        "typical": float(typical.median()) if typical.numel() else 0.0,
    }


def _by_climbing(x_p: Tensor, x_r: Tensor | None, seed: int, progress: Progress | None, s: Settings) -> Discovery:
    state, log = climbed(x_p, s, seed, progress)
    check(state.D.shape[1] > 0, _NOTHING, DataError)
    order = torch.from_numpy(philox(seed, "discover/rows").permutation(x_p.shape[0]))[: state.x.shape[0]]
    state = CodedRows.of(state.x, state.D, state.offset, s.finest)
    confidence = state.agreement.clamp(0.0, 1.0) * (1.0 - state.company) * (1.0 - state.strain)
    by = confidence.argsort(descending=True)
    targets = state.D if x_r is None else fit(state.code, x_r[order])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorWarning)
        anchors = Anchors(state.D[:, by], targets[:, by], "discovered")
    power = state.code.latent_sum(state.code.values.square())
    loud = state.code.values > s.faint * state.code.along((power / state.events.clamp(min=1.0)).sqrt())
    rates = torch.bincount(state.code.at.col[loud], minlength=state.D.shape[1]) / state.code.batch
    log = [*log, state.entry()]
    some = state.x[: s.model_rows]
    cut = some.shape[0] // 6
    model = described(state.D, some[cut:], offset=state.offset)
    gained = gain(model, some[:cut], fit_background(some[cut:])) if cut else float("nan")
    return Discovery(
        anchors,
        confidence[by],
        rates[by],
        float(rates.sum()),
        state.offset,
        log,
        state.agreement[by],
        gained,
        model.outside,
    )


def ordinary_rows(x: Float[Tensor, "rows d"], times: float = 10.0) -> Bool[Tensor, " rows"]:
    """Which rows are at most `times` as far from the median row as nine in ten rows are.

    A network's first token, and few others, may be a hundred times as long as the rest. They then hold nearly all of
    the energy, and whatever is fitted to the rows is fitted to them.

    Equation:
        |x - median| <= times q,  q = the 90 % quantile of |x - median|;  every row where q = 0

    Example:
        >>> ordinary_rows(torch.cat([torch.eye(30), 500.0 * torch.ones(1, 30)])).logical_not().nonzero().tolist()
        [[30]]
    """
    check(times > 1.0, f"times = {times} must be above 1; it is a factor on the length of ordinary rows")
    length = (x - x.median(0).values).norm(dim=1)
    most = length.kthvalue(max(1, round(0.9 * length.numel()))).values
    return length <= times * most if float(most) > 0 else torch.ones_like(length, dtype=torch.bool)

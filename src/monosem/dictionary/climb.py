"""Climbing: a search for features that fire seldom and in independence, by fixed points where rows stand out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.seeds import philox
from monosem.dictionary.atoms import Progress
from monosem.dictionary.coded import CodedRows


def climb(
    x: Float[Tensor, "rows d"], starts: Float[Tensor, "d s"], *, kappa: float = 2.5, steps: int = 6, block: int = 512
) -> tuple[Float[Tensor, "d s"], Float[Tensor, " s"]]:
    """Unit fixed points u, and the contrast at each: mean activation above the threshold, over the threshold.

    A feature that fires seldom stands far above the spread of everything else along its own direction, so the mean
    of the rows beyond a threshold points to it. The threshold scales with the spread: no rate of firing is assumed.

    Equation:
        u <- mean of (<u, x> - b)_+ x, normalised;  b = min(kappa sqrt(mean of <u, x>^2), max of <u, x> / 2)
    """
    fixed_points, contrast = [], []
    for start in range(0, starts.shape[1], block):
        u = torch.nn.functional.normalize(starts[:, start : start + block], dim=0)
        above = torch.zeros(u.shape[1])
        for _ in range(steps):
            activation = x @ u
            b = torch.minimum(kappa * activation.square().mean(0).sqrt(), activation.amax(0) / 2)
            over = (activation - b).clamp_(min=0.0)
            above = over.sum(0) / (over > 0).sum(0).clamp(min=1) / b.clamp(min=1e-12)
            u = torch.nn.functional.normalize(x.T @ over, dim=0)
        fixed_points.append(u)
        contrast.append(above)
    return torch.cat(fixed_points, 1), torch.cat(contrast)


def distinct(
    candidates: Float[Tensor, "d s"], worth: Float[Tensor, " s"], known: Float[Tensor, "d m"], cosine: float
) -> Float[Tensor, "d kept"]:
    """Candidates in falling worth, without those within `cosine` of a known direction or of a better candidate."""
    keep = candidates.isfinite().all(0) & (candidates.norm(dim=0) > 0.5)
    if known.shape[1]:
        keep &= (known.T @ candidates).amax(0) < cosine
    candidates, worth = candidates[:, keep], worth[keep]
    candidates = candidates[:, worth.argsort(descending=True)]
    close = (candidates.T @ candidates) >= cosine
    alive = torch.ones(candidates.shape[1], dtype=torch.bool)
    for i in range(candidates.shape[1]):
        if alive[i]:
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return candidates[:, alive]


def explained(D: Float[Tensor, "d m"], by: int = 3) -> Float[Tensor, " m"]:
    """How much of every unit atom up to `by` others explain, greedily, with positive weights: a share in [0, 1].

    A mixture of features is explained by them; a feature is not explained by mixtures, which would need differences.
    """
    m = D.shape[1]
    gram = D.T @ D
    share, weights = torch.zeros(m), torch.zeros(m, m)
    support = torch.zeros(m, 0, dtype=torch.int64)
    for size in range(1, min(by, m - 1) + 1):
        left = (gram - weights @ gram).scatter_(1, support, -1.0).fill_diagonal_(-1.0)
        support = torch.cat([support, left.argmax(1, keepdim=True)], 1)
        inner = gram[support[:, :, None], support[:, None, :]] + 1e-6 * torch.eye(size)
        right = gram.gather(1, support)
        z = torch.linalg.solve_ex(inner, right[:, :, None])[0][:, :, 0].clamp_(min=0.0)
        weights = torch.zeros(m, m).scatter_(1, support, z)
        fitted = 2 * (z * right).sum(1) - torch.einsum("ms,mst,mt->m", z, inner, z)
        share = torch.maximum(share, fitted)
    return share.clamp(0.0, 1.0)


def unexplained(D: Float[Tensor, "d m"], most: float, near: float = 0.8) -> Bool[Tensor, " m"]:
    """Which atoms stay when those that others explain beyond `most` leave, the most explained first.

    Of two atoms within cosine `near` one leaves at a time, since each may be what explains the other.
    """
    keep = torch.ones(D.shape[1], dtype=torch.bool)
    while int(keep.sum()) > 1:
        left = D[:, keep]
        share = explained(left)
        wrong = share > most
        if not bool(wrong.any()):
            break
        close = left.T @ left > near
        leave = torch.zeros_like(wrong)
        for j in share.argsort(descending=True)[: (int(wrong.sum()) + 1) // 2].tolist():
            leave[j] = not bool((leave & close[j]).any())
        keep[keep.clone()] = ~leave
    return keep


@dataclass(frozen=True)
class Settings:
    """What discovery was tuned to, once, on worlds other than those reported; nothing here describes the data.

    Rows of up to `widest` dimensions are searched by a model, on at most `model_rows` rows: `short` passes from every
    start, `passes` from the best, then `tries` and `skew_tries` of other moves. The rest is about climbing.

    `stages` are (rows, tolerance) of the searches, `last` the tolerances of the fits that follow, `finest` that of the
    codes from which rates are read; values below `faint` times an atom's root mean square do not count there. A stage
    ends after `rounds` rounds, or after `patience` of them in which sound atoms are no more than a share `quiet` above
    their best number and what is left over no more than five times that below its best. An atom is sound below
    `company`, below `strain` times the median strain, above `agreement`, with `least_events` events, and explained by
    others to less than `mixture`; docs/discovery.md says what each means.
    """

    stages: tuple[tuple[int, float], ...] = ((20_000, 0.3), (40_000, 0.2), (100_000, 0.1))
    last: tuple[float, ...] = (0.1, 0.05)
    finest: float = 0.01
    faint: float = 0.02
    rounds: int = 24
    patience: int = 2
    quiet: float = 0.002
    starts: int = 1500
    climb_rows: int = 12_000
    kappa: float = 5.0
    steps: int = 6
    same: float = 0.8
    mixture: float = 0.75
    company: float = 0.4
    strain: float = 3.0
    agreement: float = 0.7
    least_events: int = 8
    widest: int = 64
    model_rows: int = 12_000
    short: int = 16
    passes: int = 20
    tries: int = 4
    skew_tries: int = 6


def climbed(
    x: Float[Tensor, "rows d"], s: Settings, seed: int, progress: Progress | None = None
) -> tuple[CodedRows, list[dict[str, Any]]]:
    """Sound atoms of the rows, with their codes, and one entry a round.

    Rounds, each on what the last one left over: climb from rows to directions in which rows stand out; code all rows
    on old and new atoms; fit atoms by least squares; drop atoms that are mixtures of others, fire in company, leave
    rows unexplained or differ between halves of the rows. What was dropped wrongly is found again.
    """
    order = torch.from_numpy(philox(seed, "discover/rows").permutation(x.shape[0]))
    state = CodedRows.of(x[order[:2]], torch.zeros(x.shape[1], 0), x.mean(0), 1.0)
    log: list[dict[str, Any]] = []
    for stage, (limit, tol) in enumerate(s.stages):
        state = CodedRows.of(x[order[:limit]], state.D, state.offset, tol).fitted()
        sound = _sound(state, s)
        most, least, still = int(sound.sum()), state.fvu, 0
        for i in range(s.rounds):
            _tell(progress, (stage + i / (i + 4)) / (len(s.stages) + 1), int(sound.sum()))
            state = _round(state.kept(sound), s, philox(seed, "discover/starts", len(log)))
            sound = _sound(state, s)
            log.append(state.entry() | {"sound": int(sound.sum())})
            better = int(sound.sum()) > (1 + s.quiet) * most or state.fvu < (1 - 5 * s.quiet) * least
            most, least = max(most, int(sound.sum())), min(least, state.fvu)
            still = 0 if better else still + 1
            if still == s.patience:
                break
    for i, tol in enumerate(s.last):
        _tell(progress, (len(s.stages) + i / len(s.last)) / (len(s.stages) + 1), state.D.shape[1])
        state = CodedRows.of(state.x, state.D, state.offset, tol).fitted()
        log.append(state.entry())
    state = _weeded(state, s)
    return state, log


def _round(state: CodedRows, s: Settings, rng: np.random.Generator) -> CodedRows:
    """Climb in what is left over, and fit the old and new atoms together."""
    energy = state.residual.square().sum(1).double().numpy()
    part = state.residual[torch.from_numpy(_draw(rng, energy, s.climb_rows))]
    starts = state.residual[torch.from_numpy(_draw(rng, energy, s.starts))].T
    new = distinct(*climb(part, starts, kappa=s.kappa, steps=s.steps), state.D, s.same)
    D = torch.cat([state.D, new], 1)
    return state.on(D[:, unexplained(D, s.mixture)]).fitted(s.least_events)


def _draw(rng: np.random.Generator, energy: np.ndarray, count: int) -> np.ndarray:
    """Rows without repetition, more likely the more energy (exponential clocks)."""
    clock = rng.standard_exponential(energy.size) / np.maximum(energy, 1e-30)
    count = min(count, energy.size)
    return np.sort(np.argpartition(clock, count - 1)[:count])


def _sound(state: CodedRows, s: Settings) -> Bool[Tensor, " m"]:
    """Atoms that fire alone, leave little over where they fire, are what both halves of the rows make of them, and are
    no mixtures of others."""
    if state.D.shape[1] == 0:
        return torch.zeros(0, dtype=torch.bool)
    bearable = (s.strain * state.strain.median()).clamp(min=0.09)
    firm = (state.agreement > s.agreement) & (state.events >= s.least_events)
    return (state.company < s.company) & (state.strain < bearable) & firm & unexplained(state.D, s.mixture)


def _weeded(state: CodedRows, s: Settings) -> CodedRows:
    """Only sound atoms: the weaker half of the others leaves at a time, since it may be what makes the rest unsound."""
    while not bool((sound := _sound(state, s)).all()):
        doubtful = (~sound).nonzero().flatten()
        power = state.code.latent_sum(state.code.values.square())[doubtful]
        keep = torch.ones_like(sound)
        keep[doubtful[power.argsort()[: (doubtful.numel() + 1) // 2]]] = False
        state = state.kept(keep)
    return state


def _tell(progress: Progress | None, share: float, directions: int) -> None:
    if progress is not None:
        progress(share, f"{directions} directions")

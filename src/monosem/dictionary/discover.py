"""Anchors without labels: true directions from rows alone."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.anchoring.anchors import Anchors, AnchorWarning
from monosem.base.errors import DataError, ShapeError, check
from monosem.base.seeds import philox
from monosem.base.sparse import SparseCode
from monosem.dictionary.directions import climb, distinct, explained
from monosem.dictionary.stagewise import stagewise_pursuit
from monosem.dictionary.steps import company, fit, reconstruct, strain

__all__ = ["Discovery", "Settings", "discover"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Settings:
    """What discovery was tuned to, once, on worlds other than those reported; nothing here describes the data."""

    rounds: int = 8
    polish: int = 3
    starts: int = 1500
    climb_rows: int = 12_000
    fit_rows: int = 20_000
    last_rows: int = 40_000
    kappas: tuple[float, ...] = (5.0,)
    steps: int = 6
    merge: float = 0.8
    least_events: int = 8
    tol: float = 0.3
    mixture: float = 0.75
    company: float = 0.4
    strain: float = 2.0
    polish_tol: tuple[float, ...] = (0.2, 0.1, 0.05)


@dataclass(frozen=True, eq=False)
class Discovery:
    """What was found. `rates` are firing rates of the atoms, `l0` the mean number of active atoms of a row."""

    anchors: Anchors
    confidence: Float[Tensor, " m"]
    rates: Float[Tensor, " m"]
    l0: float
    offset: Float[Tensor, " n_p"]
    log: list[dict[str, Any]] = field(default_factory=list)


def discover(
    x_p: Float[Tensor, "rows n_p"],
    x_r: Float[Tensor, "rows n_r"] | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Discovery:
    """Directions of which the rows are sparse nonnegative combinations, found from the rows alone."""
    s = settings or Settings()
    check(x_p.ndim == 2 and x_p.shape[0] >= 2, f"x_p has shape {tuple(x_p.shape)}; give two rows or more", ShapeError)
    check(bool(x_p.isfinite().all()), "x_p holds NaN or infinity; remove those rows", DataError)
    order = torch.from_numpy(philox(seed, "discover/rows").permutation(x_p.shape[0]))
    few = x_p[order[: s.fit_rows]].float()
    D, offset = torch.zeros(x_p.shape[1], 0), few.mean(0)
    residual, log = few - offset, []
    for i in range(s.rounds):
        _tell(progress, i / (s.rounds + s.polish + 1), f"round {i + 1}: {D.shape[1]} atoms")
        before = D.shape[1]
        if i:
            strained = strain(code, few - offset, residual)
            D = D[:, (company(code) < s.company) & (strained < s.strain * strained.median())]
        if D.shape[1] < before:
            code, _ = stagewise_pursuit(few - offset, D, tol=s.tol)
            residual = few - offset - reconstruct(code, D)
        dropped = before - D.shape[1]
        new = _candidates(residual, D, s, philox(seed, "discover/starts", i))
        D = torch.cat([D, new], 1)
        D, offset, code, residual = _refine(few, D, offset, s, s.tol)
        log.append(_entry("round", few, D, code, residual) | {"candidates": new.shape[1], "dropped": dropped})
    many = x_p[order[: s.last_rows]].float()
    for i in range(s.polish):
        _tell(progress, (i + s.rounds) / (s.rounds + s.polish + 1), f"polish {i + 1}: {D.shape[1]} atoms")
        D, offset, code, residual = _refine(many, D, offset, s, s.polish_tol[i])
        log.append(_entry("polish", many, D, code, residual))
    code, _ = stagewise_pursuit(many - offset, D, tol=0.02)
    rates = torch.bincount(code.at.col, minlength=D.shape[1]) / code.batch
    confidence = rates.clamp(max=1.0)
    by = rates.argsort(descending=True)
    targets = D
    if x_r is not None and x_r is not x_p:
        targets, _ = fit(code, x_r[order[: s.last_rows]].float())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorWarning)
        anchors = Anchors(D[:, by], targets[:, by], "discovered")
    return Discovery(anchors, confidence[by], rates[by], float(rates.sum()), offset, log)


def _tell(progress: Progress | None, share: float, text: str) -> None:
    if progress is not None:
        progress(share, text)


def _candidates(residual: Tensor, D: Tensor, s: Settings, rng: np.random.Generator) -> Tensor:
    """New directions in what the atoms leave of the rows: starts at rows drawn by their energy."""
    energy = residual.square().sum(1).double().numpy()
    rows = min(s.climb_rows, residual.shape[0])
    part = residual[torch.from_numpy(_draw(rng, energy, rows))]
    found, worth = [], []
    for kappa in s.kappas:
        starts = residual[torch.from_numpy(_draw(rng, energy, min(s.starts, residual.shape[0])))].T
        u, contrast = climb(part, starts, kappa=kappa, steps=s.steps)
        found.append(u)
        worth.append(contrast)
    return distinct(torch.cat(found, 1), torch.cat(worth), D, s.merge)


def _draw(rng: np.random.Generator, energy: np.ndarray, count: int) -> np.ndarray:
    """Rows without repetition, more likely the more energy (exponential clocks)."""
    clock = rng.standard_exponential(energy.size) / np.maximum(energy, 1e-30)
    return np.sort(np.argpartition(clock, count - 1)[:count])


def _refine(x: Tensor, D: Tensor, offset: Tensor, s: Settings, tol: float) -> tuple[Tensor, Tensor, SparseCode, Tensor]:
    """Code, drop what is hardly used, fit; gives the new atoms and offset, the codes, and what is left of the rows."""
    D = _pruned(D, s)
    code, _ = stagewise_pursuit(x - offset, D, tol=tol)
    used = torch.bincount(code.at.col, minlength=D.shape[1]) >= s.least_events
    if not bool(used.all()):
        D = D[:, used]
        code, _ = stagewise_pursuit(x - offset, D, tol=tol)
    D, offset = fit(code, x)
    D = _pruned(D, s)
    code, _ = stagewise_pursuit(x - offset, D, tol=tol)
    return D, offset, code, x - offset - reconstruct(code, D)


def _pruned(D: Tensor, s: Settings) -> Tensor:
    """Without duplicates and mixtures, the most explained first."""
    while D.shape[1] > 1:
        share = explained(D)
        wrong = share > s.mixture
        if not bool(wrong.any()):
            break
        alone = wrong & (share >= share[wrong].median())
        close = D.T @ D > 0.8
        first = torch.zeros_like(wrong)
        for j in alone.nonzero().flatten()[share[alone].argsort(descending=True)].tolist():
            first[j] = not bool((first & close[j]).any())
        D = D[:, ~first]
    return D


def _entry(kind: str, x: Tensor, D: Tensor, code: SparseCode, residual: Tensor) -> dict[str, Any]:
    fvu = float(residual.square().sum() / (x - x.mean(0)).square().sum())
    return {"step": kind, "atoms": D.shape[1], "l0": code.at.nnz / code.batch, "fvu": fvu}

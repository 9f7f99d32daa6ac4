"""Anchors without labels: true directions from rows alone."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.anchoring.anchors import Anchors, AnchorWarning
from monosem.base.errors import DataError, ShapeError, check
from monosem.base.seeds import philox
from monosem.base.sparse import SparseCode
from monosem.dictionary.directions import climb, distinct, unexplained
from monosem.dictionary.stagewise import stagewise_pursuit
from monosem.dictionary.steps import agreement, company, fit, reconstruct, strain

__all__ = ["Discovery", "Settings", "discover"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Settings:
    """What discovery was tuned to, once, on worlds other than those reported; nothing here describes the data."""

    stages: tuple[tuple[int, float], ...] = ((20_000, 0.3), (40_000, 0.2), (100_000, 0.1))
    rounds: int = 8
    quiet: float = 0.005
    last: tuple[float, ...] = (0.1, 0.05)
    last_rows: int = 100_000
    starts: int = 1500
    climb_rows: int = 12_000
    kappa: float = 5.0
    steps: int = 6
    same: float = 0.8
    mixture: float = 0.75
    company: float = 0.4
    strain: float = 2.0
    agreement: float = 0.9
    least_events: int = 8


@dataclass(frozen=True, eq=False)
class Discovery:
    """What was found. `rates` are firing rates of the atoms, `l0` the mean number of active atoms of a row."""

    anchors: Anchors
    confidence: Float[Tensor, " m"]
    rates: Float[Tensor, " m"]
    l0: float
    offset: Float[Tensor, " n_p"]
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _State:
    """Atoms and offset on some rows, with the rows' codes and what these leave."""

    x: Float[Tensor, "rows d"]
    D: Float[Tensor, "d m"]
    offset: Float[Tensor, " d"]
    code: SparseCode
    residual: Float[Tensor, "rows d"]

    @staticmethod
    def of(x: Tensor, D: Tensor, offset: Tensor, tol: float) -> "_State":
        code, _ = stagewise_pursuit(x - offset, D, tol=tol)
        return _State(x, D, offset, code, x - offset - reconstruct(code, D))

    @property
    def rates(self) -> Float[Tensor, " m"]:
        return torch.bincount(self.code.at.col, minlength=self.D.shape[1]) / self.code.batch

    @property
    def l0(self) -> float:
        return self.code.at.nnz / self.code.batch

    @property
    def fvu(self) -> float:
        return float(self.residual.square().sum() / (self.x - self.x.mean(0)).square().sum())

    def kept(self, keep: Bool[Tensor, " m"], tol: float) -> "_State":
        """Without some atoms, coded again if there were any."""
        return self if bool(keep.all()) else _State.of(self.x, self.D[:, keep], self.offset, tol)

    def fitted(self, tol: float) -> "_State":
        """The atoms by least squares on the codes, coded again."""
        D, offset = fit(self.code, self.x)
        return _State.of(self.x, D, offset, tol)


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
    D, offset, log, rows, turn = torch.zeros(x_p.shape[1], 0), x_p.float().mean(0), [], 0, 0
    for stage, (limit, tol) in enumerate(s.stages):
        rows = min(limit, x_p.shape[0])
        state = _State.of(x_p[order[:rows]].float(), D, offset, tol)
        sound = _sound(state, s)
        for i in range(s.rounds):
            _tell(progress, (stage + i / s.rounds) / (len(s.stages) + 1), f"{int(sound.sum())} directions")
            before, turn = int(sound.sum()), turn + 1
            state, new = _round(state, sound, s, tol, philox(seed, "discover/starts", turn))
            sound = _sound(state, s)
            log.append(_entry(state, rows, tol) | {"candidates": new, "sound": int(sound.sum())})
            if i and int(sound.sum()) - before <= s.quiet * before:
                break
        D, offset = state.D, state.offset
    rows = min(s.last_rows, x_p.shape[0])
    for tol in s.last:
        state = _State.of(x_p[order[:rows]].float(), D, offset, tol)
        state = state.kept(_sound(state, s), tol).fitted(tol)
        log.append(_entry(state, rows, tol))
        D, offset = state.D, state.offset
    return _result(state, None if x_r is None or x_r is x_p else x_r[order[:rows]].float(), log)


def _round(
    state: _State, sound: Bool[Tensor, " m"], s: Settings, tol: float, rng: np.random.Generator
) -> tuple[_State, int]:
    """Drop what is not sound, climb in what is left over, and fit the old and new atoms together."""
    state = state.kept(sound, tol)
    new = _candidates(state.residual, state.D, s, rng)
    D = torch.cat([state.D, new], 1)
    state = _State.of(state.x, D[:, unexplained(D, s.mixture)], state.offset, tol)
    state = state.kept(state.rates * state.code.batch >= s.least_events, tol).fitted(tol)
    return state.kept(unexplained(state.D, s.mixture), tol), new.shape[1]


def _sound(state: _State, s: Settings) -> Bool[Tensor, " m"]:
    if state.D.shape[1] == 0:
        return torch.zeros(0, dtype=torch.bool)
    """Atoms that fire alone, leave little over where they fire, and are what both halves of the rows make of them."""
    strained = strain(state.code, state.x - state.offset, state.residual)
    agreed = agreement(state.code, state.residual, state.D)
    return (
        (company(state.code) < s.company)
        & (strained < (s.strain * strained.median()).clamp(min=0.09))
        & (agreed > s.agreement)
        & (state.rates * state.code.batch >= s.least_events)
    )


def _candidates(residual: Tensor, D: Tensor, s: Settings, rng: np.random.Generator) -> Tensor:
    """New directions in what the atoms leave of the rows: starts at rows drawn by their energy."""
    energy = residual.square().sum(1).double().numpy()
    part = residual[torch.from_numpy(_draw(rng, energy, s.climb_rows))]
    starts = residual[torch.from_numpy(_draw(rng, energy, s.starts))].T
    u, contrast = climb(part, starts, kappa=s.kappa, steps=s.steps)
    return distinct(u, contrast, D, s.same)


def _draw(rng: np.random.Generator, energy: np.ndarray, count: int) -> np.ndarray:
    """Rows without repetition, more likely the more energy (exponential clocks)."""
    clock = rng.standard_exponential(energy.size) / np.maximum(energy, 1e-30)
    count = min(count, energy.size)
    return np.sort(np.argpartition(clock, count - 1)[:count])


def _result(state: _State, x_r: Tensor | None, log: list[dict[str, Any]]) -> Discovery:
    rates = state.rates
    strained = strain(state.code, state.x - state.offset, state.residual)
    confidence = agreement(state.code, state.residual, state.D).clamp(0.0, 1.0)
    by = confidence.argsort(descending=True)
    targets = state.D if x_r is None else fit(state.code, x_r)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorWarning)
        anchors = Anchors(state.D[:, by], targets[:, by], "discovered")
    return Discovery(anchors, confidence[by], rates[by], state.l0, state.offset, log)


def _tell(progress: Progress | None, share: float, text: str) -> None:
    if progress is not None:
        progress(share, text)


def _entry(state: _State, rows: int, tol: float) -> dict[str, Any]:
    return {"rows": rows, "tol": tol, "atoms": state.D.shape[1], "l0": state.l0, "fvu": state.fvu}

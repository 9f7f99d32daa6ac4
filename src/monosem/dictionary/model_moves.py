"""Moves that a search does not make by itself: each is tried, refitted, and kept only if the score rises."""

from collections.abc import Callable
from dataclasses import replace

import torch

from monosem.dictionary.climb import unexplained
from monosem.dictionary.model_search import MOST, Plan, Rows, State, extended, fitted, without
from monosem.dictionary.sparse_model import SparseModel

Move = Callable[[Rows, State, int], SparseModel | None]
"""(rows, state, number of the try) -> another model to go on from; None where the move does not apply."""


def composite(rows: Rows, state: State, step: int) -> SparseModel | None:
    """Without atoms that nonnegative sums of up to three others come close to: mixtures of features."""
    keep = unexplained(state.model.D, 0.8 if step % 2 == 0 else 0.65)
    return None if bool(keep.all()) else without(state.model, keep)


def _reheat(rows: Rows, state: State, step: int) -> SparseModel | None:
    """Eight times the noise, to cool again, once: atoms that were frozen too early may still move."""
    return None if step else replace(state.model, noise=8 * state.model.noise)


def _costly(rows: Rows, state: State, step: int) -> SparseModel | None:
    """New atoms from rows whose codes are dear: the row, without none, one or two of its largest terms."""
    code, model = state.code, state.model
    dear = (code.loss > 1.3 * code.loss[code.atom[:, 0] < model.m].median()).nonzero().flatten()
    room = min(MOST * rows.x.shape[1] - model.m, rows.x.shape[1], dear.numel())
    few = dear.numel() < 0.02 * rows.x.shape[0]
    if room <= 0 or few:
        return None
    chosen = dear[torch.from_numpy(rows.rng(3, step).permutation(dear.numel())[:room])]
    terms = torch.zeros(room, model.m + 1).scatter_(1, code.atom[chosen], code.value[chosen])[:, : model.m]
    largest = terms.topk(min(2, model.m), 1)
    drop = torch.arange(largest.values.shape[1])[None, :] < (torch.arange(room) % 3)[:, None]
    part = torch.zeros_like(terms).scatter_(1, largest.indices, largest.values * drop)
    left = rows.x[chosen] - model.offset - part @ model.D.T
    born = torch.nn.functional.normalize(left, dim=1).T
    return extended(model, born, float(model.sizes.median()), rows.x.shape[0])


MOVES: tuple[Move, ...] = (composite, _costly, _reheat)


def polished(rows: Rows, state: State, tries: int, shift: bool, tell: Callable[[State], None] | None = None) -> State:
    """Moves in turn, `tries` in all; ends early when a whole round of them brings nothing."""
    idle = 0
    for step in range(tries):
        other = MOVES[step % len(MOVES)](rows, state, step // len(MOVES))
        if other is not None:
            breeding = 0.0 if MOVES[step % len(MOVES)] is not _costly else 0.3
            there = fitted(rows, other, Plan(passes=13, breeding=breeding, shift=shift), stream=step + 10)
            idle = 0 if there.score > state.score + 3 else idle + 1
            state = there if there.score > state.score else state
        else:
            idle += 1
        if tell is not None:
            tell(state)
        if idle >= len(MOVES):
            break
    return state

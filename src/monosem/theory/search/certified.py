"""Certified global optima of small ReLU problems: every realizable pattern, branch and bound in each."""

import heapq
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.theory.descent import Plan, descend
from monosem.theory.loss import best_decoder, loss
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem
from monosem.theory.search.bound import lower_bounds
from monosem.theory.search.cells import Cell, feature_sets, first_cells, split_cell

__all__ = ["Certified", "certified_optimum", "unit_rows"]

_BATCH = 128


@dataclass(frozen=True, eq=False)
class Certified:
    """The best dictionary found, and a lower bound on L~ over every dictionary of the gauge.

    Gauge: rows of W_E of unit norm (ReLU is free of scale), decoder columns of norm at most `norm_bound`; without a
    bound the infimum may need columns that grow for ever and cancel. Lower bounds hold to float64 rounding. `gap` =
    (loss - lower) / loss, or 0 where the loss is below 1e-9 of the zero dictionary's. `complete`: gap <= the one asked
    for. `open_by_pattern`: patterns that still hold undecided boxes, with their lower bounds.
    """

    W_D: Float[Tensor, "n_r n_q"]
    W_E: Float[Tensor, "n_q n_p"]
    loss: float
    lower: float
    gap: float
    complete: bool
    nodes: int
    patterns: int
    pattern: ActivationPattern
    norm_bound: float
    open_by_pattern: dict[str, float]


def unit_rows(problem: Problem, W_E: Float[Tensor, "n_q n_p"], norm_bound: float) -> tuple[Tensor, Tensor, float]:
    """The encoder in the gauge with its best decoder and its loss; infinite when a decoder column is too long."""
    W_E = W_E / W_E.norm(dim=1, keepdim=True).clamp(min=1e-300)
    W_D = best_decoder(problem, W_E)
    fits = float(W_D.norm(dim=0).max()) <= norm_bound
    return W_D, W_E, float(loss(problem, W_D, W_E)) if fits else float("inf")


def _name(node: tuple[Cell, ...]) -> str:
    return " ".join("{" + ",".join(map(str, cell.of.members)) + "}" for cell in node)


def certified_optimum(
    problem: Problem,
    gap: float = 1e-3,
    norm_bound: float = 5.0,
    max_nodes: int = 200_000,
    starts: int = 32,
    steps: int = 800,
    seed: int = 0,
) -> Certified:
    """Global minimum of L~ with a certificate, for small n, n_p and n_q under ReLU.

    Patterns with a dead latent are left out: a live latent with a zero column does the same. The upper bound comes from
    Adam on L~ and from box centres.
    Raises: RefusedError for other activations; ArgumentError when n_p > 3 or n_q > 4.
    """
    check(problem.n_p <= 3 and problem.n_q <= 4, f"n_p={problem.n_p}, n_q={problem.n_q}; it is for n_p <= 3, n_q <= 4")
    sets, zero = feature_sets(problem), problem.zero_dictionary_loss
    ended = descend(problem, Plan(steps=steps, lr=0.03), starts, seed)
    best = min((unit_rows(problem, W_E, norm_bound) for W_E in ended.W_E), key=lambda item: item[2])
    heap: list[tuple[float, int, tuple[Cell, ...]]] = []
    counter, patterns, closed = itertools.count(), 0, float("inf")

    def enough() -> float:
        return best[2] - max(gap * best[2], 1e-9 * zero)

    def push(nodes: list[tuple[Cell, ...]], parents: list[float]) -> None:
        nonlocal closed
        for start in range(0, len(nodes), _BATCH):
            part = nodes[start : start + _BATCH]
            values = lower_bounds(problem, part, norm_bound).tolist()
            for node, value, parent in zip(part, values, parents[start : start + _BATCH], strict=True):
                if max(value, parent) >= enough():
                    closed = min(closed, max(value, parent))
                else:
                    heapq.heappush(heap, (max(value, parent), next(counter), node))

    if best[2] > 1e-9 * zero:
        for chosen in itertools.combinations_with_replacement(sets, problem.n_q):
            patterns += 1
            push(nodes := list(itertools.product(*(first_cells(s) for s in chosen))), [0.0] * len(nodes))
    while heap and heap[0][0] < enough() and next(counter) < max_nodes:
        children, parents = [], []
        for _ in range(min(_BATCH, len(heap))):
            value, _, node = heapq.heappop(heap)
            rows = [torch.from_numpy(cell.of.basis) @ torch.tensor(cell.centre).double() for cell in node]
            centre = torch.stack(rows)
            best = min(best, unit_rows(problem, centre, norm_bound), key=lambda item: item[2])
            widest = max(range(len(node)), key=lambda i: node[i].size)
            if node[widest].size < 1e-9:  # nothing left to split: what the bound misses is rounding
                closed = min(closed, value)
                continue
            for cell in split_cell(node[widest]):
                children.append((*node[:widest], cell, *node[widest + 1 :]))
                parents.append(value)
        push(children, parents)
    left: dict[str, float] = {}
    for value, _, node in heap:
        if value < enough():
            left[_name(node)] = min(value, left.get(_name(node), float("inf")))
    lower = max(0.0, min([closed, best[2], *left.values()]))
    lower = 0.0 if best[2] <= 1e-9 * zero else lower
    relative = (best[2] - lower) / best[2] if best[2] > 1e-9 * zero else 0.0
    pattern = pattern_of(problem, best[1])
    done = relative <= gap * (1 + 1e-6)
    return Certified(*best, lower, relative, done, next(counter), patterns, pattern, norm_bound, left)

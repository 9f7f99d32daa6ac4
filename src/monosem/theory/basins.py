"""Why and when anchoring works: the share of random starts that fall into the feature-recovering basin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from monosem.theory.descent import Descended, Plan, descend
from monosem.theory.problem import Atoms, Problem


@dataclass(frozen=True)
class Basin:
    """With k anchors: the share of runs that recover every feature not anchored (with its 95 % interval), the mean
    share of such features recovered, the median loss, and the share of runs of loss below 1e-6."""

    anchors: int
    full: float
    low: float
    high: float
    features: float
    median_loss: float
    zero_loss: float


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, p = 1.959964, successes / trials
    centre, half = p + z * z / (2 * trials), z * (p * (1 - p) / trials + z * z / (4 * trials**2)) ** 0.5
    return max(0.0, (centre - half) / (1 + z * z / trials)), min(1.0, (centre + half) / (1 + z * z / trials))


def matched(problem: Problem, ended: Descended, tau: float = 0.95) -> Bool[Tensor, "runs n"]:
    """Which features some live latent of each run stands for: its decoder column's cosine with w_r^d exceeds tau."""
    columns = torch.nn.functional.normalize(ended.W_D, dim=1) * (~ended.dead)[:, None]
    truth = torch.nn.functional.normalize(problem.W_r, dim=0)
    return (torch.einsum("rd,bdq->brq", truth.T, columns)).amax(2) > tau


def basins(
    problem: Problem,
    ks: Sequence[int],
    atoms: Atoms | None = None,
    plan: Plan | None = None,
    runs: int = 64,
    seed: int = 0,
) -> list[Basin]:
    """The basin of recovery by number of anchors, on the exact loss over `atoms` (default: L~).

    The same random starts serve every k; scored are the features k .. n - 1, which are not anchored.
    """
    out = []
    for k in ks:
        ended = descend(problem, replace(plan or Plan(), anchors=k), runs, seed, atoms)
        hit = matched(problem, ended)[:, k:]
        full = int(hit.all(1).sum())
        low, high = wilson(full, runs)
        median, zero = float(ended.loss.median()), float((ended.loss < 1e-6).double().mean())
        out.append(Basin(k, full / runs, low, high, float(hit.double().mean()), median, zero))
    return out

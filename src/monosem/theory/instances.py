"""Random problems, patterns and encoders, drawn without looking at whether a claim holds on them."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.activations import Activation, ReLU
from monosem.theory.patterns import ActivationPattern
from monosem.theory.problem import Problem


def draw_directions(rng: np.random.Generator, width: int, n: int) -> Float[Tensor, "width n"]:
    """n uniformly random unit columns."""
    W = torch.from_numpy(rng.standard_normal((width, n)))
    unit: Tensor = W / W.norm(dim=0)
    return unit


def draw_weights(rng: np.random.Generator, n: int) -> Float[Tensor, " n"]:
    """M_d uniform between 1/2 and 2."""
    return torch.from_numpy(rng.uniform(0.5, 2.0, n))


def draw_problem(
    rng: np.random.Generator,
    n: int,
    n_p: int,
    n_q: int,
    n_r: int | None = None,
    activation: Activation | None = None,
    threshold: float = 0.0,
) -> Problem:
    """Random directions and weights; an SAE (W_r = W_p) unless n_r is given."""
    W_p = draw_directions(rng, n_p, n)
    W_r = W_p if n_r is None else draw_directions(rng, n_r, n)
    return Problem(W_p, W_r, draw_weights(rng, n), activation or ReLU(), n_q, threshold)


def draw_encoder(rng: np.random.Generator, problem: Problem) -> Float[Tensor, "n_q n_p"]:
    """Standard normal rows."""
    return torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))


def draw_partition(rng: np.random.Generator, n: int, n_q: int, groups: int | None = None) -> ActivationPattern:
    """[n] split at random over `groups` latents (default: at most n_q, at least one of them polysemantic)."""
    groups = groups or int(rng.integers(1, min(n_q, n - 1) + 1))
    order = rng.permutation(n)
    cuts = np.sort(rng.choice(np.arange(1, n), groups - 1, replace=False)) if groups > 1 else np.array([], int)
    sets = [part.tolist() for part in np.split(order, cuts)]
    return ActivationPattern.of([*sets, *([] for _ in range(n_q - groups))], n)


def plane(*degrees: float | int) -> Float[Tensor, "2 n"]:
    """Unit columns in the plane at these angles."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()])

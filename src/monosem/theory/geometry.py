"""Moving inside a region of encoders, and the quadratic form that L~ is there."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.theory.loss import loss
from monosem.theory.patterns import Region
from monosem.theory.problem import Problem


def walk(
    where: Region, W_E: Float[Tensor, "n_q n_p"], rng: np.random.Generator, steps: int = 5, reach: float = 3.0
) -> Float[Tensor, "n_q n_p"]:
    """Hit and run: from a point of a region, `steps` uniform draws on random chords of length at most 2 `reach`."""
    point = W_E.double().reshape(-1)
    for _ in range(steps):
        direction = torch.from_numpy(rng.standard_normal(point.shape[0]))
        slack, speed = where.A @ point - where.b, where.A @ direction
        ratio = slack / speed.abs().clamp(min=1e-300)
        ahead = float(ratio[speed < 0].clamp(min=0).min()) if bool((speed < 0).any()) else reach
        behind = float(ratio[speed > 0].clamp(min=0).min()) if bool((speed > 0).any()) else reach
        low, high = -min(behind, reach) * 0.999, min(ahead, reach) * 0.999
        point = point + float(rng.uniform(low, high)) * direction
    return point.reshape(W_E.shape)


def encoder_hessian(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"]
) -> Float[Tensor, "weights weights"]:
    """The Hessian of L~ in W_E (row by row) on the region of W_E; constant there, positive semidefinite.

    Equation: 2 sum_d M_d (D_d W_D^T W_D D_d) kron (w_p^d w_p^d^T), D_d = diag of the latents that fire on d
    """
    fires = (problem.codes(W_E) != 0).double()
    gram, weights = W_D.T @ W_D, problem.n_q * problem.n_p
    total = torch.zeros(weights, weights, dtype=torch.float64)
    for d in range(problem.n):
        w = problem.W_p[:, d]
        total += 2 * problem.weights[d] * torch.kron(gram * torch.outer(fires[d], fires[d]), torch.outer(w, w))
    return total


def joint_hessian(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"]
) -> Float[Tensor, "weights weights"]:
    """The Hessian of L~ in (W_D, W_E) together, by automatic differentiation; W_D's entries come first."""
    cut = W_D.numel()

    def value(flat: Tensor) -> Tensor:
        return loss(problem, flat[:cut].reshape(W_D.shape), flat[cut:].reshape(W_E.shape))

    point = torch.cat([W_D.reshape(-1), W_E.reshape(-1)])
    H: Tensor = torch.autograd.functional.hessian(value, point, vectorize=True)  # type: ignore[no-untyped-call]
    return H

"""The exact per-feature loss L~ (eq 11), its gradients in closed form, and best decoders; float64."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.theory.problem import Atoms, Problem


def feature_losses(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"], atoms: Atoms | None = None
) -> Float[Tensor, " atoms"]:
    """||x_r - W_D sigma(W_E x_p)||^2 for every atom (default: every feature), without weights."""
    atoms = atoms or problem.atoms
    return (atoms.x_r - problem.codes(W_E, atoms.x_p) @ W_D.T).square().sum(1)


def loss(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"], atoms: Atoms | None = None
) -> Float[Tensor, ""]:
    """L~, or the exact loss over other atoms; differentiable.

    Equation: L~(W_D, W_E) = sum_d M_d ||w_r^d - W_D sigma(W_E w_p^d)||^2
    Source: Tang et al. 2025, eq 11.
    """
    atoms = atoms or problem.atoms
    return (atoms.weight * feature_losses(problem, W_D, W_E, atoms)).sum()


def gradients(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"], atoms: Atoms | None = None
) -> tuple[Tensor, Tensor]:
    """(dL/dW_D, dL/dW_E) in closed form; at a kink, the gradient with the latent off.

    Equation: with H = sigma(X_p W_E^T), R = X_r - H W_D^T and m the weights,
        dL/dW_D = -2 (m R)^T H,  dL/dW_E = -2 ((m R W_D) [H != 0])^T X_p
    """
    atoms = atoms or problem.atoms
    H = problem.codes(W_E, atoms.x_p)
    R = atoms.weight[:, None] * (atoms.x_r - H @ W_D.T)
    return -2 * R.T @ H, -2 * ((R @ W_D) * (H != 0)).T @ atoms.x_p


def best_decoder(
    problem: Problem, W_E: Float[Tensor, "n_q n_p"], atoms: Atoms | None = None
) -> Float[Tensor, "n_r n_q"]:
    """argmin over W_D, the one of least norm: weighted least squares in closed form."""
    atoms = atoms or problem.atoms
    root = atoms.weight.sqrt()[:, None]
    W_D_T: Tensor = torch.linalg.pinv(root * problem.codes(W_E, atoms.x_p)) @ (root * atoms.x_r)
    return W_D_T.T

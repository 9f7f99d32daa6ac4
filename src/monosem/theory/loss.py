"""The exact per-feature loss L~ (eq 11), its gradients and Hessians, and best decoders; float64."""

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

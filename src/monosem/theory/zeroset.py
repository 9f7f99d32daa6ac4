"""The zero-loss set (theorem 3.4): its dimension, and dictionaries in it that recover as little as possible."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.theory.problem import Problem, best_decoder
from monosem.theory.problem import loss as exact_loss


@dataclass(frozen=True)
class Recovery:
    """Share of features whose best |cosine| exceeds tau, and the mean best |cosine|: decoder columns, encoder rows."""

    decoder: float
    decoder_mean: float
    encoder: float
    encoder_mean: float


def _cosines(W: Float[Tensor, "width n_q"], truth: Float[Tensor, "width n"]) -> Float[Tensor, "n n_q"]:
    cosines: Tensor = ((truth / truth.norm(dim=0)).T @ (W / W.norm(dim=0).clamp(min=1e-12))).abs()
    return cosines


def recovery(
    problem: Problem,
    W_D: Float[Tensor, "n_r n_q"],
    W_E: Float[Tensor, "n_q n_p"],
    tau: float = 0.95,
    features: list[int] | None = None,
) -> Recovery:
    """GT recovery at tau and mean best |cosine|, over all features or some."""
    chosen = list(range(problem.n)) if features is None else features
    best = [_cosines(W_D, problem.W_r[:, chosen]).amax(1), _cosines(W_E.T, problem.W_p[:, chosen]).amax(1)]
    shares = [float((s > tau).double().mean()) for s in best]
    return Recovery(shares[0], float(best[0].mean()), shares[1], float(best[1].mean()))


def mirrored_pair(
    problem: Problem, Q: Float[Tensor, "n_p n_p"]
) -> tuple[Float[Tensor, "n_r n_q"], Float[Tensor, "n_q n_p"]]:
    """W_E = [Q; -Q], W_D = T [Q^-1, -Q^-1] under ReLU reconstructs T x_p for every x_p, whatever the features are.

    T is the linear map with T W_p = W_r in the least-squares sense (the identity for an SAE).
    """
    T = torch.eye(problem.n_p, dtype=torch.float64)
    if problem.W_p is not problem.W_r and not torch.equal(problem.W_p, problem.W_r):
        T = problem.W_r @ torch.linalg.pinv(problem.W_p)
    inverse = torch.linalg.inv(Q)
    more = problem.n_q - 2 * problem.n_p
    W_E = torch.nn.functional.pad(torch.cat([Q, -Q]), (0, 0, 0, more))
    return torch.nn.functional.pad(T @ torch.cat([inverse, -inverse], 1), (0, more)), W_E


@dataclass(frozen=True)
class ZeroSet:
    """Dimensions at a zero-loss dictionary: measured, and by the formula.

    Equation: formula = n_q (n_p + n_r) - n n_r, where the codes of the features have rank n
    """

    variables: int
    rank: int
    formula: int

    @property
    def dimension(self) -> int:
        """Variables minus the rank of the constraints' Jacobian."""
        return self.variables - self.rank


def zero_set(
    problem: Problem, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"], anchored: int = 0
) -> ZeroSet:
    """The tangent space of the zero set at a dictionary, by the numerical rank of the Jacobian of W_D H - W_r.

    The first `anchored` latents are held fixed: their columns leave the Jacobian.
    """
    n_q, n_p, n_r = problem.n_q, problem.n_p, problem.n_r

    def constraints(D: Tensor, E: Tensor) -> Tensor:
        return (D @ problem.codes(E).T - problem.W_r).reshape(-1)

    J_D, J_E = torch.autograd.functional.jacobian(constraints, (W_D, W_E))  # type: ignore[no-untyped-call]
    free = torch.cat(
        [
            J_D[:, :, anchored:].reshape(-1, n_r * (n_q - anchored)),
            J_E[:, anchored:].reshape(-1, n_p * (n_q - anchored)),
        ],
        1,
    )
    values = torch.linalg.svdvals(free)
    rank = int((values > 1e-9 * values.amax().clamp(min=1e-300)).sum())
    variables = (n_q - anchored) * (n_p + n_r)
    return ZeroSet(variables, rank, variables - problem.n * n_r)


def unrecovering(
    problem: Problem, rng: np.random.Generator, steps: int = 300, starts: int = 4
) -> tuple[Float[Tensor, "n_r n_q"], Float[Tensor, "n_q n_p"]]:
    """A dictionary of loss zero whose recovery is made as low as descent can.

    Equation: minimise over W_E and N the sum of (|cos| - 0.9)_+^2 over all pairs of a true feature and an encoder row,
        or a column of W_D = W_r H^+ + N (I - H H^+), which has loss 0 wherever the codes H [n_q, n] have rank n;
        - 1e-4 logdet(H^T H) keeps the rank.
    """
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(starts):
        W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p))).requires_grad_()
        N = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q))).requires_grad_()
        optimiser = torch.optim.Adam([W_E, N], lr=0.03)
        for _step in range(steps):
            H = problem.codes(W_E).T
            square = H.T @ H + 1e-9 * torch.eye(problem.n, dtype=torch.float64)
            pinv = torch.linalg.solve(square, H.T)
            W_D = problem.W_r @ pinv + N - (N @ H) @ pinv
            over = [_cosines(W_D, problem.W_r), _cosines(W_E.T, problem.W_p)]
            objective = sum((c - 0.9).relu().square().sum() for c in over) - 1e-4 * torch.logdet(square)
            optimiser.zero_grad()
            objective.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            E, H = W_E.detach(), problem.codes(W_E).T
            D = best_decoder(problem, E) + N - (N @ H) @ torch.linalg.pinv(H)
            if float(exact_loss(problem, D, E)) > 1e-12:
                continue
            reached = recovery(problem, D, E)
            score = reached.decoder + reached.encoder + 1e-3 * (reached.decoder_mean + reached.encoder_mean)
            if best is None or score < best[0]:
                best = (score, D, E)
    if best is None:  # descent lost the rank every time: the best decoder of the last encoder, whatever its loss
        return best_decoder(problem, W_E.detach()), W_E.detach()
    return best[1], best[2]

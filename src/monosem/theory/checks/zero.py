"""Theorem 3.4: when L~ is zero, how large the zero set is, and that it needs no feature recovered."""

import numpy as np
import torch

from monosem.core.activations import TopK
from monosem.theory.checks.base import Case, Check, Measurement, draw_directions, draw_problem
from monosem.theory.problem import Atoms, Problem, best_decoder, feature_losses, loss
from monosem.theory.zeroset import mirrored_pair, recovery, zero_set


def _rank_test(problem: Problem, W_E: torch.Tensor) -> bool:
    """Whether some decoder meets w_r^d = W_D sigma(W_E w_p^d) for all d: W_r adds no rank to the codes."""
    H = problem.codes(W_E).T.numpy()
    both = np.vstack([H, problem.W_r.numpy()])
    return bool(np.linalg.matrix_rank(both, tol=1e-7) == np.linalg.matrix_rank(H, tol=1e-7))


def _measure_zero(case: Case, rng: np.random.Generator) -> Measurement:
    """1 when "the least L~ of an encoder is 0" and "all features can be met" differ; else 0."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = best_decoder(problem, W_E)
    value, worst = float(loss(problem, W_D, W_E)), float(feature_losses(problem, W_D, W_E).max())
    zero, met = value < 1e-16, _rank_test(problem, W_E)
    second = abs(float(problem.weights @ feature_losses(problem, W_D, W_E)) - value)
    return Measurement(float(zero != met), second, f"L~ {value:.3g}, worst feature {worst:.3g}, can all be met: {met}")


def _case(rng: np.random.Generator, unweighted: bool = False) -> Case:
    n, n_p, n_r = (int(v) for v in rng.integers(2, 6, 3))
    problem = draw_problem(rng, n, n_p, int(rng.integers(1, 3 * n)) if not unweighted else n - 1, n_r + n * unweighted)
    if not unweighted:
        return Case(problem)
    weights = problem.weights * (torch.arange(n) == 0)
    return Case(Problem(problem.W_p, problem.W_r, weights, problem.activation, problem.n_q), without="M_d > 0")


def _weighted(problem: Problem) -> str:
    """Why the claim says nothing about a problem, or ""."""
    return "" if float(problem.weights.min()) > 0 else "some M_d is 0"


ZERO_LOSS = Check(
    name="zero_loss",
    claim="theorem 3.4",
    statement="M_d > 0: L~ = 0 if and only if w_r^d = W_D sigma(W_E w_p^d) for every d",
    paper="needs hypotheses",
    measure=_measure_zero,
    holds_on=_case,
    fails_on={"features with M_d = 0": lambda rng: _case(rng, unweighted=True)},
    page="zero-loss.md",
    tolerance=0.0,
    applies=_weighted,
)


def _measure_pair(case: Case, rng: np.random.Generator) -> Measurement:
    """Loss of the mirrored pair on random data over the data's energy, plus the share of features recovered."""
    problem = case.problem
    best, least = None, np.inf
    for _ in range(30):
        Q = torch.linalg.qr(torch.from_numpy(rng.standard_normal((problem.n_p, problem.n_p))))[0]
        W_D, W_E = mirrored_pair(problem, Q)
        recovered = recovery(problem, W_D, W_E)
        if recovered.decoder + recovered.encoder + recovered.encoder_mean < least:
            best, least = (W_D, W_E, recovered), recovered.decoder + recovered.encoder + recovered.encoder_mean
    assert best is not None
    W_D, W_E, recovered = best
    if case.without == "n_q >= 2 n_p":
        W_E = W_E * (torch.arange(problem.n_q) < 2 * problem.n_p - 1)[:, None]
    x = torch.from_numpy(rng.exponential(size=(64, problem.n)) * (rng.random((64, problem.n)) < 0.5))
    data = Atoms(x @ problem.W_p.T, x @ problem.W_r.T, torch.full((64,), 1 / 64, dtype=torch.float64))
    energy = float((data.weight * data.x_r.square().sum(1)).sum()) + 1e-12
    value = float(loss(problem, W_D, W_E, data)) / energy
    z = data.x_p @ W_E.T
    second = 0.0 if case.without else float((z.clamp(min=0) @ W_D.T - data.x_r).square().sum(1).mean()) / energy
    text = f"n={problem.n}, n_p={problem.n_p}: L/energy {value:.2g}, recovered {recovered.decoder:.2g}"
    return Measurement(
        max(value, recovered.decoder + recovered.encoder), abs(second - value) if not case.without else 0.0, text
    )


def _pair_case(rng: np.random.Generator, without: str = "") -> Case:
    n_p = int(rng.integers(4, 8))
    activation = TopK(1) if without == "every positive latent passes" else None
    return Case(draw_problem(rng, int(rng.integers(2, 12)), n_p, 2 * n_p, None, activation), without=without)


ZERO_WITHOUT_RECOVERY = Check(
    name="zero_without_recovery",
    claim="theorem 3.4, figure 4",
    statement="ReLU, n_q >= 2 n_p: W_E = [Q; -Q], W_D = [Q^-1, -Q^-1] has L = 0 on any data and recovers no feature",
    paper="confirmed",
    measure=_measure_pair,
    holds_on=_pair_case,
    fails_on={
        "one latent fewer": lambda rng: _pair_case(rng, "n_q >= 2 n_p"),
        "TopK with k < n_p": lambda rng: _pair_case(rng, "every positive latent passes"),
    },
    page="zero-loss.md",
    trials=30,
)


def _measure_dimension(case: Case, rng: np.random.Generator) -> Measurement:
    """|measured - formula|, without anchors and with k = 1 latent held."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = best_decoder(problem, W_E)
    wrong, text = 0, []
    for anchored in (0, 1):
        zeros = zero_set(problem, W_D, W_E, anchored)
        wrong += abs(zeros.dimension - zeros.formula)
        text.append(f"{anchored} anchored: {zeros.dimension} against {zeros.formula}")
    H = problem.codes(W_E).T  # second implementation: the Jacobian from its Kronecker blocks
    fires = (H != 0).double()
    J_D = torch.kron(torch.eye(problem.n_r, dtype=torch.float64), H.T.contiguous())
    J_E = torch.einsum("ri,id,pd->rdip", W_D, fires, problem.W_p).reshape(problem.n_r * problem.n, -1)
    rank = int(np.linalg.matrix_rank(torch.cat([J_D, J_E], 1).numpy(), tol=1e-9 * float(J_D.norm() + J_E.norm())))
    return Measurement(float(wrong), float(abs(rank - zero_set(problem, W_D, W_E).rank)), "; ".join(text))


def _dimension_case(rng: np.random.Generator, few: bool = False) -> Case:
    n, n_p, n_r = (int(v) for v in rng.integers(3, 6, 3))
    W_p = draw_directions(rng, n_p, n).abs()  # within one orthant every latent row meets many features
    W_p, W_r = W_p / W_p.norm(dim=0), draw_directions(rng, n_r, n)
    n_q = 2 if few else 8 * n
    return Case(Problem(W_p, W_r, torch.ones(n), n_q=n_q), without="codes of rank n" if few else "")


ZERO_DIMENSION = Check(
    name="zero_dimension",
    claim="appendix G",
    statement="codes of rank n: the zero set has dimension n_q (n_p + n_r) - n n_r; k anchored latents take "
    "k (n_p + n_r) away; it falls with n",
    paper="false as printed",
    measure=_measure_dimension,
    holds_on=_dimension_case,
    fails_on={"two latents": lambda rng: _dimension_case(rng, few=True)},
    page="zero-loss.md",
    tolerance=0.0,
    agreement=0.0,
    trials=20,
)

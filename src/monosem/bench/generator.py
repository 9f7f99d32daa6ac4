"""True feature directions: unit columns whose signed interference is at most M (the paper's appendix C)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.base.errors import ArgumentError, GeneratorError, check
from monosem.base.seeds import philox

_ROUNDING = 1e-7  # room for rounding the float64 columns to float32


@dataclass(frozen=True, eq=False)
class Directions:
    """Feature directions: `W` [width, n] float32 with unit columns, its `interference`, the `steps` it took.

    `W` is a view of a contiguous [n, width] matrix, so that `W.T` serves row lookups without a copy.
    """

    W: Tensor
    interference: float
    steps: int


def welch_bound(n: int, width: int) -> float:
    """The least possible max over i != j of |<w_i, w_j>|: sqrt((n - d) / (d (n - 1))), 0 for n <= d.

    Source:
        Welch (1974), Lower bounds on the maximum cross correlation of signals.
    """
    return math.sqrt((n - width) / (width * (n - 1))) if n > width else 0.0


def rankin_bound(n: int, width: int) -> float:
    """No signed max over i != j of <w_i, w_j> is below this: -1/(n - 1) for n <= d + 1 (simplex), else 0 (orthoplex).

    Source:
        Rankin (1955), The closest packing of spherical caps in n dimensions.
    """
    return -1.0 / (n - 1) if 1 < n <= width + 1 else (0.0 if n > 1 else -1.0)


def signed_interference(W: Tensor) -> float:
    """max over i != j of <w_i, w_j> for the columns of W, in float64; -1 for a single column."""
    return float(_gram(W.double()).max())


def feature_directions(
    n: int,
    width: int,
    max_interference: float,
    *,
    eps: float = 1e-3,
    lam: float = 1e-3,
    lr: float = 0.125,
    max_steps: int = 2000,
    seed: int = 0,
    stream: str = "directions",
) -> Directions:
    """n unit columns in `width` dimensions with max over i != j of <w_i, w_j> <= M = `max_interference`.

    Gaussian columns, normalised, then projected gradient descent with renormalised columns. At step size 1/8 a
    lone pair above M - eps is corrected exactly; the step is halved whenever the objective would rise. The arithmetic
    is float64 on one thread, so the bits do not depend on the caller's thread count; the result is rounded to float32.

    Equation:
        sum_{i != j} max(0, <w_i, w_j> - (M - eps))^2 + lam sum_{i != j} max(0, <w_i, w_j>)^2
    Source:
        Tang et al. (arXiv 2512.05534), appendix C; step size and halving are ours.
    Raises:
        GeneratorError: M is not reached in `max_steps`; says what was reached and what is possible.

    Example:
        >>> feature_directions(24, 16, 0.1).interference <= 0.1
        True
    """
    check(n >= 1 and width >= 1, f"n = {n} features and width = {width} must both be at least 1; ask for more")
    if not -1.0 <= max_interference <= 1.0:
        raise ArgumentError(f"max_interference = {max_interference} is not a cosine; choose M between -1 and 1")
    with _one_thread():
        W = torch.from_numpy(philox(seed, stream).standard_normal((width, n)))
        W = W / W.norm(dim=0)
        gram, gradient, objective = _objective(W, max_interference - eps, lam)
        steps, reached = 0, float(gram.max())
        while reached > max_interference - _ROUNDING and steps < max_steps and lr > 1e-9:
            steps += 1
            trial = W - lr * gradient
            trial = trial / trial.norm(dim=0)
            gram, trial_gradient, trial_objective = _objective(trial, max_interference - eps, lam)
            if trial_objective > objective:
                lr /= 2
                continue
            W, gradient, objective, reached = trial, trial_gradient, trial_objective, float(gram.max())
        if reached > max_interference - _ROUNDING:
            raise GeneratorError(
                f"n = {n} directions in {width} dimensions reached a signed interference of {reached:.4f}, not the "
                f"wanted M = {max_interference:.4f}, in {steps} steps (no set has a signed one below "
                f"{rankin_bound(n, width):.4f}, Rankin, or an absolute one below {welch_bound(n, width):.4f}, Welch); "
                "ask for fewer features, a larger width, a larger M or more steps"
            )
        W = W.T.float().contiguous().T
        return Directions(W, signed_interference(W), steps)


def _gram(W: Tensor) -> Tensor:
    """W^T W with -1 on the diagonal, so that its maximum is the signed interference."""
    return (W.T @ W).fill_diagonal_(-1.0)


def _objective(W: Tensor, cap: float, lam: float) -> tuple[Tensor, Tensor, float]:
    """The Gram matrix, the gradient of the objective and its value."""
    gram = _gram(W)
    over, positive = (gram - cap).clamp_(min=0.0).fill_diagonal_(0.0), gram.clamp(min=0.0)
    value = float(over.square().sum() + lam * positive.square().sum())
    return gram, 4.0 * (W @ over.add_(positive, alpha=lam)), value


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the body on one torch thread: matrix products then have the same bits for any caller."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Problem: what a claim about the landscape is stated on; its exact loss L~ (eq 11), gradients, Hessians; float64."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import CheckpointError, DataError, RefusedError, ShapeError, check
from monosem.base.files import parse_json, read_text
from monosem.base.guard import guard_fields
from monosem.base.sparse import Positions
from monosem.base.spec import parse_call
from monosem.core.activations import ACTIVATIONS, Activation, Context, JumpReLU, ReLU, TopK


def sigma(activation: Activation, z: Float[Tensor, "atoms n_q"], threshold: float = 0.0) -> Float[Tensor, "atoms n_q"]:
    """sigma(z), row by row, at the activation's starting parameters; differentiable in z.

    `threshold` is BatchTopK's, whose latents depend on the batch in any other form.
    Raises: RefusedError for a ranking by decoder norm, whose patterns depend on W_D.
    """
    state = {"threshold": torch.tensor(threshold, dtype=z.dtype), "b_E": z.new_zeros(1, z.shape[1])}

    def at(name: str) -> Tensor:
        if name in state:
            return state[name]
        check(name != "decoder_norm", "rank_by_norm makes patterns depend on W_D; use rank_by_norm=False", RefusedError)
        if name == "theta" and isinstance(activation, JumpReLU):  # not through float32
            return z.new_full((1, z.shape[1]), activation.theta)
        return activation.parameters(z.shape[1])[name].to(z)[None, :]

    chosen = activation.select(activation.score(z.detach(), at), at, Context())
    mask = chosen.mask() if isinstance(chosen, Positions) else chosen
    value = activation.value(z, at)
    return torch.where(mask, value, torch.zeros_like(value))


@dataclass(frozen=True, eq=False)
class Atoms:
    """Finitely many inputs with weights: a loss summed over them is exact.

    Shapes: x_p [atoms, n_p], x_r [atoms, n_r], weight [atoms].
    """

    x_p: Float[Tensor, "atoms n_p"]
    x_r: Float[Tensor, "atoms n_r"]
    weight: Float[Tensor, " atoms"]


@dataclass(frozen=True, eq=False)
class Problem:
    """True directions, feature weights M_d, an activation and a number of latents; all in float64.

    Shapes: W_p [n_p, n], W_r [n_r, n], weights [n] (M_d = Pr(only d is active) E[x_d^2 given x_d > 0]).
    `threshold` is BatchTopK's threshold form; other activations do not read it.
    Source: Tang et al. 2025, 2.1 and eq 11.
    Raises: ShapeError, DataError when the matrices do not fit or a weight is negative.

    Example:
        >>> problem = Problem.sae(torch.eye(2), n_q=2)
        >>> problem.n, problem.max_interference
        (2, 0.0)
    """

    W_p: Float[Tensor, "n_p n"]
    W_r: Float[Tensor, "n_r n"]
    weights: Float[Tensor, " n"]
    activation: Activation = field(default_factory=ReLU)
    n_q: int = 1
    threshold: float = 0.0

    def __post_init__(self) -> None:
        guard_fields(self)
        n = self.W_p.shape[1]
        for name, have in (("W_r", self.W_r.shape[1]), ("weights", self.weights.shape[0])):
            check(have == n, f"W_p has n={n} columns but {name} has {have}; make them agree", ShapeError)
        finite = all(bool(t.isfinite().all()) for t in (self.W_p, self.W_r, self.weights))
        check(finite, "W_p, W_r or weights hold NaN or infinity; give finite numbers", DataError)
        check(
            bool((self.weights >= 0).all()), f"weights M_d must be >= 0; the least is {self.weights.min()}", DataError
        )
        check(self.n_q >= 1, f"n_q={self.n_q}; at least one latent is needed")
        for name in ("W_p", "W_r", "weights"):
            object.__setattr__(self, name, getattr(self, name).detach().double())

    @classmethod
    def sae(cls, W: Float[Tensor, "n_p n"], activation: Activation | None = None, n_q: int = 1) -> "Problem":
        """What an SAE sees: the same directions in input and target, all weights 1, ReLU by default."""
        return cls(W, W, torch.ones(W.shape[1]), activation or ReLU(), n_q)

    @property
    def n(self) -> int:
        """Number of features."""
        return self.W_p.shape[1]

    @property
    def n_p(self) -> int:
        """Width of the input representation."""
        return self.W_p.shape[0]

    @property
    def n_r(self) -> int:
        """Width of the target representation."""
        return self.W_r.shape[0]

    @property
    def atoms(self) -> Atoms:
        """One atom per feature: the loss over these is L~ (eq 11)."""
        return Atoms(self.W_p.T, self.W_r.T, self.weights)

    @property
    def zero_dictionary_loss(self) -> float:
        """L~ of W_D = 0: sum_d M_d ||w_r^d||^2, what every L~ is to be compared with."""
        return float((self.weights * self.W_r.square().sum(0)).sum())

    @property
    def max_interference(self) -> float:
        """M = max over i != j of <w_p^i, w_p^j>; -1 for one feature."""
        gram = self.W_p.T @ self.W_p
        return float((gram - 4.0 * torch.diag(gram.diagonal())).max()) if self.n > 1 else -1.0

    def codes(self, W_E: Float[Tensor, "n_q n_p"], x_p: Tensor | None = None) -> Float[Tensor, "atoms n_q"]:
        """sigma(W_E x_p) for every row of x_p (default: every w_p^d)."""
        return sigma(self.activation, (self.W_p.T if x_p is None else x_p) @ W_E.T, self.threshold)

    def save(self, path: str | Path) -> None:
        """Write as JSON; `load_problem` reads it."""
        plain = {name: getattr(self, name).tolist() for name in ("W_p", "W_r", "weights")}
        k = f"(k={self.activation.k})" if isinstance(self.activation, TopK) else ""
        theta = f"(theta={self.activation.theta})" if isinstance(self.activation, JumpReLU) else ""
        name = next(name for name, kind in ACTIVATIONS.items() if type(self.activation) is kind)
        plain |= {"activation": name + k + theta, "n_q": self.n_q, "threshold": self.threshold}
        Path(path).write_text(json.dumps(plain))


def load_problem(path: str | Path) -> Problem:
    """Read a problem from JSON: W_p, W_r (default W_p), weights (default 1), activation ("topk(k=1)"), n_q, threshold.

    Matrices are lists of rows, [n_p, n] and [n_r, n]; n_q is n unless it is given.
    Raises: DataError that names the file and the entry that cannot be read; as `Problem` for entries that do not fit.
    """
    try:
        plain = parse_json(read_text(path), finite=False)
    except CheckpointError as error:
        raise DataError(f"{error}; give a problem's .json file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); write W_p, W_r, weights, activation, n_q as JSON") from None
    known = ("W_p", "W_r", "weights", "activation", "n_q", "threshold")
    entries = plain if isinstance(plain, dict) else {}
    check("W_p" in entries, f"{path} holds no problem; it needs W_p, a list of rows [n_p, n]", DataError)
    unknown = sorted(set(entries) - set(known))
    check(not unknown, f"{path} has an unknown entry {', '.join(unknown)}; known: {', '.join(known)}", DataError)

    W_p = _numbers(path, entries, "W_p", 2)
    W_r = _numbers(path, entries, "W_r", 2) if "W_r" in entries else W_p
    n = W_p.shape[1]
    weights = _numbers(path, entries, "weights", 1) if "weights" in entries else torch.ones(n, dtype=torch.float64)
    n_q, text = entries.get("n_q", n), entries.get("activation", "relu")
    whole = isinstance(n_q, int) and not isinstance(n_q, bool)
    check(whole, f"{path}: n_q is {n_q!r}; write a whole number", DataError)
    check(isinstance(text, str), f'{path}: activation is {text!r}; write a call as "topk(k=1)"', DataError)
    name, arguments = parse_call(text)
    try:
        activation = ACTIVATIONS[name](**arguments)
    except TypeError as error:
        raise DataError(
            f"{path}: activation {text!r} cannot be made ({error}); see `monosem list activations`"
        ) from None
    return Problem(
        W_p, W_r, weights, activation, n_q, float(_numbers(path, {"threshold": 0.0} | entries, "threshold", 0))
    )


def _numbers(path: str | Path, entries: dict[str, Any], name: str, rank: int) -> Tensor:
    """An entry as float64 of a rank."""
    what = ("a number", "a list of numbers", "a list of rows of numbers, all of one length")[rank]
    try:
        values = torch.tensor(entries[name], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        values = None
    if values is None or values.ndim != rank or (rank and not values.numel()):
        shape = "" if values is None else f" of shape {tuple(values.shape)}"
        raise DataError(f"{path}: {name}{shape} is not {what}; write it so")
    return values


def estimate_weights(features: Float[Tensor, "rows n"]) -> tuple[Tensor, Tensor]:
    """M_d from sampled features, with standard errors.

    Equation: M_d = mean over rows of x_d^2 [no other feature is active].
    """
    x = features.double()
    alone = (x > 0) & ((x > 0).sum(1, keepdim=True) == 1)
    squares = x.square() * alone
    return squares.mean(0), squares.std(0) / x.shape[0] ** 0.5


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

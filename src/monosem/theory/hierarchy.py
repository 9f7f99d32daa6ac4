"""Hierarchies of features (definition 3.2) and absorption (theorem 3.8): constructions, printed and repaired."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.core.activations import JumpReLU
from monosem.theory.law import ExactLaw, Magnitude, independent
from monosem.theory.patterns import ActivationPattern, competition, pattern_of
from monosem.theory.problem import Problem


def hierarchical(
    families: tuple[int, ...], rate: float, alone: float = 0.0, magnitude: Magnitude | None = None, free: int = 0
) -> ExactLaw:
    """Parents and children: children fire independently at `rate`, a parent iff one of its children does.

    Features in order: all parents, then the children of the first, of the second ... `families[p]` is the number of
    children of parent p. With probability `alone` a parent fires without a child, against definition 3.2. `free` more
    features, outside every family, come last.

    Example:
        >>> hierarchical((2,), 0.1).weights
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    parents, children = len(families), sum(families)
    base = independent(torch.full((children + free,), rate, dtype=torch.float64), magnitude)
    of = torch.repeat_interleave(torch.arange(parents), torch.tensor(families))
    belongs = torch.nn.functional.one_hot(of, parents).double()
    above = (base.supports[:, :children] @ belongs).clamp(max=1.0)
    supports, chance = torch.cat([above, base.supports], 1), base.chance
    if alone:
        lonely = torch.nn.functional.pad(torch.eye(parents, dtype=torch.float64), (0, children + free))
        supports = torch.cat([supports, lonely])
        chance = torch.cat([chance * (1 - alone), torch.full((parents,), alone / parents, dtype=torch.float64)])
    return ExactLaw(supports, chance, base.magnitude)


@dataclass(frozen=True, eq=False)
class Split:
    """A parent's latent with one child taken out: the enlarged problem, its encoder, the child, the pattern wanted."""

    problem: Problem
    W_E: Float[Tensor, "n_q n_p"]
    child: int
    wanted: ActivationPattern

    @property
    def reached(self) -> bool:
        """Whether the encoder has the pattern wanted."""
        return pattern_of(self.problem, self.W_E) == self.wanted


def split_pattern(pattern: ActivationPattern, parent: int, child: int) -> ActivationPattern:
    """(.., F_i without the child, .., {child}): the new latent comes last."""
    sets = [s - {child} if i == parent else s for i, s in enumerate(pattern.sets)]
    return ActivationPattern.of([*sets, {child}], pattern.n)


def _parent_row(problem: Problem, W_E: Tensor, parent: int) -> tuple[float, list[int], Tensor]:
    c = competition(problem.activation, problem.n_q, problem.threshold).theta
    members = sorted(pattern_of(problem, W_E).sets[parent])
    check(len(members) > 1, f"latent {parent} stands for {members}; a parent needs two children or more", RefusedError)
    check(c > 0, "absorption needs a threshold c > 0; under plain ReLU it is false", RefusedError)
    return c, members, problem.W_p[:, members].T @ W_E[parent]


def absorb(problem: Problem, W_E: Float[Tensor, "n_q n_p"], parent: int) -> Split:
    """Theorem 3.8 by the simpler construction: keep c, shrink the parent's row, give the child a row of its own.

    Equation: j* has the least response a_min > c; s in (c / a_2, c / a_min], a_2 the second least; W_E[i] -> s W_E[i],
        new row 2 c / (1 + M) w_p^{j*}. A tie at a_min is broken first: W_E[i] -> W_E[i] - (a_min - c) / 4 w_p^{j*}.
    Needs unit columns and M < 1. Raises: RefusedError without a threshold or with fewer than two children.
    """
    c, members, a = _parent_row(problem, W_E, parent)
    child = members[int(a.argmin())]
    row = W_E[parent].clone()
    if float(a.sort().values[1] - a.min()) < 1e-9 * float(a.min()):
        row -= float(a.min() - c) / 4 * problem.W_p[:, child]
        a = problem.W_p[:, members].T @ row
    least, second = a.sort().values[:2].tolist()
    rows = W_E.clone()
    rows[parent] = row * c / (least * second) ** 0.5
    return _with_child(problem, rows, parent, child, c, W_E)


def absorb_as_printed(problem: Problem, W_E: Float[Tensor, "n_q n_p"], parent: int) -> Split:
    """Theorem 3.8 as printed: scale the parent's row by (c + a_min) / (2 a_min), raise the threshold, add the row.

    The new threshold c'' lies halfway between the scaled a_min and a_2; the other rows stay as they are: its defect.
    """
    c, members, a = _parent_row(problem, W_E, parent)
    child, (least, second) = members[int(a.argmin())], a.sort().values[:2].tolist()
    scale = (c + least) / (2 * least)
    raised = scale * (least + second) / 2
    rows = W_E.clone()
    rows[parent] = rows[parent] * scale
    lifted = replace(problem, activation=JumpReLU(theta=raised))
    return _with_child(lifted, rows, parent, child, raised, W_E, problem)


def _with_child(
    problem: Problem, rows: Tensor, parent: int, child: int, c: float, before: Tensor, origin: Problem | None = None
) -> Split:
    alpha = 2 * c / (1 + problem.max_interference)
    larger = replace(problem, n_q=problem.n_q + 1)
    pattern = pattern_of(origin or problem, before)
    W_E = torch.cat([rows, alpha * problem.W_p[:, child][None]])
    return Split(larger, W_E, child, split_pattern(pattern, parent, child))

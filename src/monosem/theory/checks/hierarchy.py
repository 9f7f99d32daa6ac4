"""Theorem 3.8: splitting a child off its parent, printed and repaired; and why L~ cannot see a parent."""

from dataclasses import replace

import numpy as np
import torch

from monosem.core.activations import JumpReLU, ReLU
from monosem.theory.checks.base import Case, Check, Measurement, draw_directions, draw_problem, plane
from monosem.theory.hierarchy import absorb, absorb_as_printed, hierarchical, split_pattern
from monosem.theory.patterns import pattern_of, realize
from monosem.theory.problem import Problem, estimate_weights, gradients, loss

C = 0.3
FREE = 2


def _encoder(case: Case, rng: np.random.Generator) -> torch.Tensor:
    """Rows that stand for several features each; half of the time one row with ties."""
    problem = case.problem
    if case.without == "a threshold c > 0":
        return plane(5.0).T
    rows = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    if rng.random() < 0.5 and case.without != "room in the other rows":
        responses = torch.where(torch.arange(problem.n) < 2, 1.0, -0.5).double()
        rows[0] = torch.linalg.pinv(problem.W_p.T) @ responses
    return rows


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """The share of parents off which no child can be split; second: constructions that a linear programme denies."""
    problem = case.problem
    W_E = _encoder(case, rng)
    pattern = pattern_of(problem, W_E)
    failed, second, parents = 0, 0, pattern.polysemantic
    for parent in parents:
        if case.without:
            children = sorted(pattern.sets[parent])
            larger = replace(problem, n_q=problem.n_q + 1)
            failed += not any(realize(larger, split_pattern(pattern, parent, j)).realizable for j in children)
            continue
        split = absorb(problem, W_E, parent)
        failed += not split.reached
        second += not realize(split.problem, split.wanted).realizable
    return Measurement(
        failed / max(1, len(parents)), float(second), f"pattern {pattern}: {failed} of {len(parents)} parents fail"
    )


def _case(rng: np.random.Generator) -> Case:
    n = int(rng.integers(3, 7))
    return Case(draw_problem(rng, n, int(rng.integers(n, n + 3)), int(rng.integers(1, 4)), None, JumpReLU(theta=C)))


def _plain(rng: np.random.Generator) -> Case:
    W = plane(0.0, 10.0, 95.0, -85.0)
    return Case(Problem(W, W, torch.ones(4), ReLU(), 1), without="a threshold c > 0")


def _twins(rng: np.random.Generator) -> Case:
    W = draw_directions(rng, 3, 1).expand(3, 2).contiguous()
    return Case(Problem(W, W, torch.ones(2), JumpReLU(theta=C), 3), without="M < 1")


ABSORPTION = Check(
    name="absorption",
    claim="theorem 3.8 repaired",
    statement="threshold c > 0, unit columns, M < 1: off every parent with two children or more, one can be split",
    paper="repaired",
    measure=_measure,
    holds_on=_case,
    fails_on={"plain ReLU": _plain, "two features of one direction": _twins},
    page="absorption.md",
    tolerance=0.0,
    agreement=0.0,
    trials=40,
)


def _measure_printed(case: Case, rng: np.random.Generator) -> Measurement:
    """The share of parents for which the printed construction misses the pattern it promises."""
    problem, W_E = case.problem, _encoder(case, rng)
    if not case.without:  # one row, no ties
        W_E = torch.from_numpy(rng.standard_normal((1, problem.n_p)))
    elif case.without == "no ties":
        W_E[0] = torch.where(torch.arange(problem.n_p) < 2, 1.0, -0.5)
    pattern = pattern_of(problem, W_E)
    parents = pattern.polysemantic
    failed = sum(not absorb_as_printed(problem, W_E, parent).reached for parent in parents)
    return Measurement(
        failed / max(1, len(parents)), 0.0, f"pattern {pattern}: {failed} of {len(parents)} parents fail"
    )


def _printed_case(rng: np.random.Generator, without: str = "") -> Case:
    n, n_q = int(rng.integers(3, 7)), 1 if without != "room in the other rows" else 4
    if without == "no ties":  # on the coordinate axes ties are exact
        eye = torch.eye(n, dtype=torch.float64)
        return Case(Problem(eye, eye, torch.ones(n), JumpReLU(theta=C), 1), without=without)
    return Case(draw_problem(rng, n, n + 1, n_q, None, JumpReLU(theta=C)), without=without)


ABSORPTION_PRINTED = Check(
    name="absorption_printed",
    claim="theorem 3.8 as printed",
    statement="the printed construction reaches its pattern; true for a single latent without ties at a_min only",
    paper="false as printed",
    measure=_measure_printed,
    holds_on=_printed_case,
    fails_on={
        "other latents beside the parent": lambda rng: _printed_case(rng, "room in the other rows"),
        "two children tied at a_min": lambda rng: _printed_case(rng, "no ties"),
    },
    page="absorption.md",
    tolerance=0.0,
    trials=40,
)


def _measure_parent(case: Case, rng: np.random.Generator) -> Measurement:
    """Change of L~ and of its gradients when the directions of all parents and children are replaced by others."""
    problem, law = case.problem, case.law
    assert law is not None
    related = problem.n - FREE
    other_p, other_r = problem.W_p.clone(), problem.W_r.clone()
    other_p[:, :related] = draw_directions(rng, problem.n_p, related)
    other_r[:, :related] = draw_directions(rng, problem.n_r, related)
    other = replace(problem, W_p=other_p, W_r=other_r)
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))
    change = abs(float(loss(problem, W_D, W_E) - loss(other, W_D, W_E)))
    pairs = zip(gradients(problem, W_D, W_E), gradients(other, W_D, W_E), strict=True)
    change = max(change, *(float((a - b).abs().max()) for a, b in pairs))
    drawn = law.supports[torch.from_numpy(rng.choice(len(law.chance), 500, p=(law.chance / law.chance.sum()).numpy()))]
    sampled = 0.0 if case.without else float((estimate_weights(drawn)[0] * (problem.weights == 0)).max())
    text = (
        f"weights of the family {problem.weights[:related].max():.3g}, of others {problem.weights[related:].max():.3g}"
    )
    return Measurement(change, sampled, f"{text}, change {change:.3g}")


def _parent_case(rng: np.random.Generator, alone: float = 0.0) -> Case:
    families = (int(rng.integers(2, 4)), int(rng.integers(2, 4)))
    law = hierarchical(families, float(rng.uniform(0.02, 0.3)), alone, free=FREE)
    n = law.supports.shape[1]
    W_p, W_r = draw_directions(rng, 6, n), draw_directions(rng, 5, n)
    problem = Problem(W_p, W_r, law.weights, ReLU(), int(rng.integers(2, 8)))
    return Case(problem, law, "a parent fires only with a child" if alone else "")


PARENT_INVISIBLE = Check(
    name="parent_invisible",
    claim="definition 3.2 and eq 11",
    statement="definition 3.2: parents and children never fire alone, so M_d = 0 and L~ does not depend on them",
    paper="needs hypotheses",
    measure=_measure_parent,
    holds_on=_parent_case,
    fails_on={"parents that also fire alone": lambda rng: _parent_case(rng, alone=0.05)},
    page="absorption.md",
    tolerance=0.0,
)

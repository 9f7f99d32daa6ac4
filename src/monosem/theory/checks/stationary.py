"""Where gradients vanish: example 3.5, theorem 3.6 as printed and as repaired, and dead latents."""

import numpy as np
import torch
from torch import Tensor

from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import (
    Case,
    Check,
    Measurement,
    draw_directions,
    draw_partition,
    draw_problem,
    draw_weights,
)
from monosem.theory.checks.convexity import has_convex_regions
from monosem.theory.minima import Stationary, groups_of, paper_point, positive_pair, trichotomy, valley
from monosem.theory.patterns import ActivationPattern, certificate_residual, pattern_of, realize, region, walk
from monosem.theory.problem import Problem, best_decoder, gradients, joint_hessian, loss


def _autograd(problem: Problem, W_D: Tensor, W_E: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients of L~ by automatic differentiation: the second implementation of `gradients`."""
    D, E = W_D.clone().requires_grad_(), W_E.clone().requires_grad_()
    by_D, by_E = torch.autograd.grad(loss(problem, D, E), (D, E))
    return by_D, by_E


def _disagreement(problem: Problem, rng: np.random.Generator) -> float:
    """How far both gradients are from each other at a random dictionary, where they do not vanish."""
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    pairs = list(zip(gradients(problem, W_D, W_E), _autograd(problem, W_D, W_E), strict=True))
    size = 1.0 + max(float(theirs.abs().max()) for _, theirs in pairs)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs) / size


def example_35(weights: tuple[float, float] = (1.0, 1.0)) -> tuple[Problem, Tensor, Tensor]:
    """Example 3.5: two orthogonal features, top-1; and the paper's point (the decoder for M = (1, 1))."""
    eye = torch.eye(2, dtype=torch.float64)
    W_E = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    return Problem(eye, eye, torch.tensor(weights), TopK(1), 2), W_E.T / 2, W_E


def _measure_35(case: Case, rng: np.random.Generator) -> Measurement:
    """Largest gradient entry, |loss - 1| and the loss's change along z = (cos t, sin t), with the best decoder."""
    problem = case.problem
    _, _, W_E = example_35()
    W_D = best_decoder(problem, W_E)
    grads = gradients(problem, W_D, W_E)
    wrong = [float(g.abs().max()) for g in grads] + [abs(float(loss(problem, W_D, W_E)) - 1.0)]
    angle = float(rng.uniform(0.05, np.pi / 2 - 0.05))
    turned = torch.tensor([[np.cos(angle), np.sin(angle)], [0.0, 0.0]], dtype=torch.float64)
    wrong.append(abs(float(loss(problem, best_decoder(problem, turned), turned)) - 1.0))
    return Measurement(
        max(wrong),
        _disagreement(problem, rng),
        f"M={problem.weights.tolist()}: decoder gradient {wrong[0]:.2g}, encoder {wrong[1]:.3g}",
    )


EXAMPLE_35 = Check(
    name="example_3_5",
    claim="example 3.5",
    statement="M = (1, 1): both gradients vanish at the paper's point; the loss is 1 there and along (cos t, sin t)",
    paper="confirmed",
    measure=_measure_35,
    holds_on=lambda rng: Case(example_35()[0]),
    fails_on={"M = (2, 1)": lambda rng: Case(example_35((2.0, 1.0))[0], without="equal weights")},
    page="spurious-minima.md",
    tolerance=1e-12,
    trials=5,
)


def _measure_printed(case: Case, rng: np.random.Generator) -> Measurement:
    """The encoder's gradient at the proof's point, against the loss; the decoder's must vanish too."""
    problem = case.problem
    pattern = ActivationPattern.of([range(problem.n)], problem.n)
    if case.without:
        z = torch.from_numpy(rng.uniform(0.2, 1.0, problem.n))
    else:  # the positive right singular vector, in units of z
        pair = positive_pair(groups_of(problem, pattern)[0])
        assert pair is not None
        z = pair[0][:, 0].abs() / problem.weights.sqrt()
    W_E = (torch.linalg.pinv(problem.W_p.T) @ z)[None]
    _, by_decoder, by_encoder = paper_point(problem, W_E)
    sizes = float(by_decoder.norm()), float(by_encoder.norm())
    text = f"n={problem.n}: decoder gradient {sizes[0]:.2g}, encoder gradient {sizes[1]:.3g}"
    return Measurement(max(sizes), _disagreement(problem, rng), text)


def _printed_case(rng: np.random.Generator, without: str = "") -> Case:
    n = int(rng.integers(2, 5))
    W_p, W_r = draw_directions(rng, n + 2, n), draw_directions(rng, n + 2, n).abs()
    return Case(Problem(W_p, W_r / W_r.norm(dim=0), draw_weights(rng, n), n_q=1), without=without)


PRINTED_36 = Check(
    name="printed_3_6",
    claim="theorem 3.6 as printed",
    statement="the proof's point is stationary; true only when z is a right singular vector of A, not for any encoder",
    paper="false as printed",
    measure=_measure_printed,
    holds_on=_printed_case,
    fails_on={"any encoder of the pattern": lambda rng: _printed_case(rng, "z is a right singular vector")},
    page="spurious-minima.md",
    tolerance=1e-9,
)


def _independent_verdict(problem: Problem, pattern: ActivationPattern) -> str | None:
    """The trichotomy for linearly independent w_p^d, from the SVD of A and signs; None where values coincide."""
    kinds = []
    for group in groups_of(problem, pattern):
        _, values, right = np.linalg.svd(group.A.numpy(), full_matrices=True)
        padded = np.pad(values, (0, len(right) - len(values)))
        if (np.abs(np.diff(padded)) < 1e-6 * padded[0]).any():
            return None
        positive = [bool((v > 1e-9).all() or (v < -1e-9).all()) for v in right]
        kinds.append("trap" if positive[0] else "saddle" if any(positive) else "none")
    return "none" if "none" in kinds else "saddle" if "saddle" in kinds else "trap"


def _generic(problem: Problem) -> bool:
    """Whether the second implementation applies: independent w_p^d, ReLU, at most one singular value 0."""
    return bool(
        isinstance(problem.activation, ReLU | TopK)
        and int(torch.linalg.matrix_rank(problem.W_p)) == problem.n
        and problem.n_r >= problem.n - 1
    )


def _measure_repaired(case: Case, rng: np.random.Generator) -> Measurement:
    """Violations of what the verdict promises; see docs/theory/spurious-minima.md for the list."""
    problem = case.problem
    if case.without == "a partition":
        return _overlapping(problem, rng)
    pattern = draw_partition(rng, problem.n, problem.n_q)
    point = trichotomy(problem, pattern)
    second = _disagreement(problem, rng)
    if _generic(problem) and point.verdict != "not realizable":
        second = max(second, float((_independent_verdict(problem, pattern) or point.verdict) != point.verdict))
    text = f"{point.verdict}: {type(problem.activation).__name__} {pattern}"
    if point.W_D is None or point.W_E is None:
        return Measurement(_without_a_point(problem, pattern, rng), second, text)
    W_D, W_E = point.W_D, point.W_E
    size = 1.0 + float(W_D.abs().max() + W_E.abs().max()) ** 3
    wrong = max(float(g.abs().max()) for g in _autograd(problem, W_D, W_E)) / size
    if not point.interior or pattern_of(problem, W_E) != pattern:
        return Measurement(np.inf, second, text + " not in its region")
    if point.verdict == "trap":
        wrong = max(wrong, _trap_violation(problem, pattern, point, rng))
    else:
        lower = valley(problem, pattern, point)
        if lower is None:
            return Measurement(np.inf, second, text + " without a valley")
        drop = point.loss - float(loss(problem, best_decoder(problem, lower[0]), lower[0]))
        wrong = max(wrong, abs(drop - lower[1]) / problem.zero_dictionary_loss, 0.5 - drop / lower[1])
    return Measurement(wrong, second, f"{text}, loss {point.loss:.4g}")


def _without_a_point(problem: Problem, pattern: ActivationPattern, rng: np.random.Generator) -> float:
    """Not realizable: how far the certificate is from a proof. None: 1 if a point of the region is stationary.

    Points are random ones of the region, with their best decoders; a point stationary to 1e-6 would deny the verdict.
    """
    realized = realize(problem, pattern)
    if realized.certificate is not None:
        return certificate_residual(region(problem, pattern), realized.certificate)
    if realized.encoder is None or not realized.interior:
        return 0.0 if realized.margin > 0 else np.inf  # an open region that is empty holds nothing
    where = region(problem, pattern)
    for _ in range(10):
        W_E = walk(where, realized.encoder, rng)
        if max(float(g.abs().max()) for g in gradients(problem, best_decoder(problem, W_E), W_E)) < 1e-6:
            return 1.0
    return 0.0


def _trap_violation(problem: Problem, pattern: ActivationPattern, point: Stationary, rng: np.random.Generator) -> float:
    """How far a trap is from being least on its whole region, and so a local minimum."""
    assert point.W_D is not None
    assert point.W_E is not None
    where, spectrum = region(problem, pattern), torch.linalg.eigvalsh(joint_hessian(problem, point.W_D, point.W_E))
    bottom = float(spectrum[0] / spectrum.abs().max())
    others = (walk(where, point.W_E, rng) for _ in range(10))
    best = min(float(loss(problem, best_decoder(problem, E), E)) for E in others)
    return max(-bottom, (point.loss - best) / problem.zero_dictionary_loss)


def _overlapping(problem: Problem, rng: np.random.Generator) -> Measurement:
    """The group-by-group point on a pattern whose groups overlap: its gradient."""
    groups = [ActivationPattern.of([range(problem.n)], problem.n)] * problem.n_q
    one = Problem(problem.W_p, problem.W_r, problem.weights, problem.activation, 1)
    pair = positive_pair(groups_of(one, groups[0])[0])
    if pair is None:
        return Measurement(0.0)
    z = pair[0][:, 0].abs() / problem.weights.sqrt()
    W_E = (torch.linalg.pinv(problem.W_p.T) @ z).expand(problem.n_q, -1).contiguous()
    W_D = best_decoder(one, W_E[:1]).expand(-1, problem.n_q).contiguous()
    return Measurement(max(float(g.abs().max()) for g in gradients(problem, W_D, W_E)))


def _repaired_case(rng: np.random.Generator) -> Case:
    n = int(rng.integers(2, 6))
    n_q = n + int(rng.integers(0, 2))
    activation: Activation = [ReLU(), TopK(1), TopK(2), JumpReLU(theta=0.2)][int(rng.integers(4))]
    n_p, n_r = int(rng.integers(2, 8)), int(rng.integers(1, 7))
    return Case(draw_problem(rng, n, n_p, n_q, n_r, activation))


def _overlap_case(rng: np.random.Generator) -> Case:
    n = int(rng.integers(2, 4))
    W_p, W_r = draw_directions(rng, n + 1, n), draw_directions(rng, n, n).abs()
    return Case(Problem(W_p, W_r / W_r.norm(dim=0), draw_weights(rng, n), n_q=2), without="a partition")


def _splits(problem: Problem) -> str:
    """Why the claim says nothing about a problem, or ""."""
    if problem.n < 2 or float(problem.weights.min()) <= 0:
        return "it needs two features or more, all with M_d > 0"
    return has_convex_regions(problem)


REPAIRED_36 = Check(
    name="repaired_3_6",
    claim="theorem 3.6 repaired",
    statement="a realizable partition pattern holds a trap (leading positive pairs), a saddle (positive, not leading) "
    "or no stationary point",
    paper="repaired",
    measure=_measure_repaired,
    holds_on=_repaired_case,
    fails_on={"groups that overlap": _overlap_case},
    page="spurious-minima.md",
    tolerance=1e-7,
    agreement=1e-10,
    applies=_splits,
)


def _measure_perron(case: Case, rng: np.random.Generator) -> Measurement:
    """0 when the pattern holds a trap with the predicted loss, else 1 or the difference of losses."""
    problem = case.problem
    pattern = draw_partition(rng, problem.n, problem.n_q)
    point = trichotomy(problem, pattern)
    if point.verdict != "trap":
        return Measurement(1.0, 0.0, f"{point.verdict}: {pattern}")
    lost = sum(float(np.square(np.linalg.svd(g.A.numpy())[1][1:]).sum()) for g in groups_of(problem, pattern))
    return Measurement(
        abs(point.loss - lost) / problem.zero_dictionary_loss, 0.0, f"trap of loss {point.loss:.4g}: {pattern}"
    )


def _perron_case(rng: np.random.Generator, mixed: bool = False) -> Case:
    n = int(rng.integers(2, 7))
    W_p, W_r = draw_directions(rng, n + 1, n), draw_directions(rng, 6, n)
    if not mixed:
        W_r = W_r.abs()
    return Case(Problem(W_p, W_r, draw_weights(rng, n), n_q=n), without="a nonnegative Gram matrix" if mixed else "")


PERRON = Check(
    name="perron_trap",
    claim="theorem 3.6 repaired, corollary",
    statement="independent w_p^d, and in each group the Gram matrix of w_r nonnegative and irreducible: the pattern "
    "holds a trap of loss = sum of the groups' trailing squared singular values",
    paper="repaired",
    measure=_measure_perron,
    holds_on=_perron_case,
    fails_on={"cosines of both signs": lambda rng: _perron_case(rng, mixed=True)},
    page="spurious-minima.md",
    tolerance=1e-9,
)


def _measure_dead(case: Case, rng: np.random.Generator) -> Measurement:
    """The largest gradient entry of the latent that is made dead (or merely nearly dead, in the counter-case)."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))
    total = problem.W_p.sum(1)
    W_E[0] = (total if case.without else -total) * 5
    fires = bool(pattern_of(problem, W_E).sets[0])
    ours, theirs = gradients(problem, W_D, W_E), _autograd(problem, W_D, W_E)
    largest = max(float(ours[0][:, 0].abs().max()), float(ours[1][0].abs().max()))
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    scale = 1 + max(float(g.abs().max()) for g in ours)
    return Measurement(largest, apart / scale, f"latent 0 fires: {fires}, largest gradient entry {largest:.3g}")


def _dead_case(rng: np.random.Generator, without: str = "") -> Case:
    n, n_p, n_r, n_q = (int(v) for v in rng.integers(2, 6, 4))
    activation: Activation = [ReLU(), JumpReLU(theta=0.2), TopK(min(2, n_q))][int(rng.integers(3))]
    drawn = draw_problem(rng, n, n_p, n_q, n_r, activation)
    W_p = drawn.W_p.abs() / drawn.W_p.norm(dim=0)  # one orthant: minus the sum of the directions is dead
    return Case(Problem(W_p, drawn.W_r, drawn.weights, activation, n_q), without=without)


DEAD_LATENTS = Check(
    name="dead_latents",
    claim="section 3, dead latents",
    statement="F_i = {}: the gradients of w_E^i and w_D^i vanish, so no first-order method on L~ revives latent i",
    paper="confirmed",
    measure=_measure_dead,
    holds_on=_dead_case,
    fails_on={"a latent that fires": lambda rng: _dead_case(rng, "F_i is empty")},
    page="dead-latents.md",
    tolerance=0.0,
    agreement=1e-10,
)


def _measure_scale(case: Case, rng: np.random.Generator) -> Measurement:
    """What stays of the penalty at (W_E / c, c W_D), c = 1e6; the error must not move."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))

    def value(c: float) -> tuple[float, float]:
        H, D = problem.codes(W_E / c), W_D * c
        error = (problem.W_r.T - H @ D.T).square().sum(1) @ problem.weights
        price = D.norm(dim=0) if case.without else torch.ones(problem.n_q, dtype=torch.float64)
        return float(error), float((H * price).sum())

    (e1, p1), (e2, p2) = value(1.0), value(1e6)
    return Measurement(p2 / max(p1, 1e-300), abs(e1 - e2) / (1 + e1), f"penalty {p1:.3g} -> {p2:.3g} at the same error")


def _scale_case(rng: np.random.Generator, without: str = "") -> Case:
    n, n_p, n_r, n_q = (int(v) for v in rng.integers(2, 6, 4))
    return Case(draw_problem(rng, n, n_p, n_q, n_r), without=without)


L1_SCALE = Check(
    name="l1_scale",
    claim="eq 5, decoder norms",
    statement="ReLU + L1 with free decoder norms has no minimiser: "
    "(W_E / c, c W_D) keeps the error, the penalty falls to 0",
    paper="needs hypotheses",
    measure=_measure_scale,
    holds_on=_scale_case,
    fails_on={"codes weighted by decoder norms": lambda rng: _scale_case(rng, "free decoder norms")},
    page="dead-latents.md",
    tolerance=1e-5,
)

"""Search: monotone, its quadratic programmes and lower bounds against sampling, its optima against a fine grid."""

import math

import numpy as np
import pytest
import torch

from monosem.base.errors import RefusedError
from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.basins import basins, wilson
from monosem.theory.descent import Plan, descend, run_losses, starts
from monosem.theory.instances import draw_encoder, draw_problem, plane
from monosem.theory.loss import best_decoder, loss
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Atoms, Problem
from monosem.theory.search.acs import acs, sampled_acs
from monosem.theory.search.atlas import partitions
from monosem.theory.search.bound import lower_bounds
from monosem.theory.search.cells import Cell, feature_sets, first_cells, split_cell
from monosem.theory.search.certified import certified_optimum
from monosem.theory.search.qp import kkt_residual, solve_qp

__all__: list[str] = []


def test_quadratic_programme_meets_its_conditions_and_beats_samples() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        B, A = rng.standard_normal((5, 4)), rng.standard_normal((6, 4))
        H, f, start = B.T @ B, rng.standard_normal(4), rng.standard_normal(4)
        b = A @ start - rng.uniform(0, 1, 6)
        w = solve_qp(H, f, A, b, start, prox=1e-10)
        assert (A @ w - b).min() > -1e-8
        value = w @ H @ w / 2 - f @ w
        for _ in range(200):
            other = start + rng.standard_normal(4) * 2
            if (A @ other >= b).all():
                assert other @ H @ other / 2 - f @ other >= value - 1e-6 * (1 + abs(value))
        assert kkt_residual(H @ w - f, A, A @ w - b, 1e-6) < 1e-5 * (1 + np.abs(f).max())


@pytest.mark.parametrize("activation", [ReLU(), TopK(1), JumpReLU(theta=0.2)], ids=repr)
def test_acs_never_rises_and_names_its_certificate(activation: Activation) -> None:
    rng = np.random.default_rng(1)
    for _ in range(2):
        problem = draw_problem(rng, 4, 3, 3, None, activation)
        found = acs(problem, draw_encoder(rng, problem), steps=60)
        assert all(b <= a * (1 + 1e-12) + 1e-15 for a, b in zip(found.history, found.history[1:], strict=False))
        assert found.loss == pytest.approx(float(loss(problem, found.W_D, found.W_E)))
        assert found.stop != "partial minimum" or found.kkt < 0.05 * problem.zero_dictionary_loss


def test_acs_finds_the_trap_of_example_3_5() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(2), TopK(1), 2)
    found = acs(problem, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert found.loss == pytest.approx(1.0)
    assert found.stop == "partial minimum"


def test_sampled_search_never_rises_and_gives_no_certificate() -> None:
    rng = np.random.default_rng(2)
    problem = draw_problem(rng, 8, 5, 8, None, TopK(2))
    x = torch.from_numpy(rng.exponential(size=(300, 8)) * (rng.random((300, 8)) < 0.2))
    data = Atoms(x @ problem.W_p.T, x @ problem.W_r.T, torch.full((300,), 1 / 300, dtype=torch.float64))
    found = sampled_acs(problem, draw_encoder(rng, problem), data)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.history[-1] < 0.7 * found.history[0]
    assert found.stop == "steps"


def test_lower_bounds_are_below_every_dictionary_of_their_box() -> None:
    rng = np.random.default_rng(3)
    for n, n_p, n_q in ((4, 2, 1), (4, 2, 2), (4, 3, 2)):
        problem = draw_problem(rng, n, n_p, n_q)
        sets = feature_sets(problem)
        root = problem.weights.sqrt()[:, None]
        for _ in range(15):
            node: list[Cell] = []
            for _latent in range(n_q):
                cell = first_cells(sets[int(rng.integers(len(sets)))])[0]
                for _split in range(int(rng.integers(0, 6))):
                    halves = split_cell(cell) if cell.axes else []
                    cell = halves[int(rng.integers(len(halves)))] if halves else cell
                node.append(cell)
            bound = float(lower_bounds(problem, [tuple(node)], 10.0)[0])
            for _draw in range(20):
                Z = torch.zeros(n, n_q, dtype=torch.float64)
                for i, cell in enumerate(node):
                    y = np.array(cell.centre)
                    for a, h in zip(cell.axes, cell.half, strict=True):
                        y[a] += h * rng.uniform(-1, 1)
                    Z[:, i] = torch.from_numpy(y @ cell.of.responses)
                W_D = (torch.linalg.pinv(root * Z) @ (root * problem.W_r.T)).T
                if float(W_D.norm(dim=0).max()) <= 10.0:
                    value = float(((root * (problem.W_r.T - Z @ W_D.T)) ** 2).sum())
                    assert value >= bound


def test_certified_optimum_is_that_of_a_fine_grid() -> None:
    """One latent in the plane: 36,000 directions."""
    rng = np.random.default_rng(4)
    for _ in range(2):
        problem = draw_problem(rng, 4, 2, 1)
        found = certified_optimum(problem, starts=8, steps=150)
        assert found.complete
        assert found.gap <= 1e-3
        angles = torch.arange(36_000, dtype=torch.float64) * 2 * math.pi / 36_000
        Z = (torch.stack([angles.cos(), angles.sin()], 1) @ problem.W_p).clamp(min=0)  # [angles, n]
        m = problem.weights
        gain = ((Z * m) @ problem.W_r.T).square().sum(1) / (Z.square() @ m).clamp(min=1e-12)
        grid = problem.zero_dictionary_loss - float(gain.max())
        assert found.lower <= grid + 1e-9
        assert found.loss <= grid * (1 + 1e-3)


def test_certified_search_is_for_relu() -> None:
    with pytest.raises(RefusedError, match="ReLU"):
        certified_optimum(Problem(plane(0, 90), plane(0, 90), torch.ones(2), TopK(1), 1))


def test_partitions_are_counted_by_stirling_numbers() -> None:
    assert len(partitions(4, 4)) == 15
    assert len(partitions(4, 2)) == 8
    assert all(p.is_partition for p in partitions(5, 3))
    assert len(set(partitions(5, 3))) == len(partitions(5, 3))


def test_descent_runs_are_those_of_single_losses() -> None:
    rng = np.random.default_rng(5)
    problem = draw_problem(rng, 4, 3, 4, 2, TopK(2))
    W_D, W_E = starts(problem, 3, 0)
    each = [float(loss(problem, W_D[r], W_E[r])) for r in range(3)]
    assert run_losses(problem, W_D, W_E, problem.atoms).tolist() == pytest.approx(each)
    ended = descend(problem, Plan(steps=100), 3, begin=(W_D, W_E))
    assert float(ended.loss.mean()) < sum(each) / 3


def test_dead_latents_escape_by_resampling_and_anchors_but_not_by_auxk_under_relu() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), ReLU(), 4)
    W_D, W_E = starts(problem, 8, 0)
    W_E[:, :2] = -1.0  # silent on every feature
    dead = {}
    for name in ("none", "auxk", "resample"):
        plan = Plan(steps=120, lr=0.03, revive=name, every=20)  # type: ignore[arg-type]
        dead[name] = int(descend(problem, plan, 8, begin=(W_D, W_E)).dead[:, :2].sum())
    anchored = descend(problem, Plan(steps=60, lr=0.03, anchors=2), 8, begin=(W_D, W_E))
    assert dead["none"] == dead["auxk"] == 16
    assert dead["resample"] < 12
    assert int(anchored.dead[:, :2].sum()) == 0


def test_auxk_revives_outranked_latents() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), TopK(1), 4)
    W_D, W_E = starts(problem, 8, 0)
    W_E[:, 0], W_E[:, 1:] = 1.0, W_E[:, 1:].abs() * 1e-3  # latent 0 outranks the others everywhere
    still = [
        int(descend(problem, Plan(steps=120, lr=0.03, revive=way), 8, begin=(W_D, W_E)).dead.sum())
        for way in ("none", "auxk")
    ]  # type: ignore[arg-type]
    assert still[1] < still[0]


def test_basins_count_what_is_not_anchored() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    problem = Problem(eye, eye, torch.ones(4), TopK(1), 12)
    plain, held = basins(problem, (0, 3), plan=Plan(steps=100, lr=0.03), runs=16)
    assert held.full >= plain.full
    assert plain.low <= plain.full <= plain.high
    low, high = wilson(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=1e-3)


def test_rescaling_does_not_change_a_relu_pattern() -> None:
    rng = np.random.default_rng(6)
    problem = draw_problem(rng, 4, 3, 3)
    W_E = draw_encoder(rng, problem)
    assert pattern_of(problem, 7 * W_E) == pattern_of(problem, W_E)
    again = float(loss(problem, best_decoder(problem, 7 * W_E), 7 * W_E))
    assert again == pytest.approx(float(loss(problem, best_decoder(problem, W_E), W_E)))
    assert ActivationPattern.of([[0]], 1).dead == ()

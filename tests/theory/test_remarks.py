"""docs/theory/remarks.md: every check and test it names exists; and the remarks that no check of its own covers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.core.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import draw_directions, plane
from monosem.theory.checks.convexity import SelectedTopK
from monosem.theory.checks.optima import Identity, construction
from monosem.theory.checks.registry import CHECKS
from monosem.theory.checks.stationary import example_35
from monosem.theory.hierarchy import hierarchical, split_pattern
from monosem.theory.law import ExactLaw, Magnitude, exact_loss, independent
from monosem.theory.minima import trichotomy, valley
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem, best_decoder, gradients, loss, sigma
from monosem.theory.zeroset import recovery, unrecovering
from studies.theory.claims import group_shares

TESTS = Path(__file__).parent
PAGE = TESTS.parents[1] / "docs" / "theory" / "remarks.md"


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| remark")]


def test_every_remark_has_a_verdict_and_names_checks_or_tests_that_exist() -> None:
    written = "\n".join(path.read_text() for path in TESTS.glob("test_*.py"))
    table = rows()
    assert len(table) >= 35
    for remark, verdict, where in table:
        assert verdict.split(":")[0].split(",")[0] in ("confirmed", "corrected"), (remark, verdict)
        names = re.findall(r"`([a-z0-9_]+)`", where)
        assert names, remark
        for name in names:
            assert name in CHECKS or f"def {name}(" in written, f"{name} of {remark!r} does not exist"


def test_every_check_is_named_in_the_table() -> None:
    text = PAGE.read_text()
    assert [name for name in CHECKS if f"`{name}`" not in text] == []


def test_two_features_always_together() -> None:
    """S = .9, zero dictionary: L - L~ = .20 against the bound n^2 C (1 - S)^2 = .08."""
    eye = torch.eye(2, dtype=torch.float64)
    law = ExactLaw(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double(), torch.tensor([0.9, 0.1]).double())
    problem = Problem(eye, eye, law.weights, ReLU(), 1)
    nothing = torch.zeros(2, 1, dtype=torch.float64)
    gap = exact_loss(problem, law, nothing, nothing.T).value - float(loss(problem, nothing, nothing.T))
    bound = 2**2 * 2.0 * 0.1**2
    assert gap == pytest.approx(0.2)
    assert bound == pytest.approx(0.08)


def test_the_hypothesis_only_makes_the_bound_at_most_c() -> None:
    """n^2 (1 - S)^2 <= 1 iff 1 - S <= 1/n; at the paper's bench the bound is 100 C, and two are active at .9995."""
    assert all((n * rate) ** 2 <= 1 for n in (2, 10, 1000) for rate in (1 / n, 0.3 / n))
    n, S = 1000, 0.99
    assert (n * (1 - S)) ** 2 == pytest.approx(100)
    assert 1 - S**n - n * (1 - S) * S ** (n - 1) == pytest.approx(0.9995, abs=1e-4)


def test_which_activations_are_homogeneous() -> None:
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kinds: list[tuple[Activation, bool]] = [
        (ReLU(), True),
        (TopK(2), True),
        (JumpReLU(theta=0.4), False),
        (BatchTopK(1.0), False),
    ]
    for activation, homogeneous in kinds:
        assert torch.allclose(sigma(activation, 3 * z, 0.4), 3 * sigma(activation, z, 0.4)) == homogeneous


def test_an_empty_input_is_no_feature_alone() -> None:
    """Read literally, Pr(x = x_d e_d) holds for x = 0 and every d; weights count x_d > 0 only."""
    law = independent(torch.tensor([0.1, 0.2]).double(), Magnitude((2.0,), (1.0,)))
    assert law.weights.tolist() == pytest.approx([4 * 0.1 * 0.8, 4 * 0.2 * 0.9])


def test_raw_top_k_breaks_convexity_across_signs_only() -> None:
    """n = 1, top-2 with signs, W_D = (0,-1,-1): loss 0, 0 at the ends and 1 halfway; the selected set changes there."""
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(one, one, one[0], SelectedTopK(2), 3)
    W_D = torch.tensor([[0.0, -1.0, -1.0]], dtype=torch.float64)
    ends = [torch.tensor([[1.0], [a], [b]], dtype=torch.float64) for a, b in ((-1, -3), (-3, -1))]
    assert [float(loss(problem, W_D, E)) for E in ends] == [0.0, 0.0]
    assert float(loss(problem, W_D, (ends[0] + ends[1]) / 2)) == pytest.approx(1.0)
    assert pattern_of(problem, ends[0]) != pattern_of(problem, ends[1])


def test_equation_10_alone_is_too_weak() -> None:
    """sigma = 0 and a high threshold: L~ = sum M_d against bound 0; the identity at cosine -.9: 1.62; long columns."""
    eye = torch.eye(3, dtype=torch.float64)
    silent = Problem(eye, eye, torch.ones(3), JumpReLU(theta=1.0), 3)
    assert float(loss(silent, *construction(silent))) == 3.0
    assert silent.max_interference == 0.0
    W = plane(0.0, float(np.degrees(np.arccos(-0.9))))
    both_ways = Problem(W, W, torch.ones(2), Identity(), 2)
    assert float(loss(both_ways, *construction(both_ways))) == pytest.approx(1.62)
    both = torch.cat([eye, eye])
    cross = Problem(both, both, torch.ones(3), ReLU(), 3)
    assert cross.W_p.norm(dim=0).tolist() == pytest.approx([2**0.5] * 3)
    assert float(loss(cross, *construction(cross))) == pytest.approx(3 * 2.0)


def test_the_true_dictionary_at_the_paper_size() -> None:
    """1000 random directions in 768 dimensions: over the zero dictionary, ReLU 1.09, top-32 .25, top-1 0."""
    W = draw_directions(np.random.default_rng(0), 768, 1000)
    for activation, expected in ((ReLU(), 1.09), (TopK(32), 0.25), (TopK(1), 0.0)):
        problem = Problem(W, W, torch.ones(1000), activation, 1000)
        assert float(loss(problem, *construction(problem))) / 1000 == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_zero_loss_without_recovery_at_as_many_latents_as_features() -> None:
    """Figure 4: four features in the plane, n_q = n."""
    W = plane(0, 75, 170, 260)
    problem = Problem(W, W, torch.ones(4), ReLU(), 4)
    W_D, W_E = unrecovering(problem, np.random.default_rng(1), steps=300, starts=6)
    found = recovery(problem, W_D, W_E)
    assert float(loss(problem, W_D, W_E)) < 1e-12
    assert found.decoder == found.encoder == 0.0


def test_anchoring_takes_less_than_one_percent_of_the_dimension() -> None:
    n, width, n_q, k = 1000, 768, 16_000, 100
    zero_set = n_q * 2 * width - n * width
    assert k * 2 * width / zero_set == pytest.approx(0.0065, abs=1e-3)


def test_example_with_unequal_weights() -> None:
    """M = (2, 1): with the best decoder the encoder's gradient has norm .63; no stationary point in the open region."""
    problem, printed, W_E = example_35((2.0, 1.0))
    assert float(gradients(problem, best_decoder(problem, W_E), W_E)[1].norm()) == pytest.approx(0.6285, abs=1e-4)
    by_decoder, by_encoder = gradients(problem, printed, W_E)
    assert float(by_encoder.norm()) == 0.0
    assert float(by_decoder.norm()) > 0.5
    assert trichotomy(problem, ActivationPattern.of([[0, 1], []], 2)).verdict == "none"


def test_example_stays_at_one_beyond_the_boundary() -> None:
    """z = (cos t, sin t) with the best decoder: 1 for every t; it falls only when the dead latent wakes up."""
    problem, _, _ = example_35()
    for t in (0.3, 1.2, 1.7, 2.5):
        W_E = torch.tensor([[np.cos(t), np.sin(t)], [0.0, 0.0]])
        assert float(loss(problem, best_decoder(problem, W_E), W_E)) == pytest.approx(1.0)
    woken = torch.tensor([[np.cos(1.7), np.sin(1.7)], [0.5, 0.0]])
    assert float(loss(problem, best_decoder(problem, woken), woken)) < 1e-12


def test_two_features_at_cosine_minus_one_half() -> None:
    """A saddle of loss 1.5; along the valley inside the region it falls, past 1.43 at z = (1, .55), to 1."""
    W_p, W_r = torch.eye(2, dtype=torch.float64), plane(0, 120)
    problem = Problem(W_p, W_r, torch.ones(2), n_q=2)
    pattern = ActivationPattern.of([[0, 1], []], 2)
    found = trichotomy(problem, pattern)
    assert found.verdict == "saddle"
    assert found.loss == pytest.approx(1.5)
    assert (lower := valley(problem, pattern, found)) is not None
    assert lower[1] > 0

    def at(t: float) -> float:
        W_E = torch.tensor([[1.0, t], [-1.0, -1.0]], dtype=torch.float64)
        return float(loss(problem, best_decoder(problem, W_E), W_E))

    values = [at(t) for t in (1.0, 0.8, 0.55, 0.3, 1e-3)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1.5)
    assert at(0.55) == pytest.approx(1.43, abs=0.01)
    assert values[-1] == pytest.approx(1.0, abs=0.01)


def test_shares_of_random_groups() -> None:
    """Some positive vector in 100 / 75 / 52 / 42 %, the leading one in 49 / 25 / 12 / 7 % (400 draws each)."""
    for size, some, leading in ((2, 1.0, 0.49), (3, 0.75, 0.25), (4, 0.52, 0.12), (5, 0.42, 0.07)):
        trap, saddle, _ = group_shares(size)
        assert trap + saddle == pytest.approx(some, abs=0.08)
        assert trap == pytest.approx(leading, abs=0.08)


def test_parallel_targets_have_traps_of_loss_zero() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(eye, eye[:, [0, 0]], torch.ones(2), n_q=1)
    found = trichotomy(problem, ActivationPattern.of([[0, 1]], 2))
    assert found.verdict == "trap"
    assert found.loss == pytest.approx(0.0, abs=1e-12)


def test_two_children_split_into_the_ideal_pattern() -> None:
    split = split_pattern(ActivationPattern.of([[0, 1]], 2), 0, 1)
    assert split == ActivationPattern.of([[0], [1]], 2)
    assert split.polysemantic == ()
    assert split_pattern(ActivationPattern.of([[0, 1, 2]], 3), 0, 2).polysemantic == (0,)


def test_no_member_of_a_family_fires_alone() -> None:
    """Definition 3.2: M_d = 0 for the parent and, as it never fires without its parent, for every child."""
    law = hierarchical((4,), 0.1, free=1)
    assert law.weights[:5].tolist() == [0.0] * 5
    assert float(law.weights[5]) > 0

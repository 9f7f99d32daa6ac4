"""Every check holds on its cases, fails on its counter-cases, agrees with its second implementation, for any seed."""

from pathlib import Path

import pytest
import torch

from monosem.base.errors import DataError
from monosem.core.activations import AbsTopK, Binary, Gated, TopK
from monosem.theory.checks.base import Case, examine, on_problem, plane
from monosem.theory.checks.registry import CHECKS
from monosem.theory.patterns import competition
from monosem.theory.problem import Problem, load_problem

DOCS = Path(__file__).parents[2] / "docs" / "theory"


@pytest.mark.parametrize("name", CHECKS)
def test_holds_fails_and_agrees(name: str) -> None:
    for seed in range(3):
        report = examine(CHECKS[name], seed=seed, trials=8)
        assert report.verdict.holds, report.verdict
        assert report.verdict.agrees, report.verdict
        assert report.counter
        assert report.caught, {k: v for k, v in report.counter.items() if v.holds}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_stable_over_100_seeds(name: str) -> None:
    wrong = [seed for seed in range(100) if not examine(CHECKS[name], seed=seed, trials=8).as_documented]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repaired_3_6", "closed_3_6"])
def test_repaired_theorem_on_1000_instances(name: str) -> None:
    report = examine(CHECKS[name], seed=7, trials=1000)
    assert report.as_documented, report


@pytest.mark.parametrize("name", CHECKS)
def test_documented(name: str) -> None:
    check = CHECKS[name]
    text = (DOCS / check.page).read_text()
    assert f"`{name}`" in text
    assert f"figures/{name}.svg" in text
    assert (DOCS / "figures" / f"{name}.svg").exists()


def test_a_verdict_cannot_be_nan() -> None:
    from dataclasses import replace

    from monosem.theory.checks.base import Measurement

    broken = replace(CHECKS["biconvexity"], measure=lambda case, rng: Measurement(float("nan")))
    assert not examine(broken, trials=2).verdict.holds


def test_on_a_problem_of_ones_own(tmp_path: Path) -> None:
    problem = Problem(plane(0, 100, 200), plane(0, 100, 200), torch.ones(3), TopK(1), 4)
    problem.save(tmp_path / "p.json")
    again = load_problem(tmp_path / "p.json")
    assert torch.equal(again.W_p, problem.W_p)
    assert again.activation == TopK(1)
    verdict = on_problem(CHECKS["construction"], again)
    assert not isinstance(verdict, str)
    assert verdict.holds
    small = Problem(plane(0, 100, 200), plane(0, 100, 200), torch.ones(3), TopK(1), 2)
    assert "n_q=2" in str(on_problem(CHECKS["construction"], small))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="holds no problem"):
        load_problem(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("activation", "reason"),
    [(AbsTopK(1), "not convex"), (Binary(), "eq 10"), (Gated(), "affine"), (TopK(1, rank_by_norm=True), "W_D")],
)
def test_refusals_say_why(activation: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        competition(activation, 3)  # type: ignore[arg-type]


def test_case_names_what_it_drops() -> None:
    assert Case(Problem(torch.eye(2), torch.eye(2), torch.ones(2))).without == ""

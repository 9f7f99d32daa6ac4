"""`monosem check`: what it prints and returns; and its figures, which `python -m studies claims` draws."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monosem.cli.app import app as monosem
from monosem.theory.checks.registry import CHECKS, SUITE
from monosem.theory.minima import trichotomy
from monosem.theory.search.atlas import partitions, pattern_key
from studies.theory.claims import FIGURES, draw_all
from tests.cli.calls import call


def test_json_holds_every_verdict() -> None:
    names = ["example_3_5", "construction"]
    answer = CliRunner().invoke(monosem, ["check", *names, "--json", "--trials", "5"])
    assert answer.exit_code == 0, answer.output
    record = json.loads(answer.output)
    assert record["as_documented"]
    assert [c["check"] for c in record["checks"]] == names
    assert all(case["caught"] for c in record["checks"] for case in c["counter_cases"].values())
    assert set(record["problems"]) == set(SUITE)


def test_a_claim_is_told_in_words() -> None:
    answer = CliRunner().invoke(monosem, ["check", "zero_loss", "--trials", "5"])
    assert answer.exit_code == 0, answer.output
    assert "theorem 3.4 zero_loss: holds" in " ".join(answer.stdout.split())
    assert "all is as documented: 1 check in" in answer.stdout


def test_a_problem_of_ones_own_is_answered(tmp_path: Path) -> None:
    """Example 3.5: three features, two latents; every pattern with its verdict, and the least loss."""
    problem = SUITE["example 3.5"]
    problem.save(tmp_path / "mine.json")
    answer = CliRunner().invoke(monosem, ["check", "zero_loss", "--problem", str(tmp_path / "mine.json"), "--json"])
    assert answer.exit_code == 0, answer.output
    record = json.loads(answer.stdout)
    verdicts = {one["pattern"]: one["verdict"] for one in record["patterns"] if one["verdict"]}
    wanted = {pattern_key(p): trichotomy(problem, p).verdict for p in partitions(problem.n, problem.n_q)}
    assert verdicts == wanted
    assert set(wanted.values()) & {"trap", "saddle"}
    assert record["least_loss"] <= min(one["loss"] for one in record["patterns"] if one["loss"] is not None) + 1e-12
    assert all(v["holds"] for v in record["checks"].values() if isinstance(v, dict))
    assert sum(one["share"] for one in record["patterns"]) == pytest.approx(1)


def test_the_example_problem_is_answered_in_words() -> None:
    path = Path(__file__).parents[2] / "examples" / "problem.json"
    shown = call("check", "zero_loss", "--problem", path).stdout
    for word in ("{0,2} {1}", "trap", "least loss", "certified as the global minimum", "checks: holds: zero_loss"):
        assert word in shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read (No such file"),
        ("{", "is not JSON"),
        ("[1]", "it needs W_p"),
        ("{}", "it needs W_p"),
        ('{"W_p": [[1, 0], [0]]}', "W_p is not a list of rows of numbers"),
        ('{"W_p": [["a", 0], [0, 1]]}', "W_p is not a list of rows of numbers"),
        ('{"W_p": [1, 2]}', "W_p of shape (2,) is not a list of rows"),
        ('{"W_p": [[1, 0], [0, 1]], "n_q": "x"}', "n_q is 'x'; write a whole number"),
        ('{"W_p": [[1, 0], [0, 1]], "n_q": 0}', "n_q=0"),
        ('{"W_p": [[1, 0], [0, 1]], "weights": "many"}', "weights is not a list of numbers"),
        ('{"W_p": [[1, 0], [0, 1]], "activation": "rleu"}', "did you mean 'relu'"),
        ('{"W_p": [[1, 0], [0, 1]], "activation": "topk(q=1)"}', "cannot be made"),
        ('{"W_p": [[1, 0], [0, 1]], "activation": 3}', "activation is 3"),
        ('{"W_p": [[1, 0], [0, NaN]]}', "NaN or infinity"),
        ('{"W_p": [[1, 0], [0, 1]], "latents": 3}', "unknown entry latents"),
    ],
)
def test_a_wrong_problem_is_said_before_anything_is_computed(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    answer = call("check", "--problem", path)
    assert answer.exit_code == 2, answer.output
    assert says in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_exit_status_tells_when_a_claim_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    check = CHECKS["dead_latents"]
    broken = replace(check, holds_on=next(iter(check.fails_on.values())))
    monkeypatch.setitem(CHECKS._items, "dead_latents", broken)
    answer = CliRunner().invoke(monosem, ["check", "dead_latents", "--trials", "3"])
    assert answer.exit_code == 1
    assert "FAILS" in answer.output


def test_every_check_has_a_figure() -> None:
    assert set(FIGURES) == set(CHECKS)


def test_figures_are_drawn_by_name_with_the_same_bytes(tmp_path: Path) -> None:
    paths = draw_all(["parent_invisible", "l1_scale"], tmp_path)
    assert [path.name for path in paths] == ["parent_invisible.svg", "l1_scale.svg"]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_all(["parent_invisible", "l1_scale"], tmp_path)] == first


@pytest.mark.parametrize("name", ["example_3_5", "l1_scale", "parent_invisible", "convex_regions"])
def test_figures_have_labelled_axes(name: str) -> None:
    for axis in FIGURES[name]().axes:
        assert axis.get_xlabel()
        assert axis.get_ylabel()

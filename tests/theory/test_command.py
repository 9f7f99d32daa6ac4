"""`monosem check`: what it prints and returns; and its figures, which `python -m studies claims` draws."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from monosem.cli.check import register
from monosem.theory.checks.registry import CHECKS, SUITE
from studies.theory.claims import FIGURES, draw_all


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.callback()(lambda: None)
    register(made)
    return made


def test_json_holds_every_verdict(app: typer.Typer) -> None:
    names = ["example_3_5", "construction"]
    answer = CliRunner().invoke(app, ["check", *names, "--json", "--trials", "5"])
    assert answer.exit_code == 0, answer.output
    record = json.loads(answer.output)
    assert record["as_documented"]
    assert [c["check"] for c in record["checks"]] == names
    assert all(case["caught"] for c in record["checks"] for case in c["counter_cases"].values())
    assert set(record["problems"]) == set(SUITE)


def test_a_table_and_a_problem_of_ones_own(app: typer.Typer, tmp_path: Path) -> None:
    SUITE["example 3.5"].save(tmp_path / "mine.json")
    answer = CliRunner().invoke(app, ["check", "zero_loss", "--trials", "5", "--problem", str(tmp_path / "mine.json")])
    assert answer.exit_code == 0, answer.output
    assert "theorem 3.4" in answer.output
    assert "all is as documented" in answer.output


def test_exit_status_tells_when_a_claim_fails(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    check = CHECKS["dead_latents"]
    broken = replace(check, holds_on=next(iter(check.fails_on.values())))
    monkeypatch.setitem(CHECKS._items, "dead_latents", broken)
    answer = CliRunner().invoke(app, ["check", "dead_latents", "--trials", "3"])
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

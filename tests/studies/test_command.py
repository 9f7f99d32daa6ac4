"""monosem study: what there is, what was run, and wrong input in one line."""

from pathlib import Path

import pytest

from studies.bench.catalog import STUDIES
from studies.real.catalog import REAL_STUDIES
from studies.report.study_drawn import DRAWN
from tests.cli.calls import call

WRONG = [
    (("table17",), "unknown study 'table17'; did you mean 'table7'?"),
    (("figure44",), "unknown study 'figure44'; did you mean 'figure4'?"),
    (("table7", "--scale", "tiny"), "unknown scale 'tiny'; known: nano, mini, mini-hard, paper"),
    (("table7", "--arm", "our"), "no run of table7 has an arm 'our'; known: paper, paper+anchors, ours+discovered"),
    (("table7", "--seeds", "0"), "--seeds 0; use at least one world"),
    (("table7", "--workers", "0"), "--workers 0; use at least one"),
    (("table7", "--stack", "0"), "--stack 0; put at least one run in a stack"),
    (("table2", "--scale", "paper"), "table2 has no runs at scale paper: CLIP embeddings of ImageNet-1K are in no"),
    (("figure7", "--scale", "paper"), "figure7 has no runs at scale paper: Llama-3.1-8B is in no package registry"),
    (("figure7", "--arm", "plain"), "no run of figure7 has an arm 'plain'; known: no remedy, resampling, AuxK"),
]


def test_a_bare_call_lists_the_studies() -> None:
    answer = call("study")
    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == sorted([*STUDIES, *DRAWN, *REAL_STUDIES])


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value[:3]) if value else "")
def test_wrong_input_takes_one_line(arguments: tuple[str, ...], message: str) -> None:
    answer = call("study", *arguments)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_show_runs_nothing(tmp_path: Path) -> None:
    answer = call("study", "table7", "--scale", "nano", "--show", "--out", tmp_path, "--figures", tmp_path / "figures")
    assert answer.exit_code == 0, answer.stderr
    assert "100/.999" in answer.stdout
    assert "not run" in answer.stdout
    assert "table7 has no figure, or no run to draw" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_real_rows_run_resume_and_show(tmp_path: Path) -> None:
    wanted = ("table2", "--scale", "nano", "--seeds", "1", "--workers", "1", "--out", tmp_path)
    first = call("study", *wanted, "--arm", "anchored")
    assert first.exit_code == 0, first.stderr
    assert "3 of 3 runs." in first.stdout
    before = {path: path.read_bytes() for path in tmp_path.glob("*.record.json")}
    assert len(before) == 3
    again = call("study", *wanted, "--figures", tmp_path / "figures")
    assert again.exit_code == 0, again.stderr
    assert "3 of 6 runs were there already" in again.stderr
    assert "24.13/.851" in again.stdout  # the paper's number beside ours
    assert {path: path.read_bytes() for path in before} == before
    assert "<svg" in (tmp_path / "figures" / "table2.svg").read_text()
    shown = call("study", *wanted, "--show")
    assert shown.stdout == again.stdout
    assert call("study", "figure7", "--scale", "nano", "--show", "--out", tmp_path).stdout.endswith(
        "Not run (10 runs).\n\n"
    )


def test_show_draws_nothing(tmp_path: Path) -> None:
    wanted = ("study", "figure10", "--scale", "nano", "--out", tmp_path)
    assert call(*wanted, "--show").stdout.rstrip().endswith("Not drawn.")
    assert not list(tmp_path.iterdir())
    drawn = call(*wanted)
    assert drawn.exit_code == 0, drawn.stderr
    assert "Digits 0 to 4, no anchors: of the 50 images" in drawn.stdout
    assert call(*wanted, "--show").stdout == drawn.stdout

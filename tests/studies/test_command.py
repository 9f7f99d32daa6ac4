"""`python -m studies`: what there is, what was run, and wrong input in one line."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from studies.__main__ import app, arguments
from studies.catalog import STUDIES

WRONG = [
    (("table17",), "unknown study 'table17'; did you mean 'table7'?"),
    (("figure44",), "unknown study 'figure44'; did you mean 'figure4'?"),
    (("table7", "--scale", "tiny"), "unknown scale 'tiny'; known: nano, mini, mini-hard, paper"),
    (("table7", "--arm", "our"), "no run has an arm 'our'; known: paper, paper+anchors, ours+discovered"),
    (("table7", "--seeds", "0"), "--seeds 0; use at least one world"),
    (("table7", "--workers", "0"), "--workers 0; use at least one"),
    (("table2", "--scale", "paper"), "table2 has no runs at scale paper: CLIP embeddings of ImageNet-1K are in no"),
    (("figure7", "--scale", "paper"), "figure7 has no runs at scale paper: Llama-3.1-8B is in no package registry"),
    (("figure7", "--arm", "plain"), "no run has an arm 'plain'; known: no remedy, resampling, AuxK"),
    (("fetch", "stories"), "unknown asset 'stories'; did you mean 'stories15m'?"),
    (("pages", "papers"), "unknown page 'papers'; known: "),
]


def call(*words: object) -> Any:
    """The command line in this process: exit_code, stdout, stderr."""
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
    return runner.invoke(app, arguments([str(word) for word in words]))


def test_a_bare_call_lists_the_studies() -> None:
    answer = call()
    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == list(STUDIES)


def test_help_names_the_commands() -> None:
    answer = call("--help")
    assert answer.exit_code == 0
    assert {"study", "fetch", "pages", "pack"} <= set(answer.stdout.split())


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value[:3]) if value else "")
def test_wrong_input_takes_one_line(words: tuple[str, ...], message: str) -> None:
    answer = call(*words)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_show_runs_nothing(tmp_path: Path) -> None:
    answer = call("table7", "--scale", "nano", "--show", "--out", tmp_path, "--figures", tmp_path / "figures")
    assert answer.exit_code == 0, answer.stderr
    assert "100/.999" in answer.stdout
    assert "not run" in answer.stdout
    assert "table7 has no figure, or no run to draw" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_real_rows_run_resume_and_show(tmp_path: Path) -> None:
    wanted = ("table2", "--scale", "nano", "--seeds", "1", "--workers", "1", "--out", tmp_path)
    first = call(*wanted, "--arm", "anchored")
    assert first.exit_code == 0, first.stderr
    assert "3 of 6 runs." in first.stdout
    before = {path: path.read_bytes() for path in tmp_path.glob("*.record.json")}
    assert len(before) == 3
    again = call(*wanted, "--figures", tmp_path / "figures")
    assert again.exit_code == 0, again.stderr
    assert "3 of 6 runs were there already" in again.stderr
    assert "24.13/.851" in again.stdout  # the paper's number beside ours
    assert {path: path.read_bytes() for path in before} == before
    assert "<svg" in (tmp_path / "figures" / "table2.svg").read_text()
    shown = call(*wanted, "--show")
    assert shown.stdout == again.stdout
    nothing = call("figure7", "--scale", "nano", "--show", "--out", tmp_path)
    assert "Not run (15 runs)." in nothing.stdout


def test_a_figure_of_its_own_numbers_runs_once_and_is_shown(tmp_path: Path) -> None:
    wanted = ("figure10", "--scale", "nano", "--out", tmp_path)
    assert "Not run (1 runs)." in call(*wanted, "--show").stdout
    assert not list(tmp_path.iterdir())
    ran = call(*wanted)
    assert ran.exit_code == 0, ran.stderr
    assert "Digits 0 to 4, no anchors: of the 50 images" in ran.stdout
    record = (tmp_path / "drawn" / "figure10.json").read_bytes()
    again = call(*wanted, "--figures", tmp_path)
    assert again.stdout == ran.stdout
    assert (tmp_path / "drawn" / "figure10.json").read_bytes() == record
    assert (tmp_path / "figure10.svg").read_text().startswith("<svg")
    other = ("figure10", "--scale", "mini", "--show", "--out", tmp_path)
    assert "Not run (1 runs)." in call(*other, "--fresh").stdout  # 2000 steps are another run than 200
    assert "1 of 1 runs." in call(*other).stdout  # the committed record has them

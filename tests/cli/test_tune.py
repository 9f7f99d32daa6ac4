"""`monosem tune`: what it trains, what it prints, and the command that follows."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from monosem.bench.tasks import TaskSource, task
from tests.cli.calls import call


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("tune") / "x.npy"
    np.save(path, TaskSource(task("lrb/nano")).take(torch.arange(400))[0].numpy())
    return path


def test_every_combination_is_scored_and_the_next_command_trains_the_best(rows: Path, tmp_path: Path) -> None:
    words = ("--method", "topk", "--n-q", 24, "--vary", "k=1,3", "--vary", "steps=5,20", "--batch-size", 64)
    ran = call("tune", "--data", rows, *words, "--json")
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert [(one["k"], one["steps"]) for one in said["trials"]] == [(1, 5), (1, 20), (3, 5), (3, 20)]
    least = min(said["trials"], key=lambda one: one["length"])
    assert said["best"] == {name: least[name] for name in ("k", "steps")}
    command = shlex.split(said["next"])
    assert command[:2] == ["monosem", "train"]
    assert command[command.index("--steps") + 1] == str(least["steps"])
    assert f"k={least['k']}" in command[command.index("--method") + 1]
    command[command.index("--out") + 1] = str(tmp_path / "run")
    assert call(*command[1:], "--quiet").exit_code == 0


def test_twins_add_agreement_and_the_table_shows_every_trial(rows: Path) -> None:
    words = ("--method", "topk(k=2)", "--n-q", 24, "--vary", "n_q=12,24", "--steps", 5, "--batch-size", 64)
    ran = call("tune", "--data", rows, *words, "--twins", "--by", "agreement")
    assert ran.exit_code == 0, ran.stderr
    assert "agreement" in ran.stdout
    assert "12" in ran.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--vary", "k"), "--vary 'k'; write a name and its values"),
        (("--vary", "k=1,,2"), "--vary 'k=1,,2'"),
        (("--vary", "k=1", "--by", "agreement"), "--by agreement; one of"),
        (("--vary", "kk=1,2"), "kk"),
    ],
)
def test_wrong_words_are_refused(rows: Path, words: tuple[str, ...], said: str) -> None:
    ran = call("tune", "--data", rows, "--method", "topk", "--n-q", 24, "--steps", 5, *words)
    assert ran.exit_code == 2
    assert said in ran.stderr

"""How the command line starts: what needs no torch loads none, completion and the configuration of a shell included."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.cli.app import COMMANDS, command
from tests.cli.calls import call, environment

LIGHT = """
import sys
from typer.testing import CliRunner
from monosem.cli.app import app

for words in ({words}):
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == {code}, (words, result.output, result.exception)
heavy = [name for name in ("torch", "numpy", "scipy", "matplotlib", "transformers", "pandas") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version", "--help", "list", "list tasks", "list --json", *(f"{name} --help" for name in COMMANDS)], 0),
        (["lsit", "--no-such-option", "train --no-such-option", "train --steps many", "list nothing"], 2),
    ],
)
def test_what_needs_no_torch_loads_none(words: list[str], code: int) -> None:
    program = LIGHT.format(words=", ".join(map(repr, words)), code=code)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False
    )
    assert ran.returncode == 0, ran.stderr


def _completed(line: str) -> list[str]:
    asked = {"_MONOSEM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    program = "import sys; from monosem.cli.app import app; app(prog_name='monosem')"
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment() | asked, check=False)
    return ran.stdout.split()


def test_a_shell_completes_commands_options_methods_and_tasks() -> None:
    assert _completed("monosem tr") == ["train"]
    assert "--method" in _completed("monosem train --me")
    assert "topk" in _completed("monosem train --method to")
    assert _completed("monosem bench --task lrb/na") == ["lrb/nano"]


def test_summaries_are_those_of_the_commands() -> None:
    for name, (_, summary) in COMMANDS.items():
        help_text = " ".join((command(name).help or "").split())
        first = re.split("[,:.]", summary)[0]
        assert help_text.startswith(first), (name, help_text)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    env = environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])}
    command = [sys.executable, "-m", "monosem", "list"]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 2
    assert ran.stderr == 'error: the command line needs typer; pip install "monosem[cli]"\n'


NARROW = [
    "list",
    "evaluate {sae} --task lrb/nano --rows 256",
    "describe {sae}",
    "check dead_latents --trials 2",
]


@pytest.mark.parametrize("words", NARROW)
def test_no_table_is_cut_at_60_columns(words: str, tmp_path: Path) -> None:
    from monosem import method, save_model

    sae = save_model(method("topk(k=2)").build(48, (16,), (16,))[0], tmp_path / "sae", {"method": "topk(k=2)"})
    narrow, wide = (call(*words.format(sae=sae).split(), columns=columns) for columns in (60, 200))
    assert narrow.exit_code == wide.exit_code == 0, narrow.output
    assert "…" not in narrow.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 60
    for token in set(wide.stdout.split()):
        if len(token) < 20 and not set(token) <= set("─ "):
            assert token in narrow.stdout.replace("\n", " "), token

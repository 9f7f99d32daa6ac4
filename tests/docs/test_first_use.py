"""The gate of first use sees what it must see, and leaves alone what is right."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("first_use", ROOT / ".ci/first_use.py")
assert SPEC is not None
assert SPEC.loader is not None
first_use = importlib.util.module_from_spec(SPEC)
sys.modules["first_use"] = first_use  # a dataclass looks its module up
SPEC.loader.exec_module(first_use)


@pytest.mark.parametrize(
    ("output", "status", "fault"),
    [
        ("done", 3, "exit status 3"),
        ("x\nTraceback (most recent call last):\n  File", 0, "a traceback"),
        ("torch.cuda.OutOfMemoryError: none left", 0, "a bare exception: torch.cuda.OutOfMemoryError: "),
        ("\x1b[1mValueError: no\x1b[0m", 0, "a bare exception: ValueError: "),
        ("│ " + 80 * "x" + " │", 0, "a table of 84 columns: │ xxx"),
        ("method   plain   " + 80 * "y", 0, "a table of 97 columns: method"),
        ("│ model.layers.5.mlp:in,o… │", 0, "a table that is cut: │ model"),
    ],
)
def test_faults(output: str, status: int, fault: str) -> None:
    assert any(one.startswith(fault) for one in first_use.faults(output, status))


@pytest.mark.parametrize(
    "output",
    [
        "error: --rows 0; it must be at least 1",  # a refusal is judged by its status
        "next: monosem train --data acts --method topk --n-q 2304 --out acts-sae   " + 40 * "x",
        40 * "a word ",
        "\x1b[32m│ " + 70 * "x" + " │\x1b[0m",
        "and so on …",
    ],
)
def test_what_is_right(output: str) -> None:
    assert first_use.faults(output, 0) == []


def test_a_command_has_a_terminal_of_80_columns(tmp_path: Path) -> None:
    output, status = first_use.on_a_terminal("stty size < /dev/stderr; test -t 1; exit 7", tmp_path, "/bin", 60)
    assert (output.strip(), status) == ("24 80", 7)


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    start = time.monotonic()
    output, status = first_use.on_a_terminal("echo begun; sleep 1000", tmp_path, "/bin", 0.5)
    assert (output.strip(), status) == ("begun", 124)
    assert time.monotonic() - start < 500


def test_requirements_follow_extras() -> None:
    """Bare: what the four name in turn, and nothing of an extra; of an extra only its own."""
    lines = ["numpy", "typer; extra == 'cli'", "scipy; extra == 'bench'", "monosem[cli]; extra == 'all'"]
    bare = first_use.requirements("monosem", lines, set())
    assert "numpy" in bare
    assert not bare & {"typer", "scipy", "monosem"}
    assert {"typer", "rich"} <= first_use.requirements("monosem", lines, {"all"})
    assert "scipy" not in first_use.requirements("monosem", lines, {"cli"})


def test_the_pages_hold_what_is_run() -> None:
    readme, walk = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/walkthrough.md"))
    assert "import monosem as ms" in first_use.block(readme, "In a notebook", "python")
    assert first_use.block(readme, "On a language model", "bash").count("monosem ") == 4
    lines = first_use.commands(walk)
    assert sum(line.startswith("monosem ") for line in lines) >= 6
    assert all(any(old in line for line in lines) for old in first_use.SMALLER)

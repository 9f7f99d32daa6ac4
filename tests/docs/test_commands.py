"""Every command that a page prints in a block is one that its program accepts: names, options, kinds of values."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.__main__ import app as benchmarks
from monosem.cli.app import command
from studies.__main__ import app as studies
from studies.__main__ import arguments
from studies.catalog import STUDIES
from tests.docs.pages import PAGES, ROOT

REFUSED = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def printed() -> list[str]:
    """The commands in the blocks of all pages, joined where a line goes on, without comments and prompts."""
    lines = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.text)
        lines += re.findall(
            r"^(?: {4}|\$ )?((?:monosem|python -m (?:studies|benchmarks)|make) .*[^.\n])$", text, re.MULTILINE
        )
    return sorted(set(lines))


def refusal(line: str) -> str:
    """Why a command is not one, or ""."""
    words = shlex.split(re.sub(r"\s+(?:#|&&|\||> ).*", "", line.replace("$", "")))
    if words[0] == "make":
        return "" if words[1] in TARGETS else f"no target {words[1]}"
    try:
        if words[0] == "monosem":
            _parse(command(words[1]), words[1:])
        elif words[2] == "studies":
            called = arguments(words[3:])
            names = _parse(typer.main.get_command(studies), ["studies", *called]).get("names") or ()
            return f"no study {names}" if called[0] == "study" and not {*names} <= {*STUDIES} else ""
        else:
            _parse(typer.main.get_command(benchmarks), words[2:])
    except (REFUSED, KeyError) as error:
        return str(error)
    return ""


def _parse(parser: Any, words: Sequence[str]) -> dict[str, Any]:
    """Read words as a command does, and do nothing: its values by name."""
    context = parser.make_context(words[0], list(words[1:]))
    rest = [*getattr(context, "_protected_args", ()), *context.args]
    if hasattr(parser, "commands"):
        name, sub, rest = parser.resolve_command(context, rest)
        return _parse(sub, [name, *rest])
    return dict(context.params)


@pytest.mark.parametrize("line", printed())
def test_a_printed_command_is_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('data = "X.npy"\nmethod = "topk(k=32)"\nn_q = 4096\n')
    assert refusal(line) == ""


def test_a_wrong_command_is_seen() -> None:
    assert refusal("monosem train --dada X.npy --out run")
    assert refusal("monosem trane --data X.npy")
    assert refusal("python -m studies table4 --scael paper")
    assert refusal("python -m studies table99")
    assert refusal("make nothing")

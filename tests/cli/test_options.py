"""One vocabulary: the options of all commands, their help, configurations, JSON and silence."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monosem.cli import app as every
from monosem.cli.console import RENAMED
from monosem.cli.options import COMMON
from tests.cli.calls import call


def _commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command."""
    for name in every.COMMANDS:
        command = every.command(name)
        for inner, part in getattr(command, "commands", {"": command}).items():
            yield (name, inner) if inner else (name,), part


COMMANDS = dict(_commands())
IDS = {" ".join(words): words for words in COMMANDS}


def _options(command: Any) -> dict[str, Any]:
    return {name: p for p in command.params if p.param_type_name == "option" for name in p.opts}


def test_one_thing_has_one_name() -> None:
    every = {name for command in COMMANDS.values() for name in _options(command)}
    assert not every & {"--model", "--store", "--at", "--to", "--batch", "--field"}
    for words in ("train", "inspect", "anchors discover", "anchors from-classes", "anchors score-classes"):
        assert {"--data", "--target", "--read", "--write", "--key"} <= set(_options(COMMANDS[IDS[words]]))
    for words in ("harvest", "evaluate", "steer", "inspect", "sample"):
        assert "--network" in _options(COMMANDS[IDS[words]])
    for words in ("evaluate", "steer", "inspect", "anchors score-classes", "convert", "describe"):
        first = next(p for p in COMMANDS[IDS[words]].params if p.param_type_name == "argument")
        assert first.metavar == "DICTIONARY"


@pytest.mark.parametrize(("command", "old"), [(name, old) for name, olds in RENAMED.items() for old in olds])
def test_an_old_option_names_the_new_one(command: str, old: str) -> None:
    words = next(words for words in COMMANDS if words[-1] == command)
    result = call(*words, old, "x")
    assert result.exit_code == 2
    assert result.stderr == f"error: {command} no longer takes {old}; it is {RENAMED[command][old]}\n"
    assert RENAMED[command][old] in _options(COMMANDS[words]) or "no option" in RENAMED[command][old]


@pytest.mark.parametrize("words", IDS)
def test_help_stands_alone(words: str) -> None:
    for parameter in COMMANDS[IDS[words]].params:
        text = parameter.help
        assert text, parameter.name
        assert text[0].isupper(), text
        assert text.endswith((".", "]")), text
        assert not text.startswith(("As ", "Of ", "Like ")), text
        assert len(text.split()) >= 3, text
    shown = call(*IDS[words], "--help").stdout
    assert "--help-all" in shown


@pytest.mark.parametrize("words", IDS)
def test_the_first_screen_is_short_and_help_all_is_whole(words: str) -> None:
    options = {name for name in _options(COMMANDS[IDS[words]]) if name.startswith("--")}
    first, every = (call(*IDS[words], flag).stdout for flag in ("--help", "--help-all"))
    assert sum(name in first for name in options) <= 18
    missing = [name for name in options if name not in every]
    assert not missing
    assert call(*IDS[words], "--help").stdout == first  # showing all has not changed what is hidden


def test_every_setting_of_a_fit_is_an_option_with_its_default() -> None:
    from dataclasses import fields

    from monosem.train.config import FitConfig

    params = {p.name: p for p in COMMANDS[("train",)].params}
    for one in fields(FitConfig):
        if one.name == "schedule":
            assert {"warmup", "decay", "floor"} <= set(params)
        elif one.name != "checkpoint_every":  # the command keeps more than the function does
            assert params[one.name].default == one.default


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32))
    return tmp_path / "x.npy"


def test_a_printed_configuration_makes_the_same_run(rows: Path) -> None:
    size = ("--data", rows, "--method", "topk(k=2)", "--n-q", 12, "--steps", 3, "--batch-size", 16, "--betas", 0.8, 0.9)
    plain = call("train", *size, "--out", rows.with_name("a"), "--json")
    printed = call("train", *size, "--out", rows.with_name("b"), "--print-config")
    assert printed.exit_code == 0
    assert not rows.with_name("b").exists()
    (rows.with_name("run.toml")).write_text(printed.stdout)
    assert tomllib.loads(printed.stdout)["betas"] == [0.8, 0.9]
    again = call("train", "--config", rows.with_name("run.toml"), "--json")
    assert again.exit_code == 0, again.stderr
    first, second = (json.loads(result.stdout) for result in (plain, again))
    assert {name: first[name] for name in ("fvu", "l0", "dead")} == {
        name: second[name] for name in ("fvu", "l0", "dead")
    }
    other = call("train", "--config", rows.with_name("run.toml"), "--print-config", "--steps", 7)
    assert tomllib.loads(other.stdout)["steps"] == 7  # what is given wins


@pytest.mark.parametrize("words", IDS)
def test_every_command_prints_a_configuration_without_being_given_anything(words: str) -> None:
    printed = call(*IDS[words], "--print-config")
    assert printed.exit_code == 0, printed.stderr
    names = {line.lstrip("# ").partition(" =")[0] for line in printed.stdout.splitlines() if " =" in line}
    assert set(tomllib.loads(printed.stdout)) <= names
    assert len(names) >= len([p for p in COMMANDS[IDS[words]].params if p.name not in COMMON])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_q = ", "is not readable TOML"),
        ("latents = 3", "train has no option 'latents'; it has data, target"),
        ("n_q = [3]", "n_q is a list; give one value"),
        ("[train]\nn_q = 3", "train is a table; write the options at the top"),
        ('n_q = "many"', "'--n-q': 'many' is no whole number"),
        ("method = 3", "cannot read '3'"),
    ],
)
def test_a_wrong_configuration_is_one_line(text: str, said: str, rows: Path) -> None:
    path = rows.with_name("c.toml")
    path.write_text(text)
    size = ("--data", rows, "--out", rows.with_name("o"))
    rest = () if "method" in text else ("--method", "topk(k=2)")
    rest += () if "n_q" in text else ("--n-q", "12")
    result = call("train", "--config", path, *size, *rest)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_quiet_says_nothing_but_the_result_and_errors(rows: Path) -> None:
    size = ("--data", rows, "--method", "topk(k=2)", "--n-q", 12, "--steps", 2, "--out", rows.with_name("o"))
    done = call("train", *size, "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "FVU" in done.stdout
    wrong = call("train", *size, "--quiet", "--method", "topkk")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: unknown method")


def test_the_page_of_options_is_that_of_the_commands() -> None:
    from studies.commands import PAGE, text

    assert PAGE.read_text(encoding="utf-8") == text(), "python -m studies pages commands writes it anew"

"""Wrong commands, hundreds of them, generated: each ends with exit code 2 and one line that names what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from monosem.cli.app import COMMANDS
from tests.cli.wrong import RECORD, Wrong, outcome, staged
from tests.wrong import PAGE, page

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Wrong]]:
    folder = tmp_path_factory.mktemp("wrong")
    return folder, staged(folder)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("share", ["a part", pytest.param("all", marks=pytest.mark.slow)])
def test_wrong_commands_are_refused_in_a_line(share: str, wrong: tuple[Path, list[Wrong]]) -> None:
    folder, commands = wrong
    ends = [(one, *outcome(folder, one)) for one in (commands[:100] if share == "a part" else commands)]
    assert [end for end in ends if end[1] != "refused"] == []


def test_the_record_counts_a_run_of_all(wrong: tuple[Path, list[Wrong]]) -> None:
    """The record is of every class of fault and every command of today, and none was not refused."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    _, commands = wrong
    assert {one.command.partition(" ")[0] for one in commands} == set(COMMANDS)
    assert record["outcomes"] == {"refused": record["commands"]}
    assert min(record["commands"], len(commands)) >= 200
    assert set(record["by_fault"]) == {one.fault for one in commands}
    assert set(record["by_command"]) == {one.command for one in commands}


def test_the_page_is_the_records() -> None:
    assert PAGE.read_text() == page()

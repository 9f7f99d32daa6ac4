"""Wrong commands, hundreds of them, generated: each ends with exit code 2 and one line that names what is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calls import call
from tests.cli.wrong import Wrong, product, stage

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
pytestmark = pytest.mark.slow  # some seconds on an idle machine
RECORD = Path(__file__).with_name("wrong.json")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Wrong]]:
    """The files, and every wrong command, after a right call of each."""
    folder = tmp_path_factory.mktemp("wrong")
    calls = stage(folder)
    for name, words in calls.items():
        if name in ("bench", "report"):  # these have tests of their own, and start processes
            continue
        right = call(*(word.format(x=folder) for word in words))
        assert right.exit_code == 0, (words, right.output)
    return folder, product(calls)


def _refused(folder: Path, one: Wrong) -> str:
    """ "" where a command is refused as it should be, else what is amiss."""
    result = call(*(word.format(x=folder) for word in one.words))
    lines = result.stderr.rstrip("\n").splitlines()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raw error: {one}: {result.exception!r}"
    if result.exit_code != 2 or [line for line in lines if line.startswith("error: ")] != lines[-1:]:
        return f"exit {result.exit_code}: {one}: {lines[-2:]}"
    names = [one.option.lstrip("-"), *re.split(r"[/:=.]", one.value.format(x=folder)), "empty word"]
    named = not one.option or any(name and name.replace("-", "_") in lines[-1].replace("-", "_") for name in names)
    return "" if named else f"the line names neither option nor value: {one}: {lines[-1]}"


def test_wrong_commands_are_refused_in_a_line(staged: tuple[Path, list[Wrong]]) -> None:
    folder, wrong = staged
    assert [amiss for one in wrong if (amiss := _refused(folder, one))] == []


def test_the_record_counts_a_run_of_all(staged: tuple[Path, list[Wrong]]) -> None:
    """The record names every class of fault and every command of today, and none that was not refused."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    _, wrong = staged
    assert record["outcomes"] == {"refused": record["commands"]}
    assert set(record["by_fault"]) == {one.fault for one in wrong}
    assert set(record["by_command"]) == {one.command for one in wrong}

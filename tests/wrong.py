"""docs/wrong.md: how wrong calls and wrong commands end, from the records of two generated products.

`python -m tests.wrong` runs both, writes their records, and the page.
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.cli import wrong as commands
from tests.front import wrong_calls as calls

PAGE = Path(__file__).parents[1] / "docs" / "wrong.md"
TEXT = """# What is wrong is said in a line

A wrong call in Python is one error of monosem's own, on one line, with the remedy; a wrong command is that line on
standard error and exit code 2. `python -m tests.wrong` tries it and writes this page; `tests/front/test_wrong_calls.py`
and `tests/cli/test_wrong.py` hold it.

## In Python

{calls:,} calls of {functions} public functions: each argument takes each wrong value in turn, which are {values}.
{raw} calls ended with an error of another kind. Some values are right where they stand: these were accepted.

| answer | calls |
|---|---|
{kinds}

## On the command line

{commands:,} commands: each option of each command with each fault that it can have. {refused:,} were refused with one
line that names the option or the value. By command: {each}.

| what is wrong | commands | what `monosem train` says |
|---|---|---|
{faults}
"""


def page() -> str:
    """The page, from the records."""
    ran, called = (json.loads(module.RECORD.read_text()) for module in (commands, calls))
    faults = (f"| {name} | {count} | {_said(ran, name)} |" for name, count in ran["by_fault"].items())
    return TEXT.format(
        calls=called["calls"],
        functions=called["functions"],
        values=", ".join(calls.WRONG),
        raw=called["answers"].get("raw", 0),
        kinds="\n".join(f"| {name} | {count:,} |" for name, count in called["answers"].items()),
        commands=ran["commands"],
        refused=ran["outcomes"].get("refused", 0),
        each=", ".join(f"`{name}` {count}" for name, count in ran["by_command"].items()),
        faults="\n".join(faults),
    )


def _said(ran: dict[str, Any], fault: str) -> str:
    line = ran["lines"].get(fault, "")
    return f"`{line.removeprefix('error: ')}`" if line else ""


if __name__ == "__main__":
    for module in (commands, calls):
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            record = module.recorded(Path(scratch))
        module.RECORD.write_text(json.dumps(record, indent=1) + "\n")
    PAGE.write_text(page())

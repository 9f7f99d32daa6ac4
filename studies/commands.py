"""docs/cli_options.md: every option of every command, from the commands themselves."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monosem.base import write_atomic
from monosem.cli import app
from monosem.cli.options import COMMON

PAGE = Path(__file__).parents[1] / "docs" / "cli_options.md"
_HEAD = """# Options of every command

Made from the commands by `python -m studies pages commands`. `--config`, `--print-config`, `--json`, `--quiet`,
`--help` and `--help-all` are those of all ([cli.md](cli.md)). Options in italics are shown by `--help-all` only.
"""


def text() -> str:
    """The page."""
    return "\n".join([_HEAD, *(line for name in app.COMMANDS for line in _command(name))])


def page() -> None:
    """Write the page."""
    write_atomic(PAGE, text().encode())


def _command(name: str) -> Iterator[str]:
    command = app.command(name)
    for inner, part in getattr(command, "commands", {"": command}).items():
        yield from (f"## monosem {name} {inner}".rstrip(), "")
        yield (part.help or "").partition("\n")[0]
        yield from ("", "| option | default | what |", "|---|---|---|")
        yield from (_row(parameter) for parameter in part.params if parameter.name not in COMMON)
        yield ""


def _row(parameter: Any) -> str:
    """One option: its name, its default, what it says."""
    option = parameter.param_type_name == "option"
    first = max(parameter.opts, key=len) if option else parameter.metavar or parameter.name
    name = "/".join([first, *parameter.secondary_opts])
    words = re.sub(r" ?\[default: (.*)\]$", "", parameter.help)
    said = re.search(r"\[default: (.*)\]$", parameter.help)
    default = said[1] if said else "required" if parameter.required else _default(parameter)
    shown = f"*`{name}`*" if getattr(parameter, "hidden", False) else f"`{name}`"
    return f"| {shown} | {default} | {words} |".replace("\n", " ")


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value == "":
        return ""
    return f"`{' '.join(map(str, value))}`" if isinstance(value, tuple) else "yes" if value is True else f"`{value}`"

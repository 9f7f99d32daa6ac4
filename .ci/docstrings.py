"""Docstrings as Markdown for the API pages: equations and examples as they stand, other sections with a bold name."""

import inspect
import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Equation|Shapes|Reduction|Source|Difference|Raises|Returns|Example|Examples):[ ]?(.*)$")
LANGUAGES = {"Equation": "text", "Shapes": "text", "Example": "pycon", "Examples": "pycon"}


def markdown(docstring: str) -> str:
    """A docstring's Markdown: a section ends where its indentation does.

    Example:
        >>> print(markdown("What it is.\\n\\nEquation: y = x[a][b]\\n    + 1\\nRaises: never."))
        What it is.
        <BLANKLINE>
        **Equation**
        <BLANKLINE>
        ```text
        y = x[a][b]
            + 1
        ```
        <BLANKLINE>
        **Raises** never.
    """
    parts, prose = [], list[str]()
    lines = inspect.cleandoc(docstring).splitlines()
    while lines:
        line = lines.pop(0)
        match = SECTION.match(line)
        if not match:
            prose.append(line)
            continue
        parts.append(_prose(prose))
        prose = []
        body = [match[2]] if match[2] else []
        while lines and (not lines[0].strip() or lines[0].startswith("    ")):
            body.append(lines.pop(0))
        parts.append(_section(match[1], body))
    return "\n\n".join(part for part in [*parts, _prose(prose)] if part)


def _prose(lines: list[str]) -> str:
    """Text; two pairs of brackets are no link."""
    return "\n".join(lines).strip().replace("][", r"]\[")


def _section(name: str, body: list[str]) -> str:
    text = "\n".join(body).rstrip()
    if name not in LANGUAGES:
        return f"**{name}** {_prose([inspect.cleandoc(text)])}"
    text = text if body and not body[0].startswith("    ") else inspect.cleandoc(text)
    return f"**{name}**\n\n```{LANGUAGES[name]}\n{text}\n```"


class Sections(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

"""The documentation as data: pages, code blocks, links and tables."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _plain(cell: str) -> str:
    return cell.replace("`", "").strip()


@dataclass(frozen=True)
class Table:
    """A table of a page: the words of its head, and its rows by their first cell."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """First cell -> the row, by the words of the head; without code marks."""
        return {_plain(line[0]): dict(zip(self.head, map(_plain, line), strict=True)) for line in self.lines}


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        """What it says."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """What it says outside code blocks."""
        fenced = re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)
        return re.sub(r"^(?: {4}.*\n)+", "", fenced, flags=re.MULTILINE)

    @cached_property
    def blocks(self) -> list[tuple[int, str]]:
        """Every block marked python: the line on which its code starts, and the code."""
        found = re.finditer(r"^```python\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        return [(self.text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]

    @cached_property
    def links(self) -> list[str]:
        """Targets of links and images that are not on the web."""
        targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", self.prose))
        return [target for target in targets if not re.match(r"[a-z]+:", target)]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link may point at inside the page."""
        return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", self.prose, flags=re.MULTILINE)}

    @cached_property
    def tables(self) -> list[Table]:
        """Its tables, in order."""
        runs = re.findall(r"(?:^\|.*\n)+", self.text + "\n", flags=re.MULTILINE)
        parts = [[tuple(_cells(line)) for line in run.splitlines()] for run in runs]
        return [Table(tuple(map(_plain, lines[0])), tuple(lines[2:])) for lines in parts]

    def table(self, first: str) -> dict[str, dict[str, str]]:
        """The rows of the one table whose first column is called `first`."""
        (table,) = [table for table in self.tables if table.head[0] == first]
        return table.rows


PAGES = [Page(path) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])]


def page(name: str) -> Page:
    """A page below docs/."""
    return Page(ROOT / "docs" / name)

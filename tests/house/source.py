"""A module as the house rules see it: its dotted name, its text and its syntax tree."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "monosem"
BESIDE = ("studies", "benchmarks")
"""Top-level packages that import the library and are never imported by it."""


@dataclass(frozen=True)
class Source:
    """One Python file."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @property
    def part(self) -> str:
        """Its layer's name: the first component below monosem, "" for `monosem/__init__.py`."""
        return self.name.partition(".")[2].partition(".")[0]

    def imports(self) -> Iterator[tuple[ast.stmt, str]]:
        """Every import anywhere in the file as (statement, absolute dotted name); `from a import b` gives a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from ((node, name) for name in self.imported(node))

    def imported(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        """The absolute dotted names that one import statement brings."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = node.module or ""
        if node.level:
            parents = self.name.split(".") + (["__init__"] if self.is_package else [])
            base = ".".join([*parents[: -node.level], *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]


def modules() -> list[Source]:
    """Every module of the library."""
    return [_read(path, PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]


def neighbours() -> list[Source]:
    """Every module of the packages that stand beside the library."""
    return [_read(path, ROOT / name) for name in BESIDE for path in sorted((ROOT / name).rglob("*.py"))]


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of a tree with its qualified name, methods and nested functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported at its top, through if, try, with and loops."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or _only_for_types(node):
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from top_level(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from top_level(handler.body)


def _only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _read(path: Path, package: Path) -> Source:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    return Source(".".join(parts[:-1] if is_package else parts), path.read_text(encoding="utf-8"), is_package)

"""Faces: what a user imports from, that every name is there, and that it costs nothing before it is used."""

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import monosem
from monosem.base.face import Face
from tests.docs.pages import PAGES, ROOT
from tests.house.source import PACKAGE, modules

FACES = [
    "monosem",
    *(f"monosem.{name}" for name in ("activations", "anchors", "base", "bench", "data", "dictionary", "inspect")),
    *(f"monosem.{name}" for name in ("interop", "networks", "report", "terms", "theory", "train")),
]

OUTSIDE = {
    ("studies", "monosem.cli"): "its command line is made of the same parts, and writes the pages of commands",
    ("benchmarks", "monosem.cli.console"): "its command line is made of the same parts",
    ("benchmarks", "monosem.kernels"): "it times single kernels",
    ("benchmarks", "monosem.train.update"): "it times the part of a step that updates weights",
    ("benchmarks", "monosem.train.loop"): "it leaves the checks of a step out, to time them",
    ("benchmarks", "monosem.core.model"): "it leaves the checks of a step out, to time them",
}
"""What users outside of the library import that no face shows, and why."""


@pytest.mark.parametrize("name", FACES)
def test_every_name_of_a_face_is_there(name: str) -> None:
    face = importlib.import_module(name)
    assert set(face.__all__) <= set(dir(face))
    for shown in face.__all__:
        assert getattr(face, shown) is not None


@pytest.mark.parametrize("name", [name for name in FACES if name != "monosem"])
def test_a_face_is_reached_from_the_top(name: str) -> None:
    part = name.partition(".")[2]
    assert part in dir(monosem)
    assert part == "inspect" or getattr(monosem, part) is importlib.import_module(name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        _ = monosem.fitt  # type: ignore[attr-defined]


def test_a_public_name_wins_over_a_module_of_the_same_name() -> None:
    networks = importlib.import_module("monosem.networks")
    harvest = importlib.import_module("monosem.networks.harvest")
    assert isinstance(networks, Face)
    assert isinstance(harvest, ModuleType)
    assert networks.harvest.__wrapped__ is harvest.harvest


def test_the_first_names_are_few() -> None:
    assert 40 <= len(monosem.__all__) <= 75, "what one starts with; the rest belongs into a face by idea"


def test_faces_that_are_lazy_show_what_type_checkers_see() -> None:
    lazy = {module.name for module in modules() if "show(__name__" in module.text and module.is_package}
    assert lazy <= set(FACES), f"{PACKAGE}: a face that no test looks at"


def _sources() -> Iterator[tuple[str, str]]:
    """(where, code) of everything that uses the library as its users do."""
    for folder in ("studies", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        yield f"examples/{path.name}", _cells(path)
    for page in PAGES:
        yield from ((page.name, code) for _, code in page.blocks)


def _cells(path: Path) -> str:
    return "\n".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
    )


def _imported(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_what_uses_the_library_imports_from_faces() -> None:
    public = {*FACES, "monosem.methods"}
    used, inner = set(), []
    for where, code in _sources():
        for module in (name for name in _imported(code) if name.startswith("monosem.") and name not in public):
            reasons = {
                key for key in OUTSIDE if where.startswith(f"{key[0]}/") and f"{module}.".startswith(f"{key[1]}.")
            }
            used |= reasons
            inner += [] if reasons else [f"{where}: {module}"]
    assert not inner, "import it from a face, or show it in one: " + "; ".join(inner)
    assert used == set(OUTSIDE), "an exception that nobody needs"

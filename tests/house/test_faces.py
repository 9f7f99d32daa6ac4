"""Faces: what a user imports from, that every name is there, and that it costs nothing before it is used."""

import importlib
from types import ModuleType

import pytest

import monosem
from monosem.base.face import Face
from tests.house.source import PACKAGE, modules

FACES = [
    "monosem",
    *(f"monosem.{name}" for name in ("activations", "anchors", "base", "bench", "data", "dictionary", "inspect")),
    *(f"monosem.{name}" for name in ("interop", "networks", "report", "terms", "theory", "train")),
]


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

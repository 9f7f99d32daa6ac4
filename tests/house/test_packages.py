"""What is installed: pyproject.toml, requirements.lock and the versions that other files name agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(pin.name): pin for pin in LOCK}
WANTED = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    )
    if not text.startswith("monosem[")
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_every_dependency_is_pinned_within_its_bounds(wanted: Requirement) -> None:
    pin = PINS[canonicalize_name(wanted.name)]
    (version,) = pin.specifier
    assert wanted.specifier.contains(version.version), f"{wanted} is locked at {version.version}; run `make lock`"
    if wanted.marker is not None:
        assert str(pin.marker) == str(wanted.marker)


def test_the_lock_fits_every_machine() -> None:
    """Exact versions without a build's own tag; no CUDA libraries, which a machine without a GPU does not need."""
    assert len(PINS) == len(LOCK)
    for pin in LOCK:
        (version,) = pin.specifier
        assert version.operator == "=="
        assert "+" not in version.version
        assert pin.url is None
        assert not pin.name.startswith(("nvidia-", "cuda-"))
    assert "setuptools" in PINS  # the project is built without fetching more


def test_versions_are_said_once() -> None:
    """The citation names the version that is built; only interpreters that run the suite are promised."""
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == PROJECT["version"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    required = re.findall(r'python: "([\d.]+)", may_fail: false', workflow)
    promised = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert promised == required

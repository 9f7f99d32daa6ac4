"""`import monosem` brings nothing; training brings torch, numpy, jaxtyping, safetensors and what those bring."""

import json
import subprocess
import sys

import pytest

from tests.house.rules import HEAVY
from tests.house.source import PACKAGE

ALLOWED = "import torch, numpy.random, jaxtyping, safetensors.torch, safetensors.numpy"


def _loaded(statement: str) -> set[str]:
    """The top-level packages outside the standard library in a fresh interpreter after `statement`."""
    program = f"import json, sys; {statement}; print(json.dumps([n.partition('.')[0] for n in sys.modules]))"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return {name for name in json.loads(answer.stdout) if name not in sys.stdlib_module_names}


@pytest.fixture(scope="module")
def allowed() -> set[str]:
    return _loaded(ALLOWED)


def test_the_import_alone_brings_nothing() -> None:
    assert _loaded("import monosem; monosem.__version__, dir(monosem)") == _loaded("pass") | {"monosem"}


def test_import_is_light(allowed: set[str]) -> None:
    loaded = _loaded("from monosem import fit, load, method, Anchors, FitConfig, TensorSource")
    assert "monosem" in loaded
    assert loaded - allowed - {"monosem"} == set()
    assert loaded & HEAVY == set()


def test_a_heavy_import_would_be_seen(allowed: set[str]) -> None:
    assert "scipy" in _loaded("import torch, scipy") - allowed

"""Docstrings as the site shows them, and links that leave docs/."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"


def _load(name: str, monkeypatch: pytest.MonkeyPatch, **stand_ins: types.ModuleType) -> types.ModuleType:
    """A script of .ci, whose packages live in an environment of their own."""
    for module, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, module.replace("__", "."), stand_in)
    spec = importlib.util.spec_from_file_location(f"ci_{name}", CI / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return _load("docstrings", monkeypatch, griffe=types.SimpleNamespace(Extension=object, Object=object))  # type: ignore[arg-type]


def test_an_equation_and_an_example_stay_as_they_are(sections: types.ModuleType) -> None:
    text = "What.\n\n    Equation: y = x[a][b]\n        + 1\n    Raises: never.\n\n"
    text += "    Example:\n        >>> 1\n        1\n    "
    wanted = "What.\n\n**Equation**\n\n```text\ny = x[a][b]\n    + 1\n```\n\n**Raises** never.\n\n**Example**\n\n"
    assert sections.markdown(text) == wanted + "```pycon\n>>> 1\n1\n```"


def test_two_pairs_of_brackets_are_no_link(sections: types.ModuleType) -> None:
    assert sections.markdown("Of x[a][b].") == r"Of x[a]\[b]."


def test_links_lead_to_pages_of_the_site_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    files = types.SimpleNamespace(File=object, Files=list)
    hooks = _load("site", monkeypatch, mkdocs=files, mkdocs__structure=files, mkdocs__structure__files=files)
    known = [types.SimpleNamespace(src_uri=uri) for uri in ("bench.md", "paper/README.md", "figures/a.svg")]

    def moved(text: str, source: str, place: str) -> str:
        result: str = hooks._moved(text, source, place, known)
        return result

    assert moved("[b](docs/bench.md#x) ![f](docs/figures/a.svg)", "README.md", "index.md") == (
        "[b](bench.md#x) ![f](figures/a.svg)"
    )
    assert moved("[paper](docs/paper/)", "README.md", "index.md") == "[paper](paper/README.md)"
    assert moved("[all](../BENCHMARKS.md)", "docs/bench.md", "bench.md") == "[all](BENCHMARKS.md)"
    assert moved("[up](../../README.md)", "docs/paper/README.md", "paper/README.md") == "[up](../index.md)"
    assert moved("see [`code`](../src/x.py)", "docs/bench.md", "bench.md") == "see `code`"
    assert moved("[w](https://x.y) [h](#h)", "docs/bench.md", "bench.md") == "[w](https://x.y) [h](#h)"
    assert moved("```\n[a](../src/x.py)\n```", "docs/bench.md", "bench.md") == "```\n[a](../src/x.py)\n```"

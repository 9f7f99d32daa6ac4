"""The notebooks run from top to bottom, without a download, and are what nbformat 4 asks for."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_five() -> None:
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.syspath_prepend(str(FOLDER))
    plt.switch_backend("agg")
    space: dict[str, Any] = {"__name__": "__notebook__"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            shown = _run("".join(cell["source"]), f"{path.name}, cell {number}", space)
            if hasattr(shown, "_repr_html_"):
                assert shown._repr_html_().startswith("<")


def _run(source: str, name: str, space: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that is an expression, is what a notebook would show."""
    head, _, last = source.rstrip().rpartition("\n")
    try:
        code = compile(last, name, "eval")
    except SyntaxError:
        exec(compile(source, name, "exec"), space)
        return None
    exec(compile(head, name, "exec"), space)
    return eval(code, space)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_nbformat_4_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None

"""The progress bar: in a cell, by rich, plainly without it, or not at all; it changes no bit."""

import builtins
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import monosem as ms
from monosem.core.pairs import TensorSource
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from monosem.train.progress import in_notebook
from monosem.train.result import Result
from tests.train.scenes import rows

CONFIG = FitConfig(20, 16, 1e-2, log_every=5)


def call(progress: bool, out: Path | None = None) -> Result:
    return fit("topk(k=2)", TensorSource(rows(75, 10)), 24, CONFIG, progress=progress, out=out)


@pytest.fixture
def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)


def same(a: Result, b: Result) -> bool:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return a.log == b.log and all(torch.equal(p, q) for p, q in pairs)


def test_rich_draws_every_figure_and_changes_no_bit(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = call(True)
    out, drawn = capsys.readouterr()
    assert out == ""  # what a program prints is its own
    assert "20/20" in drawn
    for word in ("topk", "loss", "FVU", "L0", "dead", "tok"):
        assert word in drawn
    assert same(shown, call(False))
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("no_rich")
def test_without_rich_a_line_is_drawn_and_no_bit_changes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = call(True)
    out, drawn = capsys.readouterr()
    assert out == ""
    lines = drawn.strip().split("\r")
    assert all(f"{step}/20" in line for step, line in zip((1, 5, 10, 15, 20), lines, strict=True))
    assert drawn.endswith("\n")
    last = shown.log[-1]
    figures = (f"loss {last['loss']:.4g}", f"FVU {last['fvu']:.3f}", f"L0 {last['l0']:.1f}", f"dead {last['dead']:.0%}")
    assert all(figure in lines[-1] for figure in figures)
    assert same(shown, call(False))


def test_a_finished_run_draws_its_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call(False, tmp_path)
    call(True, tmp_path)
    assert "20/20" in capsys.readouterr().err


class _Html:
    """What IPython's HTML is, to those that look at it."""

    def __init__(self, data: str) -> None:
        self.data = data


class _Cell:
    """What IPython's display hands out: everything that was shown in one place."""

    def __init__(self, first: _Html) -> None:
        self.shown = [first.data]

    def update(self, page: _Html) -> None:
        self.shown.append(page.data)


def test_a_notebook_needs_no_package_for_its_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells: list[_Cell] = []

    def display(page: _Html, *, display_id: bool) -> _Cell:
        assert display_id
        cells.append(_Cell(page))
        return cells[-1]

    shell = {"get_ipython": lambda: SimpleNamespace(kernel=None)}
    for name, parts in {"IPython": shell, "IPython.display": {"HTML": _Html, "display": display}}.items():
        module = ModuleType(name)
        module.__dict__.update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("rich", "ipywidgets"):
        monkeypatch.setitem(sys.modules, name, None)
    shown = ms.fit("topk(k=2)", rows(75, 10), 24, steps=20, batch_size=16, lr=1e-2, log_every=5)  # a notebook's default
    bars = [re.search(r'<progress value="(\d+)" max="20">', page) for page in cells[0].shown]
    assert [int(bar[1]) for bar in bars if bar] == [0, 1, 5, 10, 15, 20]
    assert f"FVU {shown.log[-1]['fvu']:.3f}" in cells[0].shown[-1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_a_process_that_only_imported_a_kernel_is_no_notebook(shell: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()


NOTEBOOK = """
import torch, monosem as ms
sae = ms.fit("topk(k=2)", torch.eye(8).repeat(8, 1), n_q=16, steps=20, batch_size=8)
sae
---
ms.inspect(sae, torch.eye(8))
---
ms.fit("topkk", torch.eye(8), n_q=16)
"""


def test_a_real_kernel_shows_bar_card_page_and_error() -> None:
    client, written = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("ipykernel is not installed")
    notebook = written.v4.new_notebook(cells=[written.v4.new_code_cell(part) for part in NOTEBOOK.split("---\n")])
    client.NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    trained, page, refused = ([dict(output) for output in cell["outputs"]] for cell in notebook["cells"])
    html = [output["data"]["text/html"] for output in trained if "data" in output]
    assert '<progress value="20" max="20">' in html[0]
    assert html[-1].count("<svg") == 3
    assert not [output for output in trained if output["output_type"] == "stream"]
    assert page[0]["data"]["text/html"].startswith("<iframe srcdoc=")
    assert (refused[0]["ename"], refused[0]["evalue"]) == (
        "UnknownNameError",
        "unknown method 'topkk'; did you mean 'topk'?",
    )

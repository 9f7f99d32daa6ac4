"""The progress bar: drawn by rich, or plainly without it, or not at all; it changes no bit."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.core.pairs import TensorSource
from monosem.train.config import FitConfig
from monosem.train.loop import fit
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

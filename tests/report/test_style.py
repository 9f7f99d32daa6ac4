"""Figures: a heading of their own where the panels have none, above everything that is drawn."""

import re
from pathlib import Path

from monosem.report import panels, tidy, write_figure


def _written(folder: Path, title: str) -> str:
    figure, grid = panels(4)
    assert len(grid) == len(figure.axes) == 4
    tidy(grid[0], "x", "y", title, legend=False)
    return write_figure(folder / "a.svg", figure, "What rises & falls with x").read_text()


def test_a_figure_without_a_sentence_gets_its_label_as_heading(tmp_path: Path) -> None:
    plain, headed = _written(tmp_path, "It rises with x, always"), _written(tmp_path, "topk")
    assert ">What rises &amp; falls with x</text>" in headed
    assert ">What rises" not in plain
    above = re.search(r'viewBox="0 (-[0-9.]+) ([0-9.]+) ([0-9.]+)"', headed)
    assert above is not None
    height = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', plain)
    assert height is not None
    assert float(above[3]) + float(above[1]) == float(height[2])  # the room above is the heading's, the rest as it was

"""A live step beside a store's: both train, in turns, and the page has their ratios."""

from pathlib import Path

import pytest

from benchmarks import live
from benchmarks.sizes import Size
from monosem.base.files import write_atomic


def test_both_take_turns_and_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BATCHES", 4)
    lines: list[str] = []
    size = Size("small", n_p=8, n_q=32, k=2, batch=16)
    record = live.run([size], [0.5], 3, lines.append)
    case = record["sizes"]["small"]["0.5"]
    assert [len(times) for kind in case["seconds"].values() for times in kind.values()] == [3] * 4
    assert all(seconds > 0 for times in case["seconds"]["wall"].values() for seconds in times)
    assert case["live / store"]["wall"]["low"] <= case["live / store"]["wall"]["median"]
    assert lines == [f"small, a wait of 0.5 steps: {live.line(case)}"]
    page = write_atomic(tmp_path / "page.md", b"<!-- begin live speed -->\n<!-- end live speed -->\n")
    live.write_page(record, page)
    assert "| 256 x 4096 | 0.5 |" in page.read_text()


def test_a_failing_fit_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BATCHES", 4)
    with pytest.raises(ValueError, match="k=9 is larger than n_q=4"):
        live.run([Size("small", n_p=8, n_q=4, k=9, batch=16)], [0.5], 1, print)

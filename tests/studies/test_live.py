"""The study of a live run's memory, but for the run: a call that is killed and one that ends, and its table."""

import json
import os
from pathlib import Path

import pytest

from studies import live


def test_the_last_whole_line_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert live._step(log) == 0
    log.write_text('{"step": 5}\n{"step": 10}\n{"st')
    assert live._step(log) == 10


def test_memory_is_that_of_a_process() -> None:
    assert min(live._resident(os.getpid())) > 5
    assert live._resident(2**22 + 1) == (0, 0)


def test_a_call_is_killed_at_its_step_or_says_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL", 0.02)
    (tmp_path / "log.jsonl").write_text('{"step": 7}\n')
    endless = live._run(["-c", "import time; time.sleep(60)"], tmp_path, 7, float("inf"))
    assert (endless["said"], endless["last"], endless["seconds"] < 30) == (None, 7, True)
    ended = live._run(["-c", 'print("{}")'], tmp_path, None, float("inf"))
    assert ended["said"] == json.loads("{}")
    with pytest.raises(SystemExit):
        live._run(["-c", "raise SystemExit(3)"], tmp_path, None, float("inf"))


def test_a_tenth_shows_its_largest_memory_by_call() -> None:
    calls = [{"samples": [(0, 9000, 1), (10, 100, 20), (20, 300, 10)]}, {"samples": [(15, 50, 5), (25, 400, 5)]}]
    text = live._table({"options": {"batch": 8, "tokens": 1600}, "calls": calls})
    assert [line for line in text.splitlines() if "0" in line] == [
        "| 0 to 160 | 300 | 20 | 1 |",
        "| 0 to 120 | 50 | 5 | 2 |",
        "| 160 to 200 | 400 | 5 | 2 |",
    ]

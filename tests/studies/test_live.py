"""The study of a live run's memory, but for the run: what it reads of a log, and its table."""

import os
from pathlib import Path

from studies import live


def test_the_last_whole_line_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert live._step(log) == 0
    log.write_text('{"step": 5}\n{"step": 10}\n{"st')
    assert live._step(log) == 10


def test_memory_is_that_of_a_process() -> None:
    own = live._resident(os.getpid())
    assert own is not None
    assert own > 20
    assert live._resident(2**22 + 1) is None


def test_a_tenth_shows_its_largest_memory_by_call() -> None:
    killed = {"samples": [(0, 9e3), (10, 100.0), (20, 300.0), (15, 200.0)]}
    resumed = {"samples": [(15, 50.0), (25, 400.0)]}
    text = live._table({"options": {"batch": 8, "tokens": 1600}, "killed": killed, "resumed": resumed})
    assert [line for line in text.splitlines() if "0" in line] == [
        "| 0 to 160 | 300 | killed |",
        "| 0 to 120 | 50 | resumed |",
        "| 160 to 200 | 400 | resumed |",
    ]

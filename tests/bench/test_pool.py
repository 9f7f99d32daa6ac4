"""The pool: every job's end is heard, whatever happens to the others."""

import os
import signal
from contextlib import closing

import pytest

from monosem.base.errors import DataError
from monosem.bench.pool import Event, run_all


def _job(item: str, told: object) -> str:
    assert callable(told)
    told(1)
    if item == "raise":
        raise DataError("row 3 holds NaN")
    if item == "bug":
        return {}["absent"]
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "stay":
        signal.pause()
    return item


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_or_dies_takes_no_other_with_it(workers: int) -> None:
    items = ["a", "die", "b", "raise", "c", "bug", "d"]
    events = list(run_all(_job, items, workers))
    ends = {event.job: event for event in events if event.kind in ("done", "error")}
    assert sorted(ends) == list(range(len(items)))
    assert {j for j, event in ends.items() if event.kind == "error"} == {1, 3, 5}
    assert all(ends[j].kind == "done" for j in (0, 2, 4, 6))
    assert ends[3].value == "row 3 holds NaN"
    assert "signal 9" in ends[1].value
    assert "KeyError" in ends[5].value
    assert "test_pool.py:" in ends[5].value
    assert [event.job for event in events if event.kind == "start"] == list(range(len(items)))
    assert Event("step", 0, 1) in events


def test_no_items_no_processes() -> None:
    assert list(run_all(_job, [], 2)) == []


def test_who_stops_listening_ends_the_processes() -> None:
    import multiprocessing

    with closing(run_all(_job, ["stay", "stay"], 2)) as events:
        steps = 0
        for event in events:
            steps += event.kind == "step"
            if steps == 2:
                break
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []

"""The tables and the figure of a speed record say what the record holds."""

import re
from typing import Any

import pytest

from benchmarks.figure import speed_figure
from benchmarks.floor import PIECES
from benchmarks.report import GOALS, speed_page
from benchmarks.sizes import CASES, SIZES
from monosem.report.style import to_svg


def _turns(ratio: float, states: tuple[str, ...], threads: tuple[int, ...] = (1,)) -> list[dict[str, Any]]:
    """Three rounds of turns at ratio times 1, 1.1 and 0.9; two threads halve products but not steps."""
    return [
        {
            "state": state,
            "round": number,
            "threads": t,
            "product": [[0.2, 0.2 / t]] * 2,
            "steps": [[0.2 * ratio * factor, 0.2 * ratio * factor]] * 3,
            "facts": {"l0": 32.0, "dead": 0.9375 if state == "dead" else 0.0},
        }
        for state in states
        for number, factor in enumerate((1.0, 1.1, 0.9))
        for t in threads
    ]


def _contender(ratio: float, states: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"turns": _turns(ratio, states, **more), "memory_mb": 420.0, "version": "1.0"}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    cases: dict[str, Any] = {
        name: {"monosem": _contender(1.4, case.states, threads=(1, 2))} for name, case in CASES.items()
    }
    cases["topk"] |= {"saelens": _contender(14.0, ("trained",)), "sparsify": _contender(4.2, ("trained",))}
    cases["topk"]["overcomplete"] = {"turns": [], "error": "ImportError: no"}
    cases["jumprelu_dense"]["saelens"] = _contender(28.0, ("trained",))
    floor = _turns(1.0, ("floor",))
    for turn in floor:
        turn["facts"] = {name + end: 10.0 for name in PIECES for end in ("", "_wall")}
    size = SIZES["paper"]
    curve = [{"value": 2**i, "turns": _turns(2.0**i, ("trained",))} for i in range(1, 5)]
    return {
        "command": "python -m benchmarks speed",
        "minutes": 12.0,
        "created": "2026-11-22T20:00:00+00:00",
        "env": {"cpu": "A CPU", "torch": "2.13", "numpy": "2", "python": "3.11", "commit": "0123456789abcdef+dirty"},
        "cores": 2,
        "load": [[0.1, 0, 0], [1.0, 0, 0]],
        "options": {"threads": [1, 2], "rounds": 3, "peer_rounds": 3},
        "sizes": {
            "paper": {
                "shape": {"n_p": size.n_p, "n_q": size.n_q, "k": size.k, "batch": size.batch},
                "floor": {"turns": floor},
                "cases": cases,
            }
        },
        "curves": {"n_q": curve},
        "sweep": {"task": "lrb/mini", "steps": 9, "jobs": 6, "seconds": {"1": 20.0, "2": 10.0}, "equal": True},
    }


def _rows(page: str, start: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith(f"| {start}")]


def test_the_page_puts_each_case_beside_its_goal(record: dict[str, Any]) -> None:
    page = speed_page(record, "x.svg")
    (topk,) = _rows(page, "TopK | `topk`")
    assert topk[2:6] == ["1.45 / 1.25", "1.40 (1.33-1.47)", "must", "1.40 (1.33-1.47)"]
    assert topk[6:] == ["eai-sparsify 4.2 (4.0-4.4)", "3.0 (3.0-3.0)"]
    rows = {row[1]: row for goal in GOALS for row in _rows(page, goal)}
    assert rows["`jumprelu`"][6] == "sae-lens 28.0 (26.6-29.4)"  # timed once, dense
    assert rows["`jumprelu_dense`"][4] == "stretch"
    assert set(rows) == {f"`{name}`" for name, case in CASES.items() if case.row}
    assert "misses its goal" not in page


def test_a_missed_goal_shows_where_the_time_goes(record: dict[str, Any]) -> None:
    slow = _contender(1.46, ("trained", "dead")) | {"profile": [("mm", 200.0), ("adam", 50.0)]}
    paper = record["sizes"]["paper"]
    changed = record | {"sizes": {"paper": paper | {"cases": {"topk": {"monosem": slow}}}}}
    assert "`topk` misses its goal. Own time by call, ms a step (one product: 200): `mm` 200, `adam` 50." in speed_page(
        changed
    )


def test_a_failure_two_threads_growth_and_sweep_are_told(record: dict[str, Any]) -> None:
    page = speed_page(record)
    assert "failed: ImportError: no" in page
    assert "![" not in page
    method = _rows(page, "`topk(k=32, aux=0.0)` | trained")[0]
    assert method[6:8] == ["420", f"{420 / 393.216:.2f}"]
    assert method[-1] == "0.50 (0.50-0.50)"  # the product doubled its speed, the step did not
    assert _rows(page, "n_q")[0][2] == "1.00 ± 0.00"
    assert "0123456789ab+dirty" in page
    assert "2.00 times as fast" in page
    assert "with the same bits as" in page
    assert "Fresh rows are 3.6% of a TopK step" in page
    assert page.count("\n### ") == 4


def test_the_figure_shows_every_library_once(record: dict[str, Any]) -> None:
    svg = to_svg(speed_figure(record), "speed")
    for name in ("monosem", "sae-lens", "eai-sparsify"):
        assert len(re.findall(rf">{name}<", svg)) == 1
    assert svg == to_svg(speed_figure(record), "speed")
    assert "n_q: 1.00" in svg

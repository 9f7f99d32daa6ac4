"""monosem speed: what it asks for, what it says, and wrong input in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import drive
from tests.cli.calls import call

ARGUMENTS = [
    (("--sizes", "big"), "--sizes 'big': big is not known; choose from small, paper, large"),
    (("--cases", "topk,topkk"), "topkk is not known; choose from topk, batch_topk"),
    (("--threads", "1,x"), "--threads '1,x'; give whole numbers from 1 on, separated by commas, as 1,2"),
    (("--rounds", "0"), "--rounds 0, --warm None; both must be at least 1"),
    (("--peers", "absent"), "--peers absent holds no side environment"),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=lambda value: str(value[0]) if value else "")
def test_wrong_input_takes_one_line(arguments: tuple[str, ...], message: str) -> None:
    answer = call("speed", *arguments)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def _record(options: drive.Options, error: str = "") -> dict[str, Any]:
    spans = {"product": [[0.1, 0.1]], "steps": [[0.15, 0.2]]}
    turn = {"state": "trained", "round": 0, "threads": 1, "facts": {"l0": 16.0, "dead": 0.25}, **spans}
    case: dict[str, Any] = {"monosem": {"turns": [turn], "memory_mb": 50.0}}
    if error:
        case["sparsify"] = {"turns": [], "error": error}
    size = {"shape": {"n_p": 1, "n_q": 2, "k": 3, "batch": 4}, "floor": {"turns": []}, "cases": {"topk": case}}
    return {"options": {"threads": list(options.threads)}, "sizes": {"small": size}, "minutes": 0.1}


def test_a_quick_look_prints_a_table_and_writes_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[drive.Options] = []

    def measure(options: drive.Options, command: str, tell: Any) -> dict[str, Any]:
        asked.append(options)
        return _record(options)

    monkeypatch.setattr(drive, "measure", measure)
    path = tmp_path / "speed.json"
    answer = call("speed", "--quick", "--record", path)
    assert answer.exit_code == 0, answer.stderr
    assert "1.50 ± 0.00" in answer.stdout
    assert asked[0].sizes == ("small",)
    assert (asked[0].rounds, asked[0].warm) == (3, 50)
    assert json.loads(path.read_text())["minutes"] == 0.1


def test_a_contender_that_failed_is_named_and_the_record_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(drive, "measure", lambda options, command, tell: _record(options, "ImportError: no"))
    answer = call("speed", "--record", tmp_path / "speed.json")
    assert answer.exit_code == 1
    assert "small topk sparsify: ImportError: no" in answer.stderr
    assert (tmp_path / "speed.json").is_file()

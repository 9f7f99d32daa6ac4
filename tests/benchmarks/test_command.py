"""python -m benchmarks: what it asks for, what it prints, and wrong input in one line."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import monosem.train.loop as loop
from benchmarks import __main__ as command
from benchmarks import containers, driver, pairs, phases
from benchmarks.__main__ import app

ARGUMENTS = [
    (("speed", "--sizes", "big"), "--sizes 'big': big is not known; choose from small, paper, large"),
    (("speed", "--cases", "topk,topkk"), "topkk is not known; choose from topk, batch_topk"),
    (("speed", "--threads", "1,x"), "--threads '1,x'; give whole numbers from 1 on, separated by commas, as 1,2"),
    (("speed", "--rounds", "0"), "--rounds 0; it must be at least 1"),
    (("speed", "--peers", "absent"), "--peers absent holds no side environment"),
    (("pairs", "--before", "absent"), "--before absent has no src/monosem; give the root of a checkout"),
    (("pairs", "--before", ".", "--pairs", "0"), "--pairs 0; it must be at least 1"),
    (("pairs", "--before", ".", "--size", "big"), "--size 'big': big is not known"),
    (("phases", "--cases", "none"), "--cases 'none': none is not known"),
    (("containers", "--rows", "0"), "--rows 0; it must be at least 1"),
    (("checks", "--pairs", "0"), "--pairs 0; it must be at least 1"),
    (("imports", "--rounds", "0"), "--rounds 0; it must be at least 1"),
    (("start", "--rounds", "0"), "--rounds 0; it must be at least 1"),
]


def call(*arguments: object) -> Any:
    """The command line in this process: exit_code, stdout, stderr."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=lambda value: " ".join(value)[:40])
def test_wrong_input_takes_one_line(arguments: tuple[str, ...], message: str) -> None:
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def _record(options: driver.Options, error: str = "") -> dict[str, Any]:
    spans = {"product": [[0.1, 0.1]], "steps": [[0.15, 0.2]]}
    turn = {"state": "trained", "round": 0, "threads": 1, "facts": {"l0": 16.0, "dead": 0.25}, **spans}
    case: dict[str, Any] = {"monosem": {"turns": [turn], "memory_mb": 50.0}}
    if error:
        case["sparsify"] = {"turns": [], "error": error}
    size = {"shape": {"n_p": 1, "n_q": 2, "k": 3, "batch": 4}, "floor": {"turns": []}, "cases": {"topk": case}}
    env = {"cpu": "A CPU", "torch": "2", "numpy": "2", "python": "3", "commit": None}
    return {
        "options": {"threads": list(options.threads), "rounds": 3, "peer_rounds": 3},
        "sizes": {"small": size},
        "minutes": 0.1,
        "env": env,
        "load": [[0.1], [0.2]],
        "cores": 2,
        "created": "2026-11-22T20:00:00+00:00",
        "command": "speed",
        "curves": {},
        "sweep": {},
    }


def test_a_quick_look_prints_a_table_and_writes_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[driver.Options] = []

    def measure(options: driver.Options, command: str, progress: Any) -> dict[str, Any]:
        asked.append(options)
        return _record(options)

    monkeypatch.setattr(driver, "measure", measure)
    path = tmp_path / "speed.json"
    answer = call("speed", "--quick", "--record", path)
    assert answer.exit_code == 0, answer.stderr
    assert "1.50 (1.50-1.50)" in answer.stdout
    assert asked[0].sizes == ("small",)
    assert (asked[0].rounds, asked[0].warm) == (3, 50)
    assert json.loads(path.read_text())["minutes"] == 0.1


def test_a_contender_that_failed_is_named_and_the_record_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(driver, "measure", lambda options, command, progress: _record(options, "ImportError: no"))
    answer = call("speed", "--record", tmp_path / "speed.json")
    assert answer.exit_code == 1
    assert "small topk sparsify: ImportError: no" in answer.stderr
    assert (tmp_path / "speed.json").is_file()


def test_certified_pairs_ask_for_both_forms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[pairs.Options] = []

    def compare(options: pairs.Options, command: str, progress: Any, path: Path) -> dict[str, Any]:
        asked.append(options)
        return {"cases": {}}

    monkeypatch.setattr(pairs, "compare", compare)
    path = tmp_path / "pairs.json"
    answer = call("pairs", "--before", "there", "--cases", "topk,gated", "--certified", "--record", path)
    assert answer.exit_code == 0, answer.stderr
    assert asked[0].cases == ("topk", "gated", "topk_bf16")
    assert json.loads(path.read_text())["cases"] == {}


def test_containers_are_read_back_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "containers.json"
    answer = call("containers", "--rows", 640, "--width", 3, "--batch", 16, "--rounds", 2, "--record", path)
    assert answer.exit_code == 0, answer.stderr
    record = json.loads(path.read_text())
    assert "npy shards, mapped (ours)" in record["milliseconds"]
    assert len(record["milliseconds"]) + len(record["absent"]) == len(containers.CONTAINERS)
    assert {"command", "created", "env"} <= set(record)
    wrong = {"wrong": lambda folder, rows: lambda index: np.zeros((index.size, rows.shape[1]), rows.dtype)}
    monkeypatch.setattr(containers, "CONTAINERS", wrong)
    assert "wrong gave other rows" in call("containers", "--rows", 640, "--record", path).stderr


def test_phases_name_the_case_that_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(phases.sys, "executable", "false")
    answer = call("phases", "--cases", "topk", "--record", tmp_path / "phases.json")
    assert answer.exit_code == 2
    assert "topk: its process died" in answer.stderr
    assert not (tmp_path / "phases.json").exists()


def test_checks_that_cost_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that takes longer than the step without it; what was measured is left as it was."""

    def slow(*_: object) -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    monkeypatch.setattr(loop, "check_loss", slow)
    answer = call("checks", "--size", "small", "--cases", "topk", "--pairs", 3, "--record", tmp_path / "checks.json")
    assert answer.exit_code == 0, answer.output
    case = json.loads((tmp_path / "checks.json").read_text())["cases"]["topk"]
    assert case["ms"]["with"] - case["ms"]["without"] > 100
    assert case["inside"]["median"] > 0.3
    assert loop.check_loss is slow


def test_checks_cost_at_most_a_hundredth_of_a_step() -> None:
    """What is recorded at the paper's size, and printed."""
    record = json.loads((command.RECORDS / "checks.json").read_text())
    page = (command.HERE.parent / "docs/trust.md").read_text()
    assert record["size"] == "paper"
    for name, case in record["cases"].items():
        assert case["inside"]["high"] <= 0.01, name
        assert f"{case['inside']['median']:.2%} of a step of `{name}`".replace("%", " %") in page


def test_pages_come_from_the_records_as_they_are() -> None:
    root = command.HERE.parent
    paths = [root / "BENCHMARKS.md", root / "docs/speed_phases.md", root / "docs/figures/speed.svg"]
    before = [path.read_bytes() for path in paths]
    assert call("pages").exit_code == 0
    after = [path.read_bytes() for path in paths]
    for path, old in zip(paths, before, strict=True):
        path.write_bytes(old)
    assert after == before, "run: python -m benchmarks pages"


def test_start_measures_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_CALLS", ("--version",))
    answer = call("start", "--rounds", 1, "--record", tmp_path / "start.json")
    assert answer.exit_code == 0, answer.output
    seconds = json.loads((tmp_path / "start.json").read_text())["cpu_seconds"]
    assert set(seconds) == {"python -c pass", "monosem --version"}
    assert seconds["monosem --version"] > seconds["python -c pass"] > 0


def test_the_record_of_starting_is_what_the_page_prints() -> None:
    seconds = json.loads((command.RECORDS / "start.json").read_text())["cpu_seconds"]
    page = (command.HERE.parent / "docs" / "cli.md").read_text()
    for name in ("monosem --version", "monosem --help"):
        assert seconds[name] <= 0.3
        assert f"{seconds[name]:.2f} s" in page

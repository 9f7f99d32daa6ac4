"""The speed benchmark: what a turn is, what states are, and what is made of the numbers."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import contender, driver, ours
from benchmarks.contender import Beat, Enough
from benchmarks.driver import Process, sweep
from benchmarks.floor import PIECES, pieces
from benchmarks.libraries import PEERS, environments
from benchmarks.sizes import CASES, QUICK, SIZES, Size
from benchmarks.summary import CPU, WALL, exponent, over_ours, ratios, scaling, spread
from monosem.base.errors import MonosemError
from monosem.core.activations import AdaptiveK, FeatureChoice, GroupMax, MinFire
from monosem.methods import METHODS, method

TINY = Size("tiny", n_p=32, n_q=256, k=4, batch=64, features=400, turn=2)
SHAPES = {"n_p": 16, "n_q": 64, "k": 4, "batch": 64, "features": 24, "turn": 2}


def _beat(*commands: dict[str, Any]) -> tuple[Beat, io.StringIO]:
    answers = io.StringIO()
    lines = io.StringIO("".join(json.dumps(c) + "\n" for c in commands))
    return Beat(TINY, lines.readline, answers.write), answers


def _said(answers: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole collection before each run takes longer than the run, after thousands of tests."""
    monkeypatch.setattr(contender.gc, "collect", lambda: 0)


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_turn_times_each_step_from_beat_to_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("benchmarks.contender.clock", lambda: contender.Span(float(next(ticks)), 0.0))
    monkeypatch.setattr("benchmarks.contender.timed", lambda work: contender.Span(7.0, 8.0))
    beat, answers = _beat(
        {"do": "warm", "steps": 3}, {"do": "state", "name": "s"}, {"do": "turn", "steps": 2, "threads": 1}
    )
    heard: list[str] = []
    beat.state = heard.append
    calls: list[int] = []

    def run() -> None:
        while True:
            beat()
            calls.append(next(ticks))  # the step itself takes one tick, reading the clock another

    with pytest.raises(Enough):
        run()
    assert len(calls) == 3 + 2
    warm, state, turn = _said(answers)
    assert set(warm) == {"peak_mb", "facts"}
    assert state == {}
    assert heard == ["s"]
    assert turn["product"] == [[7.0, 8.0]] * (2 * TINY.products)
    assert turn["steps"] == [[2.0, 0.0]] * 2


def _train(case: str, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    beat, answers = _beat(*commands)
    ours.train(CASES[case], TINY, beat)
    return _said(answers)


def _turns(state: str) -> list[dict[str, Any]]:
    return [{"do": "state", "name": state}, {"do": "turn", "steps": 2, "threads": 1}]


@pytest.mark.parametrize("case", list(CASES))
def test_every_case_takes_whole_steps_of_fit(case: str) -> None:
    said = _train(case, {"do": "warm", "steps": 2}, *_turns(CASES[case].states[0]))
    facts, spans = said[-1]["facts"], said[-1]["steps"]
    assert len(spans) == 2
    assert facts["l0"] > 0
    assert min(cpu for cpu, _ in spans) > 0


@pytest.mark.parametrize(
    ("case", "share"), [("topk", 15 / 16), ("batch_topk", 15 / 16), ("jumprelu", 15 / 16), ("topk_auxk", 0.5)]
)
def test_dead_latents_are_dead_while_they_are_timed(case: str, share: float) -> None:
    state = CASES[case].states[-1]
    assert ours.DEAD_SHARE[state] == share
    said = _train(case, {"do": "warm", "steps": 8}, *_turns(state), *_turns(state))
    assert said[-1]["facts"]["dead"] == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("case", ["relu_l1", "jumprelu", "gated", "binary"])
def test_thresholds_bring_the_code_to_k_active_latents(case: str) -> None:
    said = _train(case, {"do": "warm", "steps": 1}, *_turns("trained"))
    assert said[-1]["facts"]["l0"] == pytest.approx(TINY.k, rel=0.6)
    free = _train(f"{case}_dense", {"do": "warm", "steps": 1}, *_turns("trained")) if f"{case}_dense" in CASES else None
    assert free is None or free[-1]["facts"]["l0"] > 2 * TINY.k


def test_a_profile_names_where_the_time_goes() -> None:
    said = _train("topk", {"do": "warm", "steps": 2}, {"do": "profile", "steps": 2})
    times = [ms for _, ms in said[-1]["profile"]]
    assert len(times) == 12
    assert min(times) > 0
    assert times == sorted(times, reverse=True)


def test_every_activation_is_a_case() -> None:
    timed = {type(method(case.method.replace("{k}", "2")).activation) for case in CASES.values()}
    assert {type(method(name).activation) for name in METHODS} - timed <= {
        GroupMax,
        MinFire,
        FeatureChoice,
        AdaptiveK,
    }  # TopK of others
    assert set(QUICK) <= set(CASES)


def test_the_floor_has_every_piece_and_its_sparse_pieces_are_right() -> None:
    work = pieces(TINY)
    assert list(work) == list(PIECES)
    for call in work.values():
        call()
    gradient, decoded = work["weight_gradient"](), work["decode"]()
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(decoded, torch.Tensor)
    assert gradient.shape == (TINY.n_q, TINY.n_p)
    assert decoded.shape == (TINY.batch, TINY.n_p)


def test_a_contender_in_its_own_process_and_one_that_fails() -> None:
    with Process(sys.executable, "monosem", "topk", "small", SHAPES) as process:
        assert process.hear()["torch"] == str(torch.__version__)
        assert process.ask(do="warm", steps=3)["peak_mb"] >= 0
        turn = process.ask(do="turn", steps=2, threads=1)
        assert len(turn["steps"]) == 2
        assert turn["facts"]["l0"] <= 4
    with Process(sys.executable, "monosem", "absent", "small", SHAPES) as process:
        process.hear()
        with pytest.raises(MonosemError, match="KeyError: 'absent'"):
            process.hear()


def test_what_fails_is_noted_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "SIZES", {"small": replace(SIZES["small"], turn=1, products=1)})
    told: list[str] = []
    options = driver.Options(
        sizes=("small",),
        cases=("topk",),
        rounds=1,
        peer_rounds=1,
        warm=1,
        floor=False,
        peers={"sparsify": sys.executable},
    )
    record = driver.measure(options, "python -m benchmarks speed", told.append)
    case = record["sizes"]["small"]["cases"]["topk"]
    assert "PackageNotFoundError" in case["sparsify"]["error"]
    assert case["sparsify"]["turns"] == []
    assert {turn["state"] for turn in case["monosem"]["turns"]} == {"trained", "dead"}
    assert any("sparsify" in line for line in told)
    json.dumps(record, allow_nan=False)


def _turn(round_: int, steps: list[float], product: float, threads: int = 1, state: str = "trained") -> dict[str, Any]:
    return {
        "state": state,
        "round": round_,
        "threads": threads,
        "steps": [[s, s] for s in steps],
        "product": [[product, product]] * 2,
    }


def test_ratios_are_of_the_same_turn_and_round() -> None:
    mine = {"turns": [_turn(0, [2.0, 4.0], 2.0), _turn(1, [6.0], 2.0), _turn(0, [2.0], 1.5, threads=2)]}
    theirs = {"turns": [_turn(0, [30.0], 2.0)]}
    assert ratios(mine, "trained") == {0: 1.5, 1: 3.0}
    beside = over_ours({"monosem": mine, "x": theirs}, "x", "trained")
    assert beside is not None
    assert (beside.median, beside.count) == (10.0, 1)
    found = scaling(mine, "trained", 2)
    assert found is not None
    assert found.median == pytest.approx((3.0 / 2.0) / (2.0 / 1.5))
    assert ratios(mine, "trained", 2, WALL) == ratios(mine, "trained", 2, CPU)


def test_spread_is_numpys() -> None:
    numbers = np.random.default_rng(0).random(9)
    found = spread(numbers.tolist())
    assert found is not None
    assert (found.low, found.median, found.high) == pytest.approx(tuple(np.percentile(numbers, [25, 50, 75])))
    assert spread([]) is None


def test_exponent_is_scipys() -> None:
    from scipy.stats import linregress, t

    values, costs = [1.0, 2.0, 4.0, 8.0], [3.0, 5.5, 13.0, 22.0]
    slope, half = exponent(values, costs)
    expected = linregress(np.log(values), np.log(costs))
    assert slope == pytest.approx(expected.slope)
    assert half == pytest.approx(expected.stderr * t.ppf(0.975, 2))


def test_memory_is_seen_where_it_rises() -> None:
    contender.forget_peak()
    before = contender.resident_memory()
    held = torch.ones(20_000_000)
    assert contender.peak_memory() - before > 60
    del held


def test_side_environments_are_found(tmp_path: Path) -> None:
    assert environments(tmp_path) == {}
    python = tmp_path / "sparsify" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert environments(tmp_path) == {"sparsify": str(python)}
    assert set(environments(tmp_path)) <= set(PEERS)


@pytest.mark.slow
@pytest.mark.parametrize(("who", "case"), [(who, case) for who, peer in PEERS.items() for case in peer.cases])
def test_a_peers_own_loop_takes_turns(who: str, case: str) -> None:
    there = environments(Path(".peers"))
    if who not in there:
        pytest.skip(f"no environment of {who}; make it with `python -m benchmarks.peers --speed`")
    with Process(there[who], who, case, "small", SHAPES) as process:
        process.hear()
        process.ask(do="warm", steps=2)
        assert len(process.ask(do="turn", steps=2, threads=1)["steps"]) == 2


@pytest.mark.slow
def test_a_sweep_in_two_processes_has_the_bits_of_runs_alone() -> None:
    found = sweep(lambda text: None, "lrb/nano", steps=20, seeds=2)
    assert found["equal"]
    assert found["jobs"] == 4

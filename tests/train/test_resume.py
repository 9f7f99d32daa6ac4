"""A run that was killed with SIGKILL, at any moment and more than once, ends with the bits of one that was not."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.scenes import SCENES, STEPS
from tests.train.victims import STAGES, bench, contents, die, kill_at_random, train

KILLS = 5  # for each of ten scenes: fifty moments
CHECKPOINTS = STEPS // 2

Whole = Callable[[str], tuple[dict[str, Any], float]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a scene leaves when nobody kills it, and how long it takes."""
    known: dict[str, tuple[dict[str, Any], float]] = {}

    def of(scene: str) -> tuple[dict[str, Any], float]:
        if scene not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[scene] = (lambda seconds: (contents(folder), seconds))(train(scene, folder))
        return known[scene]

    return of


def _log(left: dict[str, Any]) -> list[dict[str, float]]:
    return [json.loads(line) for line in left["log.jsonl"].splitlines()]


@pytest.mark.parametrize("scene", SCENES)
def test_killed_at_random_moments(scene: str, whole: Whole, tmp_path: Path) -> None:
    left, seconds = whole(scene)
    chance = random.Random(scene)
    for number in range(KILLS):
        folder = tmp_path / str(number)
        for _ in range(chance.choice((1, 1, 2))):
            kill_at_random(scene, folder, 0.95 * seconds, chance)
        train(scene, folder)
        assert contents(folder) == left


@pytest.mark.parametrize("stage", STAGES)
def test_killed_inside_a_write(stage: str, whole: Whole, tmp_path: Path) -> None:
    """First, in the middle, last: of the checkpoints, of the log's lines, of every file that is written whole."""
    last = {"half": CHECKPOINTS, "line": STEPS // 2 + 1, "logged": STEPS // 2 + 1}.get(stage, CHECKPOINTS + 3)
    left, _ = whole("resampled")
    for number in (1, 2, last // 2, last):
        folder = tmp_path / f"{stage}{number}"
        die("resampled", folder, (stage, number))
        if stage in {"part", "half", "rename"}:
            assert list(folder.glob(".*.part"))
        train("resampled", folder)
        assert contents(folder) == left


def test_killed_again_and_again(whole: Whole, tmp_path: Path) -> None:
    """Each life writes one checkpoint more and dies in the next."""
    folder = tmp_path / "run"
    for _ in range(CHECKPOINTS - 1):
        die("batch_topk", folder, ("half", 2))
    train("batch_topk", folder)
    assert contents(folder) == whole("batch_topk")[0]


def test_a_finished_run_is_left_as_it_is(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train("anchored", folder)
    train("anchored", folder)
    assert contents(folder) == whole("anchored")[0]


def test_the_scenes_hold_the_state_that_they_are_here_for(whole: Whole) -> None:
    logs = {scene: _log(whole(scene)[0]) for scene in SCENES}
    saved = {scene: whole(scene)[0]["checkpoint.safetensors"] for scene in SCENES}
    assert all(any(entry[f"loss/{name}"] > 0 for entry in logs[scene]) for scene, name in (
        ("batch_topk", "auxk"), ("k annealed", "auxk"), ("ghosts", "ghost_grads"), ("anchored", "anchoring"),
    ))  # fmt: skip
    assert {"term.lp.p", "term.lp.scale"} <= set(saved["p_anneal"])
    assert "model.state.threshold" in saved["batch_topk"]
    for scene in ("resampled", "resampled stream"):
        dead = [entry["dead"] for entry in logs[scene]]
        assert max(dead) > 0
        assert any(later < earlier for earlier, later in itertools.pairwise(dead))
    for scene, tensors in saved.items():
        assert {"adam.b_E.exp_avg", "adam.b_E.step", "dead.since"} <= set(tensors), scene
        assert tensors["metadata"]["step"] == str(STEPS)


def _record(left: dict[str, Any]) -> dict[str, Any]:
    (name,) = (name for name in left if name.endswith(".record.json"))
    return {
        key: value for key, value in json.loads(left[name]).items() if key not in {"wall_time_s", "created", "sha256"}
    }


def test_a_killed_bench_run_writes_the_same_record(tmp_path: Path) -> None:
    chance = random.Random(4)
    seconds = bench(tmp_path / "whole")
    left = contents(tmp_path / "whole")
    files = {name: value for name, value in left.items() if not name.endswith(".record.json")}
    assert files
    for number in range(6):
        folder = tmp_path / str(number)
        kill_at_random(None, folder, seconds, chance) if number else die(None, folder, ("rename", 19))
        bench(folder)
        found = contents(folder)
        assert _record(found) == _record(left)
        assert {name: found[name] for name in files} == files
        assert len(found) == len(left)

"""Which jobs share a stack, what their records say, and what happens when one of them fails."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monosem.anchoring.term import Anchoring
from monosem.base.errors import ArgumentError, MonosemError, RefusedError
from monosem.bench import many
from monosem.bench.many import run_jobs, run_stack
from monosem.bench.pool import Heard
from monosem.bench.records import read_records, record_name
from monosem.bench.run import Job, job_record_name, run_job
from monosem.bench.stacks import stacks_of
from monosem.bench.studies.queue import run_study
from monosem.train.config import FitConfig

CONFIG = FitConfig(20, 32, 1e-2, log_every=5, threads=1)
ONE = Job("lrb/nano", "relu_l1(l1=0.3)", 0, CONFIG, held_out=4)


def _seeds(job: Job, count: int) -> list[Job]:
    return [replace(job, seed=seed, config=replace(job.config, seed=seed)) for seed in range(count)]


ALONE = [
    replace(ONE, method="topk(k=3)"),
    replace(ONE, anchors=2),
    replace(ONE, anchors=3),
    replace(ONE, anchors=3, anchoring=Anchoring(hard=True)),
    replace(ONE, method="relu_l1_transcoder(l1=0.3)"),
    replace(ONE, n_q=40),
    replace(ONE, config=replace(CONFIG, lr=2e-2)),
    replace(ONE, config=replace(CONFIG, selection="bf16")),
    replace(ONE, config=replace(CONFIG, dense="bf16")),
    replace(ONE, config=replace(CONFIG, checkpoint_every=5)),
    replace(ONE, given="discovered"),
]
"""Jobs that have nothing in common with each other, nor with the plain one."""

TOGETHER = [
    ONE,
    *_seeds(ONE, 3)[1:],
    replace(ONE, method="relu_l1(l1=0.9)"),
    replace(ONE, held_out=3, study="other", watch=True),
]


def test_jobs_of_one_shape_share_a_stack() -> None:
    assert stacks_of(TOGETHER, 10) == [[0, 1, 2, 3, 4]]
    assert stacks_of(TOGETHER, 2) == [[0, 1], [2, 3], [4]]
    assert stacks_of(TOGETHER, 1) == [[0], [1], [2], [3], [4]]
    assert stacks_of(TOGETHER, None) == stacks_of(TOGETHER, 1), "never by itself on a CPU"
    mixed = [replace(ONE, anchors=2), ONE, replace(ONE, anchors=2, given="noisy(cosine=0.9)"), ONE]
    assert stacks_of(mixed, 10) == [[0, 2], [1, 3]]
    found = [replace(job, given="discovered") for job in _seeds(ONE, 2)]
    assert stacks_of(found, 10) == [[0], [1]], "how many anchors are found differs from world to world"
    assert stacks_of([], 10) == []
    with pytest.raises(ArgumentError, match="stack=0; put at least one run"):
        stacks_of(TOGETHER, 0)


@pytest.mark.parametrize("number", range(len(ALONE)))
def test_other_shapes_do_not(number: int) -> None:
    others = [job for i, job in enumerate(ALONE) if i != number]
    assert stacks_of([ONE, ALONE[number], *others], 10)[:2] == [[0], [1]]


def _number(record: dict[str, Any], metric: str) -> float:
    return float(record["metrics"][metric]["value"])


def test_stacked_jobs_leave_the_records_of_jobs_alone(tmp_path: Path) -> None:
    """The same names and heads; numbers within what 20 steps make of another order of sums; one job was there."""
    jobs = [*_seeds(replace(ONE, anchors=2, watch=True), 3), replace(ONE, method="topk(k=3)")]
    for job in jobs:
        run_job(job, tmp_path / "alone")
    folder = tmp_path / "stacked"
    run_job(jobs[1], folder)
    heard: dict[str, list[Any]] = {"start": [], "step": [], "done": []}
    paths = run_jobs(
        jobs,
        folder,
        1,
        Heard(
            heard["start"].append,
            lambda job, step: heard["step"].append((job, step)),
            lambda job, path: heard["done"].append((job, path)),
        ),
        stack=4,
    )
    assert heard["start"] == [0, 2, 3]
    assert heard["done"] == [(1, paths[1]), (0, paths[0]), (2, paths[2]), (3, paths[3])]
    assert set(heard["step"]) == {(job, step) for job in (0, 2, 3) for step in (1, 5, 10, 15, 20)}
    assert [path.name for path in paths] == [job_record_name(job) for job in jobs]
    for path, stacked in zip(paths, (2, None, 2, None), strict=True):
        record, alone = (json.loads((where / path.name).read_text()) for where in (folder, tmp_path / "alone"))
        assert record["env"].get("stacked") == stacked
        for name in ("task", "method", "anchors", "seed", "config", "study", "schema"):
            assert record[name] == alone[name]
        assert record_name(record) == path.name
        assert set(record["metrics"]) == set(alone["metrics"])
        assert record["training"]["step"] == alone["training"]["step"]
        for name in set(alone["training"]):
            assert record["training"][name] == pytest.approx(alone["training"][name], rel=1e-4, abs=1e-6)
        if stacked is None:
            assert record["training"] == alone["training"], "to the bit"
        for metric in ("decoder_cosine.M_IP", "fvu", "l0"):
            assert _number(record, metric) == pytest.approx(_number(alone, metric), rel=1e-3)


def test_a_job_that_fails_in_a_stack_is_named_and_the_others_finish(tmp_path: Path) -> None:
    jobs = [ONE, replace(ONE, method="relu_l1(l1=1e38)"), replace(ONE, method="relu_l1(l1=0.9)")]
    with pytest.raises(MonosemError, match=r"1 of 3 runs failed.*relu_l1\(l1=1e38\).*run 1 of the stack: the loss is"):
        run_jobs(jobs, tmp_path, 1, stack=3)
    assert {path.name for path in tmp_path.iterdir()} == {job_record_name(job) for job in (jobs[0], jobs[2])}
    assert [record["env"]["stacked"] for record in read_records(tmp_path)] == [3, 3]


def test_jobs_that_cannot_share_a_stack_after_all_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RefusedError("a term looks at a number")

    monkeypatch.setattr(many, "fit_together", refuse)
    assert run_stack(_seeds(ONE, 2), tmp_path) == [None, None]
    assert ["stacked" in record["env"] for record in read_records(tmp_path)] == [False, False]


def test_a_study_stacks_what_it_has_to_run_and_resumes(tmp_path: Path) -> None:
    jobs = _seeds(ONE, 4)
    run_job(jobs[0], tmp_path)
    assert run_study(jobs, tmp_path, 1, stack=2) == 1
    records = {record["seed"]["world"]: record["env"].get("stacked") for record in read_records(tmp_path)}
    assert records == {0: None, 1: 2, 2: 2, 3: None}
    assert run_study(jobs, tmp_path, 1, stack=2) == 4

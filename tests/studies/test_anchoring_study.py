"""The study of anchoring: what it runs, that no anchored feature is scored, that every gain has its plain run."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.anchors.term import PRINTED, Anchoring
from monosem.base.errors import ArgumentError
from studies.engine.bench import BenchRun
from studies.engine.cells import Results
from studies.engine.records import Records
from studies.engine.scale import SCALES
from studies.engine.study import Study
from studies.paper.anchoring import (
    ANCHORING,
    CROWDED,
    CROWDED_TASK,
    FORMS,
    LOOSE,
    LOOSE_NOISE,
    NOISE,
    SHORT,
    WEIGHTS,
    WRONG,
    zipf_task,
)
from tests.studies.samples import bench_runs


@pytest.mark.parametrize("scale", SCALES)
def test_no_run_scores_a_feature_that_any_run_anchors(scale: str) -> None:
    jobs = [run for _, run in bench_runs(ANCHORING, SCALES[scale], 1)]
    held_out = {job.held_out for job in jobs}
    assert held_out == {2 * SCALES[scale].base.anchors}
    assert max(job.anchors for job in jobs) <= held_out.pop()
    for job in jobs:
        value = job.task_value
        anchored = set(value.anchored(job.anchors, job.among).tolist()) if job.anchors else set()
        assert not anchored & set(value.scored(job.held_out).tolist())


@pytest.mark.parametrize(("study", "scale"), [*((ANCHORING, name) for name in SCALES), (CROWDED, "mini-hard")])
def test_every_anchored_run_has_its_plain_run_and_no_two_rows_of_a_table_are_mixed_up(study: Study, scale: str) -> None:
    runs = defaultdict(list)
    for entry, run in bench_runs(study, SCALES[scale], 1):
        runs[entry.row, entry.arm].append(run)
    assert all(len(same) == 1 for same in runs.values())
    every = [same[0] for same in runs.values()]
    assert {run.key for run in every if not run.anchored} == {run.plain_key for run in every}


def test_what_is_asked_is_what_is_run() -> None:
    scale = SCALES["mini-hard"]
    jobs = {(entry.row, entry.arm): job for entry, job in bench_runs(ANCHORING, scale, 1)}
    for (row, _), job in jobs.items():
        whole = row.startswith("relu_l1") or row == "topk, full length"
        assert job.config.steps == scale.config.steps // (1 if whole else SHORT)
    assert {jobs[f"topk, k = {k}", arm].anchors for k in (15, 30, 60, 120) for arm in ("default", "printed")} == {
        15,
        30,
        60,
        120,
    }
    for weight in WEIGHTS:
        assert jobs[f"topk, weight {weight}", "printed"].anchoring == replace(PRINTED, weight=weight)
        assert jobs[f"topk, weight {weight}", "default"].anchoring == Anchoring(weight=weight)
    for cosine in NOISE:
        for arm in ("default", *(LOOSE if cosine in LOOSE_NOISE else ())):
            assert jobs[f"topk, cosine {cosine}", arm].given == f"noisy(cosine={cosine})"
    assert jobs["topk, cosine 0.9", "start only"].anchoring.weight == 0.0
    assert jobs["topk, cosine 0.9", "annealed"].anchoring == FORMS["decoder, start, annealed"]
    for share in WRONG:
        assert jobs[f"topk, wrong {share}", "default"].given == f"wrong(share={share})"


def test_forms_differ_in_what_their_names_say() -> None:
    assert FORMS["decoder, start"] == Anchoring()
    assert len(set(FORMS.values())) == len(FORMS)
    for name, form in FORMS.items():
        assert form.init is ("no start" not in name)
        assert form.hard is ("hard" in name)
        assert form.form == ("direction" if "direction" in name else "printed")
        assert form.sides == (name.split(",")[0] if "only" not in name else "decoder")
        at_start = form.weight if isinstance(form.weight, float) else form.weight.at(0, 10)
        at_end = form.weight if isinstance(form.weight, float) else form.weight.at(10, 10)
        assert (at_start, at_end) == (
            0.0 if "only" in name else 1.0,
            0.0 if {"only", "annealed"} & set(name.replace(",", "").split()) else 1.0,
        )


def test_the_zipf_world_keeps_the_mean_rate_and_its_halves_share_no_feature() -> None:
    scale = SCALES["mini-hard"]
    made = zipf_task(scale)
    rates = made.world.law.rates(made.world.n)
    assert rates.mean() == pytest.approx(0.02)
    assert made.world.rows == 4 * (scale.base.world.rows or 0)
    jobs = {entry.arm: job for entry, job in bench_runs(ANCHORING, scale, 1) if entry.row == "topk, zipf"}
    groups = {
        arm: jobs[arm].task_value.anchored(jobs[arm].anchors, jobs[arm].among).numpy() for arm in ("frequent", "rare")
    }
    assert rates[groups["frequent"]].min() > rates[groups["rare"]].max()
    assert np.intersect1d(*groups.values()).size == 0
    assert zipf_task(SCALES["mini"]).name != SCALES["mini"].base.name  # its runs are told apart from the usual ones


def test_the_crowded_world_runs_at_one_scale_and_three_worlds() -> None:
    runs = [run for _, run in bench_runs(CROWDED, SCALES["mini-hard"])]
    assert {run.seed for run in runs} == {0, 1, 2}
    assert {run.task for run in runs} == {CROWDED_TASK}
    with pytest.raises(ArgumentError, match="no runs at scale nano"):
        CROWDED.entries(SCALES["nano"])


def test_runs_of_the_study_become_gains_on_held_out_features(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    scale = SCALES["nano"]
    jobs = {(entry.row, entry.arm): job for entry, job in bench_runs(ANCHORING, scale, 1)}
    usual, most = scale.base.anchors, 2 * scale.base.anchors
    wanted = [("topk", "plain"), (f"topk, k = {usual}", "default"), ("topk, wrong 0.5", "default")]
    records = [json.loads(jobs[name].run(tmp_path, lambda step: None).read_text()) for name in wanted]
    cells = Results.of(ANCHORING, scale, Records(tmp_path), 1).by_place
    gain = cells[wanted[1]].gain()
    assert gain is not None
    score = "decoder_cosine.M_GT@0.95"
    assert gain.mean == pytest.approx(records[1]["metrics"][score]["value"] - records[0]["metrics"][score]["value"])
    assert (gain.half, gain.n) == (None, 1)
    assert records[2]["metrics"]["anchors.precision"]["value"] == 0.5  # half of the anchors stand for a feature
    assert records[1]["config"]["held_out"] == most


def test_a_job_with_another_form_has_another_record() -> None:
    base = BenchRun("lrb/nano", "topk(k=2)", 0, SCALES["nano"].config, anchors=4, held_out=8)
    keys = {replace(base, anchoring=form).key for form in FORMS.values()}
    assert len(keys) == len(FORMS)

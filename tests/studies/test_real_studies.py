"""Studies on real rows: which record is whose, what two runs of one seed share, and tables by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monosem.base.errors import ArgumentError
from monosem.bench.pool import JobCallbacks
from monosem.bench.real import same_run
from monosem.bench.records import read_record, read_records
from studies.real.base import RealJob, record_of, run_real_jobs
from studies.real.catalog import REAL_STUDIES
from studies.real.classes import CLASS_METHODS, ClassJob, ClassSize, class_jobs
from studies.real.resampling import REMEDIES, REMEDY_SIZES, RemedyJob, remedy_jobs
from studies.report.real_classes import class_tables
from studies.report.real_resampling import remedy_tables
from studies.report.study_real import SHOWN, real_records

SMALL = ClassSize("digits", n_q=32, k=2, steps=6, batch=32, seeds=1, rows=200)
T_ONE = 12.7062047364  # Student's t at .975 with one degree of freedom, from a table


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ClassJob], Path]:
    folder = tmp_path_factory.mktemp("classes")
    jobs = class_jobs(SMALL)
    for job in jobs:
        job.run(folder)
    return jobs, folder


@pytest.mark.parametrize("name", list(REAL_STUDIES))
def test_every_study_has_runs_a_table_and_a_reason_where_it_has_none(name: str) -> None:
    study = REAL_STUDIES[name]
    assert name in SHOWN
    for scale in ("nano", "mini"):
        jobs = study.at(scale)
        assert len({(job.data, job.name, job.arm, job.seed) for job in jobs}) == len(jobs)
        assert {job.seed for job in study.at(scale, 1)} == {0}
    assert len({job.seed for job in study.at("mini")}) >= 3
    for scale, why in study.refused.items():
        with pytest.raises(ArgumentError, match=f"{name} has no runs at scale {scale}: {why[:20]}"):
            study.at(scale)


def test_the_record_of_a_job_is_found_without_its_rows(classes: tuple[list[ClassJob], Path]) -> None:
    jobs, folder = classes
    records = read_records(folder)
    assert len(records) == len(jobs) == 6
    found = [record_of(job, records) for job in jobs]
    assert (
        len({record["created"] + record["method"]["name"] + str(record["anchors"]) for record in found if record}) == 6
    )
    for other in (
        replace(jobs[0], seed=1),
        replace(jobs[0], n_q=33),
        replace(jobs[0], method="topk(k=3)"),
        replace(jobs[0], config=replace(jobs[0].config, steps=7)),
        replace(jobs[0], data="ada40"),
    ):
        assert record_of(other, records) is None


def test_a_run_that_is_there_is_not_trained_again(classes: tuple[list[ClassJob], Path]) -> None:
    jobs, folder = classes
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    for job in jobs:
        assert job.run(folder) in before
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before


def test_a_record_of_an_earlier_version_is_known_and_of_other_rows_is_not(
    classes: tuple[list[ClassJob], Path],
) -> None:
    record = read_records(classes[1])[0]
    older = {**record, "config": {name: value for name, value in record["config"].items() if name != "selection"}}
    assert same_run(older, record)
    assert not same_run({**record, "config": record["config"] | {"selection": "bf16"}}, record)
    assert not same_run({**record, "task": record["task"] | {"data_digest": "other"}}, record)
    assert not same_run({**record, "anchors": None if record["anchors"] else {}}, record)


def test_scores_count_the_classes_apart(classes: tuple[list[ClassJob], Path]) -> None:
    jobs, folder = classes
    plain, anchored = (
        read_record(next(job for job in jobs if job.arm == arm).run(folder)) for arm in ("plain", "anchored")
    )
    score = {
        part: anchored["metrics"][f"{part}.decoder_cosine.M_IP"]["value"] for part in ("held_out", "anchored", "all")
    }
    assert score["all"] == pytest.approx((score["held_out"] + score["anchored"]) / 2, abs=1e-6)  # five classes each
    assert score["anchored"] > plain["metrics"]["anchored.decoder_cosine.M_IP"]["value"] + 0.2
    assert "anchors_alone" not in plain["metrics"]["held_out.decoder_cosine.M_IP"]


def test_processes_give_the_bits_of_a_run_alone(classes: tuple[list[ClassJob], Path], tmp_path: Path) -> None:
    jobs, folder = classes
    done: dict[int, Path] = {}
    failed: dict[int, str] = {}
    wrong: list[RealJob] = [jobs[1], replace(jobs[0], method="topk(k=200)")]
    run_real_jobs(wrong, tmp_path, 1, JobCallbacks(done=done.__setitem__, error=failed.__setitem__))
    assert list(done) == [0]
    assert list(failed) == [1]
    one, other = read_record(done[0]), record_of(jobs[1], read_records(folder))
    assert other is not None
    assert (one["metrics"], one["training"]) == (other["metrics"], other["training"])


def test_remedies_differ_in_their_remedy_alone(tmp_path: Path) -> None:
    size = replace(REMEDY_SIZES["nano"], rows=300, n_q=32, steps=12, window=64, seeds=1)
    jobs = remedy_jobs(size)
    records = {job.arm: read_record(job.run(tmp_path)) for job in jobs}
    assert set(records) == set(REMEDIES)
    first = {arm: record["training"]["loss"][0] for arm, record in records.items()}
    assert first["no remedy"] == first["resampling"] == first["AuxK"]  # nothing has died at the first step
    assert first["tied start"] != first["no remedy"] != first["anchoring"]
    assert [record["anchors"] is not None for record in records.values()] == [arm == "anchoring" for arm in records]
    assert real_records(jobs, tmp_path) == list(records.values())
    again = jobs[1].run(tmp_path)
    assert read_record(again)["created"] == records["resampling"]["created"]


def _class_record(name: str, anchored: bool, seed: int, held: float) -> dict[str, Any]:
    parts = {"held_out": held, "held_out_joined": held + 0.1, "anchored": 0.5, "all": 0.4}
    metrics = {
        f"{part}.decoder_cosine.{what}": {"value": value, "chance": 0.01, "anchors_alone": 0.9 if anchored else None}
        for part, value in parts.items()
        for what in ("M_IP", "M_GT@0.8")
    }
    return {
        "task": {"name": "real/made"},
        "method": {"name": name},
        "anchors": {"k": 2} if anchored else None,
        "seed": {"train": seed},
        "metrics": metrics | {"fvu": {"value": 0.25}},
    }


def test_gains_are_paired_by_seed() -> None:
    records = [_class_record("topk", False, seed, 0.3 + seed / 10) for seed in (0, 1, 2)]
    records += [_class_record("topk", True, seed, 0.5 + seed / 5) for seed in (1, 0)]
    shown, more = class_tables(records)
    lines = {line[:2]: line[2:] for line in shown.lines}
    assert lines["made, topk", "plain"] == ("3", "0 / 0.517", "0.400", "0.500", "0.400")
    assert lines["made, topk", "anchored"][:3] == ("2", "24.13 / 0.851", "0.600")
    assert lines["made, matryoshka", "plain"][:2] == ("not run", "0 / 0.683")
    gain = {line[:2]: line[-2:] for line in more.lines}["made, topk", "anchored"]
    half = T_ONE * 0.05  # gains of .2 and .3
    assert gain == (f"+0.250 ± {half:.3f}", f"+0.150 ± {half:.3f}")


def _remedy_record(arm: str, seed: int, dead: list[float], fvu: float) -> dict[str, Any]:
    return {
        "task": {"name": "real/made"},
        "method": {"name": f"topk-{arm.replace(' ', '_')}"},
        "seed": {"train": seed},
        "training": {"dead": dead},
        "metrics": {"dead": {"value": 0.5}, "fvu": {"value": fvu}},
    }


def test_dead_latents_at_their_highest_and_at_the_end() -> None:
    records = [_remedy_record("no remedy", 0, [0.0, 0.6, 0.4], 0.3), _remedy_record("resampling", 0, [0.1, 0.2], 0.2)]
    (shown,) = remedy_tables(records)
    lines = {line[1]: line[2:] for line in shown.lines}
    assert lines["no remedy"] == ("1", "0.600", "0.400", "0.500", "0.300", "-")
    assert lines["resampling"] == ("1", "0.200", "0.200", "0.500", "0.200", "-0.100")
    assert lines["AuxK"] == ("not run", "-", "-", "-", "-", "-")


def test_names_in_records_are_the_methods() -> None:
    assert {job.name for job in class_jobs(SMALL)} == set(CLASS_METHODS)
    job = remedy_jobs(REMEDY_SIZES["nano"])[0]
    assert isinstance(job, RemedyJob)
    assert job.name == "topk-no_remedy"

"""Studies run from a queue: nothing twice, nothing lost by an interrupt, old records known to later versions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from monosem.base.errors import ArgumentError
from monosem.bench.pool import JobCallbacks
from monosem.bench.records import pack_records, read_records, write_record
from monosem.bench.run import Job, job_head
from monosem.bench.world import Independent
from studies.bench.base import SCALES, Study, jobs_of
from studies.bench.catalog import STUDIES
from studies.bench.queue import outcomes, run_key, run_study
from tests.studies.samples import made

NANO = SCALES["nano"]
STUDY = STUDIES["table7"]


def _jobs() -> list[Job]:
    """Three short runs of one world, and the first once more."""
    wanted = [job for entry, job in jobs_of(STUDY, NANO, [0]) if entry.arm in ("paper", "paper+anchors")][:3]
    return [replace(job, config=replace(job.config, steps=100)) for job in (*wanted, wanted[0])]


def test_a_study_is_completed_after_an_interrupt_and_then_runs_nothing(tmp_path: Path) -> None:
    jobs, started = _jobs(), list[int]()

    def interrupt(number: int, path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(jobs, tmp_path, 1, JobCallbacks(done=interrupt))
    assert len(read_records(tmp_path)) == 1

    there = run_study(jobs, tmp_path, 1, JobCallbacks(started.append))
    assert (there, started) == (2, [1, 2])  # the one that was run stands in two places
    assert len(read_records(tmp_path)) == 3

    assert run_study(jobs, tmp_path, 1, JobCallbacks(started.append)) == 4
    assert started == [1, 2]

    found = {(entry.row, entry.arm): record for entry, _, record in outcomes(STUDY, NANO, tmp_path, seeds=[0])}
    ran = [key for key, record in found.items() if record is not None]
    assert ran == [("k = 32", "paper"), ("k = 32", "paper+anchors"), ("k = 64", "paper")]
    assert found["k = 32", "paper"]["metrics"]["decoder_cosine.M_IP"]["value"] > 0
    assert found["k = 32", "paper+anchors"]["anchors"]["k"] == NANO.count(100)

    _forget(tmp_path, "log_every")
    again = [record for _, _, record in outcomes(STUDY, NANO, tmp_path, seeds=[0]) if record is not None]
    assert len(again) == 3
    assert run_study(jobs, tmp_path, 1, JobCallbacks(started.append)) == 4


def test_a_study_resumes_from_a_packed_file(tmp_path: Path) -> None:
    jobs, started = _jobs(), list[int]()
    run_study(jobs[:1], tmp_path / "first", 1)
    packed = tmp_path / "known.jsonl.gz"
    pack_records(packed, read_records(tmp_path / "first"))
    assert run_study(jobs[:2], tmp_path / "second", 1, JobCallbacks(started.append), known=[packed]) == 1
    assert started == [1]
    both = outcomes(STUDY, NANO, tmp_path / "second", packed, seeds=[0])
    assert sum(record is not None for _, _, record in both) == 2


def _forget(folder: Path, field: str) -> None:
    """As if a field of the configuration had been added after these records were written."""
    for path in folder.glob("*.record.json"):
        record = json.loads(path.read_text())
        del record["config"][field]
        path.write_text(json.dumps(record))


def test_a_run_whose_recovery_is_to_be_watched_needs_a_record_that_holds_it(tmp_path: Path) -> None:
    (entry, job), *_ = jobs_of(STUDIES["convergence"], NANO, [0])
    record = made(job, 0.5)
    watched = record["training"].pop("M_GT")
    write_record(tmp_path, record)
    plain, follow = STUDIES["table1"], STUDIES["convergence"]

    def there(study: Study) -> bool:
        return any(found is not None for _, _, found in outcomes(study, NANO, tmp_path, seeds=[0]))

    assert entry.job.watch
    assert (there(plain), there(follow)) == (True, False)
    write_record(tmp_path, record | {"training": record["training"] | {"M_GT": watched}})
    assert (there(plain), there(follow)) == (True, True)


def test_what_tells_runs_apart_is_in_the_key() -> None:
    job = _jobs()[0]
    others = [
        replace(job, config=replace(job.config, lr=0.5)),
        replace(job, config=replace(job.config, steps=99)),
        replace(job, held_out=job.held_out + 1),
        replace(job, seed=1),
        replace(job, anchors=3),
        replace(job, given="discovered"),
    ]
    keys = {run_key(job_head(one, None)) for one in (job, *others)}
    assert len(keys) == 7
    assert run_key(job_head(replace(job, config=replace(job.config, device="cuda")), None)) in keys


def test_a_scale_keeps_the_papers_ratios() -> None:
    paper, mini = SCALES["paper"], SCALES["mini"]
    assert (paper.k(128), paper.count(30), paper.l0) == (128, 30, pytest.approx(10.0))
    assert (mini.k(128), mini.count(100), mini.l0) == (16, 12, pytest.approx(1.25))
    task = mini.vary(n=1400, rate=0.005, interference=0.2, rows=77)
    assert (task.world.n, task.world.max_interference, task.world.rows) == (175, 0.2, 77)
    assert isinstance(task.world.law, Independent)
    assert task.world.law.sparsity == pytest.approx(0.995)


@pytest.mark.parametrize("name", STUDIES)
def test_every_printed_cell_is_run_at_paper_scale(name: str) -> None:
    study = STUDIES[name]
    entries = list(study.entries(SCALES["paper"]))
    cells = [(entry.row, entry.arm) for entry in entries]
    assert set(study.printed) <= set(cells)
    assert len(set(cells)) == len(cells)


def test_anchored_and_plain_runs_are_scored_on_the_same_features() -> None:
    for entry, job in jobs_of(STUDIES["table1"], SCALES["mini"], [0]):
        assert job.held_out == (SCALES["mini"].count(30) if entry.arm.startswith("paper") else 12)


def test_a_study_without_runs_at_a_scale_says_so() -> None:
    with pytest.raises(ArgumentError, match="study settings has no runs at scale nano"):
        jobs_of(STUDIES["settings"], NANO)

"""Studies run from a queue: nothing twice, nothing lost by an interrupt, old records known to later versions."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from monosem.base.errors import ArgumentError, MonosemError
from monosem.bench.pool import JobCallbacks
from monosem.bench.records import pack_records, read_records, write_record
from monosem.bench.world import Independent
from monosem.train.config import FitConfig
from studies.catalog import STUDIES
from studies.engine.bench import BenchRun
from studies.engine.cells import Results
from studies.engine.computed import Computed
from studies.engine.queue import run_missing
from studies.engine.records import Records
from studies.engine.scale import SCALES
from studies.engine.study import Progress, Study
from tests.studies.samples import bench_runs, made

NANO = SCALES["nano"]
STUDY = STUDIES["table7"]


def _runs() -> list[BenchRun]:
    """Three short runs of one world, and the first once more."""
    wanted = [run for entry, run in bench_runs(STUDY, NANO, 1) if entry.arm in ("paper", "paper+anchors")][:3]
    return [*wanted, wanted[0]]


def test_a_study_is_completed_after_an_interrupt_and_then_runs_nothing(tmp_path: Path) -> None:
    runs, started = _runs(), list[int]()

    def interrupt(number: int, path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_missing(runs, tmp_path, 1, JobCallbacks(done=interrupt))
    assert len(read_records(tmp_path)) == 1

    there = run_missing(runs, tmp_path, 1, JobCallbacks(started.append))
    assert (there, started) == (2, [1, 2])  # the one that was run stands in two places
    assert len(read_records(tmp_path)) == 3

    assert run_missing(runs, tmp_path, 1, JobCallbacks(started.append)) == 4
    assert started == [1, 2]

    records = {(entry.row, entry.arm): record for entry, record in _results(STUDY, tmp_path).outcomes}
    ran = [place for place, record in records.items() if record is not None]
    assert ran == [("k = 32", "paper"), ("k = 32", "paper+anchors"), ("k = 64", "paper")]
    plain, anchored = records["k = 32", "paper"], records["k = 32", "paper+anchors"]
    assert plain is not None
    assert anchored is not None
    assert plain["metrics"]["decoder_cosine.M_IP"]["value"] > 0
    assert anchored["anchors"]["k"] == NANO.count(100)

    started.clear()
    packed = tmp_path / "packed" / "runs.jsonl.gz"
    pack_records(packed, read_records(tmp_path))
    assert run_missing(runs, tmp_path / "elsewhere", 1, JobCallbacks(started.append), known=[packed]) == 4
    assert not started

    packed.unlink()
    _forget(tmp_path, "log_every")
    assert _results(STUDY, tmp_path).there == 3
    assert run_missing(runs, tmp_path, 1, JobCallbacks(started.append)) == 4


def test_tasks_of_an_array_make_all_runs_of_a_study(tmp_path: Path) -> None:
    """A run that stands in two places is one task's."""
    runs, started = _runs(), list[int]()
    assert run_missing(runs, tmp_path, 1, JobCallbacks(started.append), part=slice(0, None, 2)) == 0
    assert started == [0, 2]
    assert run_missing(runs, tmp_path, 1, JobCallbacks(started.append), part=slice(1, None, 2)) == 0
    assert started == [0, 2, 1]
    assert run_missing(runs, tmp_path, 1, JobCallbacks(started.append)) == 4


def _results(study: Study, folder: Path) -> Results:
    return Results.of(study, NANO, Records(folder), 1)


def _forget(folder: Path, field: str) -> None:
    """As if a field of the configuration had been added after these records were written."""
    for path in folder.glob("*.record.json"):
        record = json.loads(path.read_text())
        del record["config"][field], record["sha256"]  # older records have no checksum
        path.write_text(json.dumps(record))


def test_a_run_whose_recovery_is_to_be_watched_needs_a_record_that_holds_it(tmp_path: Path) -> None:
    plain, follow = STUDIES["table1"], STUDIES["convergence"]
    (_, run), *_ = bench_runs(follow, NANO, 1)
    record = made(run, 0.5)
    watched = record["training"].pop("M_GT")
    write_record(tmp_path, record)
    assert run.watch
    assert (_results(plain, tmp_path).there, _results(follow, tmp_path).there) == (1, 0)
    write_record(tmp_path, record | {"training": record["training"] | {"M_GT": watched}})
    assert (_results(plain, tmp_path).there, _results(follow, tmp_path).there) == (1, 1)


def test_what_tells_runs_apart_is_in_the_key() -> None:
    run = _runs()[0]
    others = [
        replace(run, config=replace(run.config, lr=0.5)),
        replace(run, config=replace(run.config, steps=99)),
        replace(run, held_out=run.held_out + 1),
        replace(run, seed=1),
        replace(run, anchors=3),
        replace(run, given="discovered"),
    ]
    keys = {one.key for one in (run, *others)}
    assert len(keys) == 7
    assert replace(run, config=replace(run.config, device="cuda")).key in keys


@dataclass(frozen=True)
class _Absent:
    """A need that cannot be met."""

    title: str = "rows"

    def make(self, folder: Path, progress: Progress) -> None:
        progress("looking for rows")
        raise MonosemError("the rows are gone")


@dataclass(frozen=True)
class _Needy(Computed):
    needs: _Absent = _Absent()  # type: ignore[assignment]


@pytest.mark.parametrize("part", [None, slice(None)])
def test_what_cannot_be_made_fails_its_runs_alone(tmp_path: Path, part: slice | None) -> None:
    runs, lines, failed, done = [_Needy("needy", _numbers), Computed("easy", _numbers)], [], {}, {}
    callbacks = JobCallbacks(done=done.__setitem__, error=failed.__setitem__)
    assert run_missing(runs, tmp_path, 1, callbacks, lines.append, part=part) == 0
    assert failed == {0: "the rows are gone"}
    assert done == {1: tmp_path / "drawn" / "easy.json"}
    assert Computed("easy", _numbers).find(Records(tmp_path)) is not None
    assert lines == ["looking for rows"]
    with pytest.raises(MonosemError, match=r"1 of 1 runs failed; the first: needy .* the rows are gone"):
        run_missing(runs, tmp_path, 1)


def _numbers(folder: Path, config: FitConfig) -> dict[str, object]:
    return {"steps": config.steps}


def test_a_scale_keeps_the_papers_ratios() -> None:
    paper, mini = SCALES["paper"], SCALES["mini"]
    assert (paper.k(128), paper.count(30), paper.l0) == (128, 30, pytest.approx(10.0))
    assert (mini.k(128), mini.count(100), mini.l0) == (16, 12, pytest.approx(1.25))
    task = mini.vary(n=1400, rate=0.005, interference=0.2, rows=77)
    assert (task.world.n, task.world.max_interference, task.world.rows) == (175, 0.2, 77)
    assert isinstance(task.world.law, Independent)
    assert task.world.law.sparsity == pytest.approx(0.995)


@pytest.mark.parametrize("name", [name for name in STUDIES if "paper" not in STUDIES[name].refused])
def test_every_printed_cell_is_run_at_paper_scale(name: str) -> None:
    study = STUDIES[name]
    entries = list(study.runs(SCALES["paper"]))
    cells = [(entry.row, entry.arm) for entry in entries]
    assert set(study.printed) <= set(cells)
    assert len(set(cells)) == len(cells)


def test_anchored_and_plain_runs_are_scored_on_the_same_features() -> None:
    for entry, run in bench_runs(STUDIES["table1"], SCALES["mini"], 1):
        assert run.held_out == (SCALES["mini"].count(30) if entry.arm.startswith("paper") else 12)


def test_a_study_without_runs_at_a_scale_says_why() -> None:
    with pytest.raises(ArgumentError, match=r"settings has no runs at scale nano: .*; use paper"):
        STUDIES["settings"].entries(NANO)
    with pytest.raises(ArgumentError, match="crowded has no runs at scale nano: choose another scale"):
        STUDIES["crowded"].entries(NANO)


def test_seeds_are_the_studys_own_or_the_scales() -> None:
    seeds = {name: [entry.run.seed for entry in STUDIES[name].entries(SCALES["mini-hard"], 2)] for name in ("crowded",)}
    assert set(seeds["crowded"]) == {0, 1}
    assert {entry.run.seed for entry in STUDIES["settings"].entries(SCALES["paper"])} == {100}
    assert {entry.run.config.seed for entry in STUDIES["table7"].entries(NANO)} == {0, 1}

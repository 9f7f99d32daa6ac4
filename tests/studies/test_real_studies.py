"""Studies on real rows: which record is whose, what two runs of one seed share, and tables by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monosem.base.errors import ArgumentError
from monosem.bench.pool import JobCallbacks
from monosem.bench.real import same_run
from monosem.bench.records import read_record, read_records
from monosem.methods import method
from studies.catalog import STUDIES
from studies.engine.cells import Results
from studies.engine.queue import run_missing
from studies.engine.records import Record, Records
from studies.engine.rows import RowsRun
from studies.engine.scale import SCALES
from studies.engine.study import Entry, Study
from studies.paper import figure7, table2
from studies.paper.figure7 import REMEDIES, RemedySize
from studies.paper.table2 import METHODS, ClassSize

NANO = SCALES["nano"]
SMALL = ClassSize("digits", n_q=32, k=2, steps=6, batch=32, rows=200)
T_ONE = 12.7062047364  # Student's t at .975 with one degree of freedom, from a table


def _of(study: Study, size: ClassSize | RemedySize) -> Study:
    """The study at another size."""
    return replace(study, runs=lambda scale: size.entries())


def _class_runs(size: ClassSize = SMALL) -> list[RowsRun]:
    entries = _of(table2.STUDY, size).entries(NANO, 1)
    return [entry.run for entry in entries if isinstance(entry.run, RowsRun)]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RowsRun], Path]:
    folder = tmp_path_factory.mktemp("classes")
    runs = _class_runs()
    for run in runs:
        run.run(folder, lambda step: None)
    return runs, folder


@pytest.mark.parametrize("name", ["table2", "figure7"])
def test_every_study_has_runs_a_table_and_a_reason_where_it_has_none(name: str) -> None:
    study = STUDIES[name]
    assert study.tables
    assert study.columns
    for scale in ("nano", "mini"):
        entries = study.entries(SCALES[scale])
        assert len({(entry.row, entry.arm, entry.run.seed) for entry in entries}) == len(entries)
        assert len({entry.run.key for entry in entries}) == len(entries)
        assert {entry.run.seed for entry in study.entries(SCALES[scale], 1)} == {0}
    assert len({entry.run.seed for entry in study.entries(SCALES["mini"])}) >= 3
    for scale, why in study.refused.items():
        with pytest.raises(ArgumentError, match=f"{name} has no runs at scale {scale}: {why[:20]}"):
            study.entries(SCALES[scale])


def test_the_record_of_a_run_is_looked_up_without_its_rows(classes: tuple[list[RowsRun], Path]) -> None:
    runs, folder = classes
    records = Records(folder)
    assert len(records.every) == len(runs) == 6
    own = [run.find(records) for run in runs]
    assert len({record["created"] + record["method"]["name"] + str(record["anchors"]) for record in own if record}) == 6
    for other in (
        replace(runs[0], seed=1),
        replace(runs[0], n_q=33),
        replace(runs[0], built=method("topk(k=3)")),
        replace(runs[0], config=replace(runs[0].config, steps=7)),
        replace(runs[0], needs=replace(runs[0].needs, data="ada40")),
    ):
        assert other.find(records) is None


def test_a_run_that_is_there_is_not_trained_again(classes: tuple[list[RowsRun], Path]) -> None:
    runs, folder = classes
    before = {path: path.read_bytes() for path in folder.glob("*.json")}
    for run in runs:
        assert run.run(folder, lambda step: None) in before
    assert {path: path.read_bytes() for path in folder.glob("*.json")} == before


def test_a_record_of_an_earlier_version_is_known_and_of_other_rows_is_not(
    classes: tuple[list[RowsRun], Path],
) -> None:
    record = read_records(classes[1])[0]
    older = {**record, "config": {name: value for name, value in record["config"].items() if name != "selection"}}
    assert same_run(older, record)
    assert not same_run({**record, "config": record["config"] | {"selection": "bf16"}}, record)
    assert not same_run({**record, "task": record["task"] | {"data_digest": "other"}}, record)
    assert not same_run({**record, "anchors": None if record["anchors"] else {}}, record)


def test_scores_count_the_classes_apart(classes: tuple[list[RowsRun], Path]) -> None:
    runs, folder = classes
    plain, anchored = (
        read_record(next(run for run in runs if run.arm == arm).run(folder, lambda step: None))
        for arm in ("plain", "anchored")
    )
    score = {
        part: anchored["metrics"][f"{part}.decoder_cosine.M_IP"]["value"] for part in ("held_out", "anchored", "all")
    }
    assert score["all"] == pytest.approx((score["held_out"] + score["anchored"]) / 2, abs=1e-6)  # five classes each
    assert score["anchored"] > plain["metrics"]["anchored.decoder_cosine.M_IP"]["value"] + 0.2
    assert "anchors_alone" not in plain["metrics"]["held_out.decoder_cosine.M_IP"]


def test_processes_give_the_bits_of_a_run_alone(classes: tuple[list[RowsRun], Path], tmp_path: Path) -> None:
    runs, folder = classes
    done: dict[int, Path] = {}
    failed: dict[int, str] = {}
    run_missing(
        [runs[1], replace(runs[0], built=method("topk(k=200)"))],
        tmp_path,
        1,
        JobCallbacks(done=done.__setitem__, error=failed.__setitem__),
    )
    assert list(done) == [0]
    assert list(failed) == [1]
    one, other = read_record(done[0]), runs[1].find(Records(folder))
    assert other is not None
    assert (one["metrics"], one["training"]) == (other["metrics"], other["training"])


def test_remedies_differ_in_their_remedy_alone(tmp_path: Path) -> None:
    size = replace(figure7.SIZES["nano"], rows=300, n_q=32, steps=12, window=64)
    study = _of(figure7.STUDY, size)
    runs = [entry.run for entry in study.entries(NANO, 1)]
    records = {run.arm: read_record(run.run(tmp_path, lambda step: None)) for run in runs}
    assert [record["method"]["name"] for record in records.values()][::4] == ["topk-no_remedy", "topk-tied_start"]
    assert set(records) == set(REMEDIES)
    first = {arm: record["training"]["loss"][0] for arm, record in records.items()}
    assert first["no remedy"] == first["resampling"] == first["AuxK"]  # nothing has died at the first step
    assert first["tied start"] != first["no remedy"] != first["anchoring"]
    assert [record["anchors"] is not None for record in records.values()] == [arm == "anchoring" for arm in records]
    assert Results.of(study, NANO, Records(tmp_path), 1).records == list(records.values())
    again = runs[1].run(tmp_path, lambda step: None)
    assert read_record(again)["created"] == records["resampling"]["created"]


def _class_record(name: str, anchored: bool, seed: int, held: float) -> dict[str, Any]:
    parts = {"held_out": held, "held_out_joined": held + 0.1, "anchored": 0.5, "all": 0.4}
    metrics = {
        f"{part}.decoder_cosine.{what}": {"value": value, "chance": 0.01, "anchors_alone": 0.9 if anchored else None}
        for part, value in parts.items()
        for what in ("M_IP", "M_GT@0.8")
    }
    return {
        "method": {"name": name},
        "anchors": {"kind": "class_means", "k": 2} if anchored else None,
        "seed": {"world": 0, "train": seed},
        "metrics": metrics | {"fvu": {"value": 0.25}},
    }


def _results(study: Study, size: ClassSize | RemedySize, records: dict[tuple[str, str, int], Record]) -> Results:
    """Made-up records by the start of a run's method, arm and seed."""

    def record(entry: Entry) -> Record | None:
        return records.get((entry.run.method.partition("(")[0], entry.run.arm, entry.run.seed))

    changed = _of(study, size)
    return Results(changed, NANO, [(entry, record(entry)) for entry in changed.entries(NANO, 3)])


def test_gains_are_paired_by_seed() -> None:
    records: dict[tuple[str, str, int], Record] = {}
    for seed in (0, 1, 2):
        records["topk", "plain", seed] = _class_record("topk", False, seed, 0.3 + seed / 10)
    for seed in (1, 0):
        records["topk", "anchored", seed] = _class_record("topk", True, seed, 0.5 + seed / 5)
    shown, more = table2.tables(_results(table2.STUDY, SMALL, records))
    lines = {line[:2]: line[2:] for line in shown.lines}
    assert lines["digits, topk", "plain"] == ("3", "0 / 0.517", "0.400", "0.500", "0.400")
    assert lines["digits, topk", "anchored"][:3] == ("2 of 3", "24.13 / 0.851", "0.600")
    assert lines["digits, matryoshka", "plain"][:2] == ("not run", "0 / 0.683")
    assert lines["digits, untrained", "the anchors alone"][2:] == ("0.900", "0.900", "0.900")
    gain = {line[:2]: line[-2:] for line in more.lines}["digits, topk", "anchored"]
    half = T_ONE * 0.05  # gains of .2 and .3
    assert gain == (f"+0.250 ± {half:.3f}", f"+0.150 ± {half:.3f}")


def _remedy_record(arm: str, seed: int, dead: list[float], fvu: float) -> dict[str, Any]:
    return {
        "method": {"name": f"topk-{arm.replace(' ', '_')}"},
        "anchors": None,
        "seed": {"world": 0, "train": seed},
        "training": {"dead": dead},
        "metrics": {"dead": {"value": 0.5}, "fvu": {"value": fvu}},
    }


def test_dead_latents_at_their_highest_and_at_the_end() -> None:
    records: dict[tuple[str, str, int], Record] = {
        ("topk", "no remedy", 0): _remedy_record("no remedy", 0, [0.0, 0.6, 0.4], 0.3),
        ("topk", "resampling", 0): _remedy_record("resampling", 0, [0.1, 0.2], 0.2),
    }
    (shown,) = figure7.tables(_results(figure7.STUDY, figure7.SIZES["nano"], records))
    lines = {line[1]: line[2:] for line in shown.lines}
    assert lines["no remedy"] == ("1 of 3", "0.600", "0.400", "0.500", "0.300", "-")
    assert lines["resampling"] == ("1 of 3", "0.200", "0.200", "0.500", "0.200", "-0.100")
    assert lines["AuxK"] == ("not run", "-", "-", "-", "-", "-")


def test_names_in_records_are_the_methods(classes: tuple[list[RowsRun], Path]) -> None:
    assert {record["method"]["name"] for record in Records(classes[1]).every} == set(METHODS)

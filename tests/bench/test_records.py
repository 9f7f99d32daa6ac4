"""Records: a schema that is checked, documented and stable, and files that name themselves."""

import copy
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monosem.base.errors import CheckpointError, DataError, MonosemError
from monosem.base.spec import to_plain
from monosem.bench import records
from monosem.bench.metrics import flatten
from monosem.bench.records import (
    FIELDS,
    SCHEMA,
    environment,
    identity,
    metrics_table,
    read_records,
    record_name,
    validate,
    write_record,
)
from monosem.bench.task_scores import chance
from monosem.bench.tasks import TaskSource, task


def example(seed: int = 0, *, anchored: bool = True) -> dict[str, Any]:
    one = task("lrb/nano")
    source = TaskSource(one)
    value = chance(source)
    curves = flatten(value)[1]
    return {
        "schema": SCHEMA,
        "study": "test",
        "task": {
            "name": one.name,
            "version": one.version,
            "spec": to_plain(one),
            "hash": one.digest,
            "data_digest": source.digest,
            "pairing": one.pairing,
        },
        "method": {"name": "topk(k=4)", "spec": "topk(k=4)"},
        "numerics": 1,
        "anchors": {"kind": "true_features", "k": 4, "weight": 0.1, "form": "soft", "init": True} if anchored else None,
        "seed": {"world": 0, "train": seed},
        "config": {"steps": 10},
        "metrics": metrics_table({**value, "l0": 4.0}, chance=value),
        "curves": {"tau": [i / 100 for i in range(101)], **curves},
        "training": {"step": [0, 5], "loss": [2.0, 1.0], "fvu": [1.0, 0.5], "l0": [4.0, 4.0], "dead": [0.0, None]},
        "env": environment(),
        "similarity": None,
        "digest": "0123456789abcdef",
        "wall_time_s": 1.5,
        "created": "2026-01-01T00:00:00+00:00",
    }


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = example()
    path = write_record(tmp_path, record)
    assert path.name == record_name(record)
    assert read_records(tmp_path) == [json.loads(json.dumps(record))]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(record: dict[str, Any]) -> None:
        *above, last = path.split("/")
        for name in above:
            record = record[name]
        record[last] = value

    return apply


@pytest.mark.parametrize("path", [path for path in FIELDS if path != "schema"])
def test_every_field_is_required_and_typed(path: str) -> None:
    *above, last = path.split(".")
    for wrong in (None, True, [object()]):
        record = broken = copy.deepcopy(example())
        for name in above:
            broken = broken[name]
        allowed = FIELDS[path] if isinstance(FIELDS[path], tuple) else (FIELDS[path],)
        if wrong is None:
            del broken[last]
        elif (isinstance(wrong, list) and list in allowed) or (wrong is True and bool in allowed):
            continue
        else:
            broken[last] = wrong
        with pytest.raises(DataError, match=path.replace(".", r"\.")):
            validate(record)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("extra", 1, r"unknown fields \['extra'\]"),
        ("metrics/l0", {"value": math.nan, "chance": None}, "metrics.l0"),
        ("metrics/l0", {"value": 1.0}, "metrics.l0"),
        ("metrics/l0", {"value": 1.0, "chance": None, "luck": 1.0}, "metrics.l0"),
        ("metrics/l0", 4.0, "metrics.l0"),
        ("curves/decoder_cosine", [0.0], "curves.decoder_cosine must be 101"),
        ("training/loss", [1.0], "training.loss must be 2"),
        ("training/loss", [1.0, math.inf], "training.loss must be 2"),
        ("training/loss", [1.0, True], "training.loss must be 2"),
    ],
)
def test_broken_values_are_named(path: str, value: Any, says: str) -> None:
    record = example()
    change(path, value)(record)
    with pytest.raises(DataError, match=says):
        validate(record)


def test_plain_runs_have_no_anchor_fields() -> None:
    validate(example(anchored=False))


@pytest.mark.parametrize("version", [0, 3, None, "1", True])
def test_other_versions_are_refused(version: Any) -> None:
    with pytest.raises(CheckpointError, match="schema"):
        validate({**example(), "schema": version})


def test_identity_is_what_was_asked_not_what_came_out() -> None:
    base = example()
    for path, value in [("wall_time_s", 9.0), ("metrics", {}), ("created", "x"), ("task/data_digest", "x")]:
        other = copy.deepcopy(base)
        change(path, value)(other)
        assert identity(other) == identity(base)
    asked = [
        ("seed/train", 1),
        ("seed/world", 1),
        ("anchors", None),
        ("anchors/weight", 0.2),
        ("config", {"steps": 11}),
    ]
    asked += [("method/spec", "topk(k=5)"), ("task/hash", "x"), ("task/pairing", "transcoder"), ("study", "other")]
    names = {record_name(base)}
    for path, value in asked:
        other = copy.deepcopy(base)
        change(path, value)(other)
        names.add(record_name(other))
    assert len(names) == len(asked) + 1


def test_the_name_is_known_before_the_run() -> None:
    record = example()
    known = {key: record[key] for key in ("study", "method", "anchors", "seed", "config")}
    known["task"] = {key: record["task"][key] for key in ("name", "version", "hash", "pairing")}
    assert record_name(known) == record_name(record)
    assert record_name(record).startswith("lrb_nano-sae-topk_k_4_-k4-w0-t0-")
    assert "/" not in record_name(record)


def test_the_same_run_replaces_its_record_and_reading_is_sorted(tmp_path: Path) -> None:
    for seed in (2, 0, 1, 0):
        write_record(tmp_path / "deeper", example(seed))
    assert [record["seed"]["train"] for record in read_records(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("text", ["{", "[]", "", '{"schema": 1}', '{"schema": 99}', "\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    write_record(tmp_path, example())
    (tmp_path / "a.record.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "unrelated.json").write_text("not a record", encoding="utf-8")
    with pytest.raises(MonosemError, match=r"a\.record\.json"):
        read_records(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_records(tmp_path / "nowhere")


def test_an_invalid_record_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_record(tmp_path, {**example(), "wall_time_s": "long"})
    assert list(tmp_path.iterdir()) == []


def test_metrics_table_puts_the_baselines_beside() -> None:
    table = metrics_table(
        {"m": {"M_GT": {"0.9": 0.5}, "curve": [1.0]}, "fvu": math.inf},
        chance={"m": {"M_GT": {"0.9": 0.1}}},
        oracle={"solver": "omp", "fvu": 0.25},
        anchors_alone={"m": {"M_GT": {"0.9": 0.2}}},
    )
    assert table == {
        "m.M_GT@0.9": {"value": 0.5, "chance": 0.1, "anchors_alone": 0.2},
        "fvu": {"value": None, "chance": None, "oracle": 0.25},
    }
    with pytest.raises(ValueError, match="luck"):
        metrics_table({}, luck={})


def test_the_docs_page_names_every_field() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "records.md").read_text(encoding="utf-8")
    named = [line.split("`")[1] for line in page.split("## Metrics")[0].splitlines() if line.startswith("| `")]
    assert named == list(FIELDS)
    assert f"## Schema {records.SCHEMA}" in page


def test_the_commit_is_that_of_the_tracking_checkout_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    package = tmp_path / "package" / "part"
    package.mkdir(parents=True)
    file = package / "module.py"
    file.write_text("x = 1\n", encoding="utf-8")
    assert records._commit(file) is None
    git("init", "-q")
    assert records._commit(file) is None
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = records._commit(file)
    assert clean is not None
    assert len(clean) == 40
    file.write_text("x = 2\n", encoding="utf-8")
    assert records._commit(file) == f"{clean}+dirty"

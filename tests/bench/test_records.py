"""Records: a schema that is checked, documented and stable, and files that name themselves."""

import copy
import gzip
import json
import math
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.base.errors import CheckpointError, DataError, MonosemError
from monosem.base.spec import to_plain
from monosem.bench import packed, records
from monosem.bench.metrics import flatten
from monosem.bench.records import (
    FIELDS,
    NEW_IN_2,
    SCHEMA,
    environment,
    identity,
    metrics_table,
    pack_records,
    read_records,
    record_name,
    results_digest,
    validate,
    write_record,
)
from monosem.bench.task_scores import chance
from monosem.bench.tasks import TaskSource, task

MAP = {"feature": [0], "latent": [1], "cosine": [[0.5]]}


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


# Packed files ----------------------------------------------------------------------------------------------


def test_a_packed_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = [example(seed) | {"similarity": MAP} for seed in (1, 0, 2)]
    path = tmp_path / "a.jsonl.gz"
    packed = pack_records(path, records)
    wanted = [json.loads(json.dumps(example(seed))) for seed in range(3)]
    assert read_records(path) == packed == wanted  # to the last bit; heat maps were not asked for


def test_packing_gives_the_same_bytes_in_any_order_and_when_repeated(tmp_path: Path) -> None:
    records = [example(seed) for seed in range(3)]
    one, other = tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"
    pack_records(one, records)
    for record in reversed(records):  # one after the other, as a queue grows
        pack_records(other, [record])
    assert one.read_bytes() == other.read_bytes()
    pack_records(one, records[1:])
    assert one.read_bytes() == other.read_bytes()


def test_one_heat_map_an_arm_is_kept_of_the_studies_that_ask_for_it(tmp_path: Path) -> None:
    both = [example(seed, anchored=anchored) | {"similarity": MAP} for seed in range(2) for anchored in (False, True)]
    path = tmp_path / "a.jsonl.gz"
    pack_records(path, both, ["test"])
    pack_records(path, both)  # the file remembers
    kept = [(r["anchors"] is None, r["seed"]["train"]) for r in read_records(path) if r["similarity"] == MAP]
    assert sorted(kept) == [(False, 0), (True, 0)]
    pack_records(tmp_path / "b.jsonl.gz", both, ["another"])
    assert all(record["similarity"] is None for record in read_records(tmp_path / "b.jsonl.gz"))


def test_the_record_made_last_counts_wherever_it_lies(tmp_path: Path) -> None:
    old, new = example() | {"created": "2026-01-01"}, example() | {"created": "2026-01-02"}
    for first, loose in ((old, new), (new, old)):
        folder = tmp_path / first["created"]
        pack_records(folder / "a.jsonl.gz", [first])
        write_record(folder, loose)
        write_record(folder, example(1))
        assert [record["created"] for record in read_records(folder)] == ["2026-01-02", "2026-01-01T00:00:00+00:00"]
        pack_records(folder / "a.jsonl.gz", read_records(folder))
        assert read_records(folder / "a.jsonl.gz")[0]["created"] == "2026-01-02"


def test_a_record_of_schema_1_keeps_its_digest(tmp_path: Path) -> None:
    old = {name: value for name, value in example().items() if name not in NEW_IN_2} | {"schema": 1}
    old["env"] = {name: value for name, value in old["env"].items() if f"env.{name}" not in NEW_IN_2}
    (record,) = pack_records(tmp_path / "a.jsonl.gz", [old])
    assert record["digest"] == results_digest(old)
    assert read_records(tmp_path / "a.jsonl.gz") == [record]


def test_a_digest_sees_every_number_and_every_weight() -> None:
    record, model = example(), torch.nn.Linear(3, 2)
    digests = {results_digest(record), results_digest(record, model)}
    for path, value in (
        ("metrics/l0/value", 4.000000000000001),
        ("curves/decoder_cosine", [0.5] * 101),
        ("training/loss", [2.0, 1.0000000000000002]),
    ):
        other = copy.deepcopy(record)
        change(path, value)(other)
        digests.add(results_digest(other, model))
    with torch.no_grad():
        model.bias[0] = torch.nextafter(model.bias[0], torch.tensor(9.0))
    digests.add(results_digest(record, model))
    assert len(digests) == 6
    assert results_digest(record | {"wall_time_s": 9.0}, model) in digests


def _changed(line: int, old: bytes, new: bytes) -> Callable[[Path], object]:
    """Replaces `old`, or all of it where it is empty, on one line of a packed file."""

    def apply(path: Path) -> None:
        lines = gzip.decompress(path.read_bytes()).splitlines()
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new) if old else new
        path.write_bytes(gzip.compress(b"\n".join(lines)))

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "ended"),
        (lambda path: path.write_bytes(b"no gzip"), "line 1"),
        (lambda path: path.write_bytes(b""), "line 1"),
        (_changed(3, b"", b"{"), "line 3"),
        (_changed(3, b"", b"[]"), "line 3"),
        (_changed(3, b"", b"\xff"), "line 3"),
        (_changed(1, b'"count":3', b'"count":4'), "3 objects of 4"),
        (_changed(1, b'"runs"', b'"walks"'), "'walks', not 'runs'"),
        (_changed(1, b'"version":1}', b'"version":2}'), "line 1"),
        (_changed(2, b'"task":0', b'"task":7'), "entry 7"),
        (_changed(2, b'"task":0', b'"task":null'), "entry None"),
        (_changed(4, b'"schema":2', b'"schema":9'), "schema 9"),
    ],
)
def test_a_damaged_packed_file_is_named_with_its_line(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "a.jsonl.gz"
    pack_records(path, [example(seed) for seed in range(3)])
    damage(path)
    with pytest.raises(CheckpointError, match=r"a\.jsonl\.gz, line \d") as error:
        read_records(tmp_path)
    assert says in str(error.value)


def test_a_file_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.gz"
    pack_records(path, [example(seed) for seed in range(3)])
    monkeypatch.setattr(packed, "_LARGEST", path.stat().st_size + 1)
    with pytest.raises(CheckpointError, match="expands beyond"):
        read_records(path)
    os.truncate(path, 1 << 40)  # zeros behind its end, which gzip would skip for an hour
    with pytest.raises(CheckpointError, match="has 1,099,511,627,776 bytes, at most"):
        read_records(path)


def test_a_flipped_bit_of_a_record_is_seen(tmp_path: Path) -> None:
    """Refused, or it says the same (an E for an e in a number): never another record."""
    path = write_record(tmp_path, example())
    whole, wanted, chance = path.read_bytes(), read_records(tmp_path), random.Random(0)
    refused = 0
    for bit in chance.sample(range(len(whole) * 8), 300):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert read_records(tmp_path) == wanted
        except MonosemError:
            refused += 1
    assert refused > 290


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("task.spec.world", "x", "world is 'x', not an object"),
        ("task.spec.world", -1, "world is -1, not an object"),
        ("similarity", {"feature": [0], "latent": [1]}, "similarity.cosine is missing"),
        ("similarity", {"feature": [0], "latent": [1], "cosine": [[1.0], []]}, "rows of several lengths"),
        ("env.features", [1], r"features\[0\] is 1, not a text"),
        ("wall_time_s", -1.0, "wall_time_s is -1.0, not 0 or more"),
    ],
)
def test_what_the_report_reads_deeper_is_checked(place: str, value: Any, said: str, tmp_path: Path) -> None:
    record = example()
    *above, last = place.split(".")
    inner = record
    for name in above:
        inner = inner[name]
    inner[last] = value
    (tmp_path / f"a{records.SUFFIX}").write_text(json.dumps(record))
    with pytest.raises(DataError, match=said):
        read_records(tmp_path)


def test_numbers_without_end_in_a_specification(tmp_path: Path) -> None:
    for number in ("NaN", "1e999"):
        text = json.dumps(example()).replace('"spec": {', f'"spec": {{"x": {number}, ', 1)
        (tmp_path / f"a{records.SUFFIX}").write_text(text)
        with pytest.raises(MonosemError):
            read_records(tmp_path)

"""Dictionaries from elsewhere on the bench: every format, a record, its place in the report, and rows for trainers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.base.errors import ShapeError
from monosem.bench.foreign import export_rows, foreign_record
from monosem.bench.records import read_record, read_records, validate
from monosem.bench.tasks import TaskSource, task
from monosem.core.model import SDL
from monosem.interop import save
from monosem.methods import method
from monosem.report.page import write_report
from tests.cli.calls import call


def model(widths: int = 16) -> SDL:
    built, _ = method("relu_l1").build(48, (widths,), (widths,))
    return built.eval()


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning", "monosem"])
def test_a_foreign_model_leaves_the_record_that_its_own_format_leaves(tmp_path: Path, format: str) -> None:
    folder = tmp_path / "theirs"
    save(model(), folder, format)
    ran = call("evaluate", folder, "--task", "lrb/nano", "--rows", 300, "--out", tmp_path / "records", "--json")
    shown = json.loads(ran.stdout)
    assert shown["format"] == format
    (path,) = (tmp_path / "records").glob("*.record.json")
    record = read_record(path)
    assert record["method"]["name"] == "theirs"
    assert record["training"]["step"] == []
    ours = foreign_record(model(), TaskSource(task("lrb/nano")), "ours", "monosem(n_q=48)", rows=300)
    for name in ("decoder_cosine.M_IP", "codes.f1", "fvu"):
        assert shown["metrics"][name]["value"] == pytest.approx(ours["metrics"][name]["value"], abs=1e-5)


def test_the_report_shows_it_beside_ones_own(tmp_path: Path) -> None:
    save(model(), tmp_path / "their_sae", "saelens")
    call(
        "bench",
        "--task",
        "lrb/nano",
        "--methods",
        "topk(k=3)",
        "--plain",
        "--seeds",
        1,
        "--steps",
        3,
        "--out",
        tmp_path,
    )
    call("evaluate", tmp_path / "their_sae", "--task", "lrb/nano", "--rows", 300, "--out", tmp_path)
    assert len(read_records(tmp_path)) == 2
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert "their_sae" in page
    assert "topk" in page


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(20, 20\).*\(16, 16\)"):
        foreign_record(model(20), TaskSource(task("lrb/nano")), "theirs", "x(n_q=48)")


def test_a_record_is_valid_and_of_one_identity() -> None:
    source = TaskSource(task("lrb/nano"))
    one, again = (foreign_record(model(), source, "theirs", "x(n_q=48)", rows=100) for _ in range(2))
    validate(one)
    assert one["digest"] == again["digest"]
    assert one["study"] == "foreign"


def test_exported_rows_are_the_tasks(tmp_path: Path) -> None:
    call("bench", "export", "--task", "lrb/nano", "--methods", "topk_transcoder", "--out", tmp_path)
    source = TaskSource(task("lrb/nano", "transcoder"))
    x_p, x_r = source.take(torch.arange(source.rows or 0))
    assert np.array_equal(np.load(tmp_path / "x_p.npy"), x_p.numpy())
    assert np.array_equal(np.load(tmp_path / "x_r.npy"), x_r.numpy())
    about = json.loads((tmp_path / "task.json").read_text())
    assert about["data_digest"] == source.digest
    assert about["pairing"] == "transcoder"
    paths = export_rows(TaskSource(task("lrb/nano")), tmp_path / "sae", rows=10)
    assert [path.name for path in paths] == ["x_p.npy", "task.json"]
    wrong = call("bench", "import", "--task", "lrb/nano", "--out", tmp_path)
    assert wrong.exit_code != 0
    assert "nothing called 'import'" in wrong.stderr

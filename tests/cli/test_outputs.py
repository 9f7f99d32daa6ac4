"""Outputs that cannot be written: one named error before any work, and what was there stays; a summary loses no run."""

import re
from pathlib import Path

import numpy as np
import pytest

from monosem.core.io import load_model
from tests.cli.calls import call
from tests.train.victims import contents

TRAIN = ("train", "--method", "topk(k=2)", "--n-q", "16", "--steps", "3", "--batch-size", "8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.arange(30) % 3)
    np.save(tmp_path / "same.npy", np.ones((30, 6), np.float32))
    (tmp_path / "file").write_text("mine")
    return tmp_path


def _refused(*words: object) -> str:
    result = call(*words)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1
    return str(errors[0])


@pytest.mark.parametrize("out", ["file", "file/sub", "n" * 300])
def test_train_into_what_is_no_folder(out: str, folder: Path) -> None:
    before = contents(folder)
    assert "cannot be written" in _refused(*TRAIN, "--data", folder / "absent.npy", "--out", folder / out)
    assert contents(folder) == before


@pytest.mark.parametrize("out", ["file", "file/sub", "n" * 300])
def test_bench_and_convert_into_what_is_no_folder(out: str, folder: Path) -> None:
    call(*TRAIN, "--data", folder / "x.npy", "--out", folder / "run")
    before = contents(folder)
    for words in (("bench", "--task", "lrb/nano", "--steps", "2", "--out"), ("convert", folder / "run")):
        said = _refused(*words, folder / out)
        assert "cannot be written" in said or "check the path and the disk" in said
    assert contents(folder) == before


def test_report_and_inspect_into_a_folder(folder: Path) -> None:
    call(*TRAIN, "--data", folder / "x.npy", "--out", folder / "run")
    (folder / "page").mkdir()
    assert "is a folder" in _refused("inspect", folder / "run", "--data", folder / "x.npy", "--out", folder / "page")


def test_a_refused_train_leaves_another_run_as_it_was(folder: Path) -> None:
    """With labels it is another run: no anchors may be left in the first one's folder."""
    call(*TRAIN, "--data", folder / "x.npy", "--out", folder / "run")
    before = contents(folder / "run")
    for more in (("--labels", folder / "y.npy"), ("--n-q", "1"), ("--lr", "0.5")):
        _refused(*TRAIN, "--data", folder / "x.npy", "--out", folder / "run", *more)
        assert contents(folder / "run") == before
    _refused(*TRAIN, "--data", folder / "x.npy", "--out", folder / "new", "--labels", folder / "y.npy", "--n-q", "1")
    assert not (folder / "new").exists()


def test_anchors_stand_beside_the_finished_model(folder: Path) -> None:
    call(*TRAIN, "--data", folder / "x.npy", "--out", folder / "run", "--labels", folder / "y.npy")
    assert {"anchors.safetensors", "anchors.json"} <= {path.name for path in (folder / "run").iterdir()}


def test_rows_that_are_all_equal_are_refused(folder: Path) -> None:
    said = _refused(*TRAIN, "--data", folder / "same.npy", "--out", folder / "run")
    assert re.fullmatch(r"error: all \d+ sampled rows of x_p are the same; give rows that differ", said)
    assert not (folder / "run").exists()


def test_a_finished_run_is_not_lost_to_a_summary_that_fails(folder: Path) -> None:
    np.save(folder / "one.npy", np.ones((1, 6), np.float32))
    result = call(*TRAIN, "--data", folder / "one.npy", "--out", folder / "run", "--no-normalise")
    assert result.exit_code == 0, result.output
    assert "trained and saved" in result.stderr
    assert "targets are all equal" in result.stderr
    load_model(folder / "run")

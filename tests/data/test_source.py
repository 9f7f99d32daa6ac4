"""Training sources and labels from files, against the same things made in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monosem.anchors.directions import class_means
from monosem.base.errors import ArgumentError, DataError
from monosem.core.pairs import Source
from monosem.data.class_means import class_anchors
from monosem.data.source import open_rows
from monosem.data.table import CHUNK, read_labels
from monosem.train.config import FitConfig
from monosem.train.loop import fit


def _rows(rows: int = 40, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def _saved(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def test_a_source_of_one_file_writes_what_it_reads(tmp_path: Path) -> None:
    source = open_rows(_saved(tmp_path / "x.npy", _rows()))
    assert isinstance(source, Source)
    assert (source.rows, source.p_widths, source.r_widths) == (40, (6,), (6,))
    x_p, x_r = source.take(torch.tensor([7, 3]))
    assert x_r is x_p
    assert torch.equal(x_p, torch.from_numpy(_rows()[[7, 3]]))


def test_two_files_are_rows_of_the_same_inputs(tmp_path: Path) -> None:
    data, target = _saved(tmp_path / "x.npy", _rows()), _saved(tmp_path / "r.npy", _rows(width=3, seed=1))
    source = open_rows(data, target)
    assert source.r_widths == (3,)
    assert torch.equal(source.take(torch.tensor([5]))[1], torch.from_numpy(_rows(width=3, seed=1)[[5]]))
    with pytest.raises(DataError, match=r"x\.npy has 40 rows, .*short\.npy has 39"):
        open_rows(data, _saved(tmp_path / "short.npy", _rows(39)))


def test_widths_must_sum_to_the_columns(tmp_path: Path) -> None:
    data = _saved(tmp_path / "x.npy", _rows())
    assert open_rows(data, widths=(2, 4)).r_widths == (2, 4)
    with pytest.raises(ArgumentError, match=r"widths \(2, 3\) sum to 5, .*x\.npy has 6 columns"):
        open_rows(data, widths=(2, 3))
    for wrong in ((6, 0), (7, -1)):
        with pytest.raises(ArgumentError, match="each is at least 1"):
            open_rows(data, widths=wrong)


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "holds NaN"), (np.inf, "holds infinity"), (-np.inf, "holds infinity"), (1e300, "1e+300, too large")],
)
def test_what_is_not_finite_is_named_by_row_and_column(value: float, said: str, tmp_path: Path) -> None:
    rows = np.zeros((CHUNK + 9, 3))
    rows[CHUNK + 4, 2] = value
    with pytest.raises(DataError) as caught:
        open_rows(_saved(tmp_path / "x.npy", rows))
    assert f"x.npy: row {CHUNK + 4}, column 2 (counted from 0) " in str(caught.value)
    assert said in str(caught.value)


def test_the_digest_is_of_the_numbers_not_of_the_file(tmp_path: Path) -> None:
    rows = _rows()
    digest = open_rows(_saved(tmp_path / "x.npy", rows)).digest
    save_file({"x": torch.from_numpy(rows)}, tmp_path / "x.safetensors")
    assert open_rows(tmp_path / "x.safetensors").digest == digest
    assert open_rows(_saved(tmp_path / "d.npy", rows.astype(np.float64))).digest == digest
    rows[0, 0] += 1
    assert open_rows(_saved(tmp_path / "y.npy", rows)).digest != digest
    assert open_rows(_saved(tmp_path / "z.npy", _rows().reshape(80, 3))).digest != digest


def test_training_from_a_file_is_training_from_memory(tmp_path: Path) -> None:
    from monosem.core.pairs import TensorSource

    source = open_rows(_saved(tmp_path / "x.npy", _rows().astype(np.float64)))
    config = FitConfig(steps=5, batch_size=16)
    one = fit("topk(k=2)", source, 12, config).model
    other = fit("topk(k=2)", TensorSource(torch.from_numpy(_rows())), 12, config).model
    assert torch.equal(one.W_D, other.W_D)


def test_a_sample_is_spread_over_all_rows(tmp_path: Path) -> None:
    source = open_rows(_saved(tmp_path / "x.npy", np.arange(100.0)[:, None]))
    assert source.sample(4)[0].flatten().tolist() == [0, 33, 66, 99]
    assert source.sample(1000)[0].flatten().tolist() == list(range(100))


@pytest.mark.parametrize("centre", [True, False])
def test_class_anchors_are_the_class_means(centre: bool, tmp_path: Path) -> None:
    rows, target = _rows(CHUNK + 50), _rows(CHUNK + 50, 4, seed=1)
    words = np.array(["cat", "dog", "owl"])[np.random.default_rng(2).integers(0, 3, len(rows))]
    source = open_rows(_saved(tmp_path / "x.npy", rows), _saved(tmp_path / "r.npy", target))
    labels = read_labels(_saved(tmp_path / "y.npy", words), source.rows)
    assert labels.names == ("cat", "dog", "owl")
    got = class_anchors(source, labels, ["owl", "cat"], centre)
    assert got.k == 2
    for side, x in (("p", rows), ("r", target)):
        means = np.stack([x[words == name].mean(0, dtype=np.float64) for name in ("cat", "dog", "owl")])
        means = means - means.mean(0) if centre else means
        wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
        assert np.allclose(getattr(got, side).T.numpy(), wanted[[2, 0]], atol=1e-5)
    direct = class_means(torch.from_numpy(rows), labels.codes, torch.from_numpy(target), centre)
    assert torch.allclose(class_anchors(source, labels, centre=centre).p, direct.p, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(39, int), "39 labels for 40 rows"),
        (np.zeros((40, 2), int), "shape (40, 2)"),
        (np.full(40, 0.5), "label 0 is 0.5, not a whole number"),
        (np.full(40, np.nan), "label 0 is nan"),
        (np.zeros(40, complex), "complex128"),
    ],
)
def test_wrong_labels_name_their_file(values: np.ndarray, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_labels(_saved(tmp_path / "y.npy", values), 40)
    assert "y.npy" in str(caught.value)
    assert said in str(caught.value)


def test_whole_floats_are_labels(tmp_path: Path) -> None:
    labels = read_labels(_saved(tmp_path / "y.npy", np.array([2.0, 1.0, 2.0])), 3)
    assert (labels.names, labels.codes.tolist()) == (("1", "2"), [1, 0, 1])


def test_anchors_need_two_classes_that_occur(tmp_path: Path) -> None:
    source = open_rows(_saved(tmp_path / "x.npy", _rows()))
    one = read_labels(_saved(tmp_path / "y.npy", np.zeros(40, int)), 40)
    with pytest.raises(DataError, match="all rows are labelled '0'"):
        class_anchors(source, one)
    two = read_labels(_saved(tmp_path / "y.npy", np.arange(40) % 2), 40)
    with pytest.raises(DataError, match="no row is labelled 7"):
        class_anchors(source, two, ["1", "7"])

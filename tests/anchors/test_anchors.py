"""Where anchors come from: true features, class means, files; and what is said when they are not what was meant."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monosem.anchors.directions import Anchors, AnchorWarning, class_means, load_anchors, true_features
from monosem.base.errors import CheckpointError, DataError, ShapeError


def test_true_features_are_unit_columns_in_the_order_asked_for() -> None:
    W_p, W_r = 3 * torch.randn(5, 9), torch.randn(4, 9)
    anchors = true_features(W_p, W_r, torch.tensor([7, 2]))
    for found, W in ((anchors.p, W_p), (anchors.r, W_r)):
        torch.testing.assert_close(found, torch.stack([W[:, 7] / W[:, 7].norm(), W[:, 2] / W[:, 2].norm()], 1))
    assert (anchors.k, anchors.kind) == (2, "true_features")


@pytest.mark.parametrize("centre", [True, False])
def test_class_means_are_those_of_numpy(centre: bool) -> None:
    rng = np.random.default_rng(0)
    x, y, labels = rng.standard_normal((60, 6)), rng.standard_normal((60, 3)), rng.choice([-4, 1, 10], 60)
    anchors = class_means(torch.tensor(x), torch.tensor(labels), torch.tensor(y), centre=centre)
    for found, rows in ((anchors.p, x), (anchors.r, y)):
        means = np.stack([rows[labels == c].mean(0) for c in (-4, 1, 10)])
        means = means - means.mean(0) if centre else means
        np.testing.assert_allclose(found.numpy(), (means / np.linalg.norm(means, axis=1)[:, None]).T, atol=1e-6)
    some = class_means(torch.tensor(x), torch.tensor(labels), centre=centre, classes=torch.tensor([10, -4]))
    torch.testing.assert_close(some.p, anchors.p[:, [2, 0]])
    torch.testing.assert_close(some.r, some.p)


@pytest.mark.usefixtures("as_in_production")
def test_classes_need_rows_and_rows_need_labels() -> None:
    x, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    for classes in ([5], [-1], [1, 3]):
        with pytest.raises(DataError, match="have no row among the labels"):
            class_means(x, labels, classes=torch.tensor(classes))
    with pytest.raises(DataError, match="5 labels for 6 rows"):
        class_means(x, labels[:5])
    with pytest.raises(DataError, match="x_r has 4 rows, x_p 6"):
        class_means(x, labels, x[:4])
    with pytest.raises(DataError, match="NaN or infinity"):
        class_means(x / 0, labels)


def test_raw_means_of_data_off_the_origin_are_reported() -> None:
    """The mean of everything dominates every class mean; centring tells them apart."""
    x, labels = torch.randn(90, 8) + 20.0, torch.arange(90) % 3
    with pytest.warns(AnchorWarning, match=r"anchors \d and \d have cosine (0.99\d|1.000), and 3 pairs exceed 0.95"):
        class_means(x, labels, centre=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_means(x, labels)


@pytest.mark.usefixtures("as_in_production")
def test_anchors_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ShapeError, match="p holds 2 anchors and r holds 3"):
        Anchors(torch.randn(4, 2), torch.randn(4, 3))
    p = torch.randn(4, 3)
    with pytest.raises(DataError, match="NaN or infinity"):
        Anchors(p / 0, p)
    p[:, 1] = 0
    with pytest.raises(DataError, match=r"columns \[1\] of the anchors p are zero"):
        Anchors(p, torch.randn(4, 3))


def test_files_read_back(tmp_path: Path) -> None:
    anchors = Anchors(torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3), "class_means")
    read = load_anchors(anchors.save(tmp_path / "anchors.safetensors"))
    torch.testing.assert_close(read.p, anchors.p)
    torch.testing.assert_close(read.r, anchors.r)
    assert read.kind == "class_means"


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    path = Anchors(torch.randn(5, 3), torch.randn(4, 3)).save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for damage in (whole[:-7], whole[:5], b"", b"not a file of tensors at all"):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            load_anchors(path)
    with pytest.raises(CheckpointError, match=r"missing\.safetensors"):
        load_anchors(tmp_path / "missing.safetensors")
    save_file({"p": torch.zeros(1, 1)}, str(path))
    with pytest.raises(CheckpointError, match=r"expected 'monosem\.anchors/1'"):
        load_anchors(path)

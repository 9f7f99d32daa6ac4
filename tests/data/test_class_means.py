"""Class means as anchors: the numbers against numpy, and what raw means of a space that is not centred look like."""

from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.anchors.directions import AnchorWarning, load_anchors
from monosem.base.errors import ArgumentError, DataError
from monosem.base.files import read_json
from monosem.data.class_means import class_anchors, means_of, read_means
from monosem.data.source import FileSource
from monosem.data.table import Labels, Table
from tests.cli.calls import call

CLASSES, WIDTH = 4, 12


def _scene(rows: int = 400, offset: float = 6.0, noise: float = 1.0) -> tuple[np.ndarray, Labels]:
    """Four classes in twelve dimensions, far from the origin."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CLASSES, rows)
    x = 2 * np.eye(CLASSES, WIDTH)[codes] + noise * rng.standard_normal((rows, WIDTH)) + offset
    return x.astype(np.float32), Labels(torch.from_numpy(codes), tuple("abcd"))


def _table(x: np.ndarray) -> Table:
    return Table(x, Path("x.npy"))


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 3.0])
def test_directions_are_the_formula(centre: bool, shrinkage: float) -> None:
    x, labels = _scene()
    codes = labels.codes.numpy()
    means = np.stack([x[codes == c].mean(0, dtype=np.float64) for c in range(CLASSES)])
    within = sum(np.square(x[codes == c] - means[c]).sum(0) for c in range(CLASSES)) / (len(x) - CLASSES)
    apart = means - means.mean(0)
    between = np.square(apart).sum(0) / (CLASSES - 1)
    count = np.bincount(codes)[:, None]
    apart = apart * np.maximum(0, 1 - shrinkage * within / (count * between))
    wanted = apart if centre else apart + means.mean(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = means_of(_table(x), labels).directions(centre, shrinkage)
    assert np.allclose(got.numpy(), wanted, atol=1e-4)


def test_shrinkage_finds_noisy_means_better() -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(120) % 20
    true = 2 * np.eye(20, 60)
    x = true[codes] + 1.5 * rng.standard_normal((120, 60))
    true = true - true.mean(0)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    means = means_of(_table(x.astype(np.float32)), Labels(torch.from_numpy(codes), tuple("abcdefghijklmnopqrst")))
    found = [float((means.directions(shrinkage=t).numpy() * true).sum(1).mean()) for t in (0.0, 1.0)]
    assert found[1] > found[0] + 0.05


def test_raw_means_coincide_where_centred_ones_do_not() -> None:
    x, labels = _scene()
    raw, centred = (read_means(_table(x), labels, centre) for centre in (False, True))
    assert (raw.coincident, centred.coincident) == (6, 0)
    assert raw.closest > 0.98
    assert centred.closest < 0.6
    assert centred.accuracy > 0.6 > 2 * centred.chance
    source = FileSource(_table(x))
    with pytest.warns(AnchorWarning, match="centre the representations"):
        class_anchors(source, labels, centre=False)
    assert class_anchors(source, labels, ["c"]).p[:, 0].allclose(class_anchors(source, labels).p[:, 2])


def test_accuracy_is_chance_without_classes() -> None:
    x, labels = _scene(rows=4000)
    shuffled = Labels(labels.codes[torch.randperm(4000)], labels.names)
    assert abs(read_means(_table(x), shuffled).accuracy - 0.25) < 0.03


def test_bad_input_is_one_error() -> None:
    x, labels = _scene()
    with pytest.raises(ArgumentError, match="shrinkage=-1"):
        means_of(_table(x), labels).directions(shrinkage=-1)
    with pytest.raises(DataError, match="too few rows"):
        means_of(_table(x), Labels(labels.codes, (*labels.names, "never")))
    with pytest.raises(DataError, match="no direction left"):
        means_of(_table(x), labels).directions(shrinkage=1e9)


def test_commands_from_classes_to_scores(tmp_path: Path) -> None:
    x, labels = _scene()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.array(labels.names)[labels.codes.numpy()])
    rows = ("--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
    anchors = tmp_path / "a.safetensors"
    made = call("anchors", "from-classes", *rows, "--classes", "a, b", "--out", anchors)
    assert made.exit_code == 0, made.stderr
    assert "centred means work here; raw ones nearly coincide in 6 pairs" in made.stderr
    assert (load_anchors(anchors).k, read_json(tmp_path / "a.json")["classes"]) == (2, ["a", "b"])
    raw = call("anchors", "from-classes", *rows, "--raw", "--out", tmp_path / "r.safetensors")
    assert isinstance(raw.exception, AnchorWarning)  # a line for people; an error in these tests
    trained = call(
        *("train", "--data", tmp_path / "x.npy", "--anchors", anchors, "--method", "topk(k=2)", "--n-q", 16),
        *("--steps", 30, "--batch-size", 64, "--out", tmp_path / "model"),
    )
    assert trained.exit_code == 0, trained.stderr
    scored = call("anchors", "score-classes", tmp_path / "model", *rows)
    assert scored.exit_code == 0, scored.stderr
    for word in ("held out (2)", "anchored (2)", "all (4)"):
        assert scored.stdout.count(word) == 3
    assert "anchors alone" in scored.stdout
    assert "16 random" in scored.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "missing option '--data'"),
        (("--data", "x.npy"), "--labels FILE"),
        (("--data", "x.npy", "--labels", "y.npy", "--number", "9"), "--number 9 classes of 4"),
        (("--data", "x.npy", "--labels", "y.npy", "--number", "2", "--classes", "a"), "give one of them"),
        (("--data", "x.npy", "--labels", "y.npy", "--classes", "z"), "no row is labelled z"),
    ],
)
def test_wrong_calls_say_so(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = _scene(40)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.array(labels.names)[labels.codes.numpy()])
    monkeypatch.chdir(tmp_path)
    result = call("anchors", "from-classes", "--out", "a.safetensors", *arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "a.safetensors").exists()

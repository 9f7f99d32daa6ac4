"""fit on whatever rows come in: each kind against the same rows as a source, and what cannot be trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import monosem as ms
from monosem.base.errors import ArgumentError, DataError, MonosemError
from monosem.train.loop import fit as train

X = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))
Y = X.flip(-1)[..., :6] * 2
SETTINGS: dict[str, Any] = {"steps": 4, "batch_size": 8, "log_every": 1}
RAW = SETTINGS | {"normalise": False}


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _saved(path: Path) -> Path:
    np.save(path, _rows(X).numpy())
    return path


KINDS: dict[str, Callable[[Path], Any]] = {
    "tensor": lambda _: X,
    "rows": lambda _: _rows(X),
    "array": lambda _: X.numpy(),
    "double array": lambda _: X.numpy().astype(np.float64),
    "tensor with a gradient": lambda _: X.clone().requires_grad_(),
    "file": lambda path: _saved(path / "x.npy"),
    "file as text": lambda path: str(_saved(path / "x.npy")),
    "loader": lambda _: DataLoader(TensorDataset(_rows(X)), batch_size=10),
    "loader of tensors": lambda _: DataLoader(_rows(X), batch_size=10),  # type: ignore[arg-type]
    "source": lambda _: ms.TensorSource(_rows(X)),
    "opened": lambda _: ms.open_rows(X),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_give_the_same_model(kind: str, tmp_path: Path) -> None:
    wanted = train("topk(k=3)", ms.TensorSource(_rows(X)), 16, ms.FitConfig(**SETTINGS))
    result = ms.fit("topk(k=3)", KINDS[kind](tmp_path), 16, **RAW)
    assert torch.equal(result.W_D, wanted.model.W_D)
    assert result.encode(X).to_dense().shape == (4, 16, 16)


def test_rows_that_fit_opens_are_normalised_and_a_source_is_not(tmp_path: Path) -> None:
    wanted = train("topk(k=3)", ms.open_rows(X).normalised(), 16, ms.FitConfig(**SETTINGS))
    for rows in (X, X.numpy(), _saved(tmp_path / "x.npy"), DataLoader(TensorDataset(_rows(X)), batch_size=10)):
        assert torch.equal(ms.fit("topk(k=3)", rows, 16, **SETTINGS).W_D, wanted.model.W_D)
    raw = train("topk(k=3)", ms.TensorSource(_rows(X)), 16, ms.FitConfig(**SETTINGS))
    for source in (ms.TensorSource(_rows(X)), ms.open_rows(X)):
        assert torch.equal(ms.fit("topk(k=3)", source, 16, **SETTINGS).W_D, raw.model.W_D)


@pytest.mark.parametrize(
    "rows",
    [(X, Y), DataLoader(TensorDataset(_rows(X), _rows(Y)), batch_size=7), (X.numpy(), Y)],
    ids=["pair", "loader", "mixed"],
)
def test_a_pair_trains_a_transcoder(rows: Any) -> None:
    wanted = train("topk_transcoder(k=3)", ms.TensorSource(_rows(X), _rows(Y)), 16, ms.FitConfig(**SETTINGS))
    assert torch.equal(ms.fit("topk_transcoder(k=3)", rows, 16, **RAW).W_D, wanted.model.W_D)
    if isinstance(rows, tuple):
        by_name = ms.fit("topk_transcoder(k=3)", rows[0], 16, target=rows[1], **RAW)
        assert torch.equal(by_name.W_D, wanted.model.W_D)


@pytest.mark.parametrize("rows", [[X, Y], (X, Y), {"layer.0": X, "layer.1": Y.numpy()}], ids=["list", "tuple", "dict"])
def test_several_sources_train_a_crosscoder(rows: Any) -> None:
    source = ms.TensorSource(torch.cat([_rows(X), _rows(Y)], 1), p_widths=(8, 6))
    wanted = train("topk_crosscoder(k=3)", source, 16, ms.FitConfig(**SETTINGS))
    result = ms.fit("topk_crosscoder(k=3)", rows, 16, **RAW)
    assert result.model.layout.p_widths == (8, 6)
    assert torch.equal(result.W_D, wanted.model.W_D)


def test_settings_stand_beside_a_config_or_in_its_place() -> None:
    both = ms.fit("topk(k=3)", X, 16, ms.FitConfig(steps=9, batch_size=8), steps=4, log_every=1)
    plain = ms.fit("topk(k=3)", X, 16, {"steps": 4, "batch_size": 8, "log_every": 1})
    assert both.about["config"] == plain.about["config"]
    assert torch.equal(both.W_D, plain.W_D)


def test_anchors_come_as_directions_and_as_a_file(tmp_path: Path) -> None:
    columns = torch.linalg.qr(torch.randn(8, 3)).Q
    given = ms.Anchors(columns, columns)
    given.save(tmp_path / "a.safetensors")
    wanted = ms.fit("topk(k=3)", X, 16, anchors=given, **RAW)
    for kind in (columns, columns.numpy(), tmp_path / "a.safetensors"):
        assert torch.equal(ms.fit("topk(k=3)", X, 16, anchors=kind, **RAW).W_D, wanted.W_D)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ms.fit("topk(k=4.5)", X, 16), "k=4.5, it must be int"),
        (lambda: ms.fit("relu_l1(l1=-1)", X, 16), "l1 weighs -1; a weight is at least 0"),
        (lambda: ms.fit("topk_transcoder(k=3)", X, 16), r"give a pair \(x_p, x_r\)"),
        (lambda: ms.fit("topk_transcoder(k=3)", ms.TensorSource(_rows(X)), 16), "would write what it reads"),
        (lambda: ms.fit("topk_crosscoder(k=3)", X, 16), "reads several sources, the data have 1"),
        (lambda: ms.fit("topk(k=3)", (X, Y), 16), "name a transcoder, as topk_transcoder"),
        (lambda: ms.fit("topk(k=3)", [X, Y], 16), "reads one source, the data have 2"),
        (lambda: ms.fit("topk(k=3)", torch.ones(50, 8), 16), "rows of x_p are the same; give rows that differ"),
        (lambda: ms.fit("topk(k=3)", X, 16, schedule="cosin"), "FitConfig: schedule='cosin'; give a WarmupDecay"),
        (lambda: ms.fit("topk(k=3)", X, 16, stps=4), "no setting 'stps'; did you mean steps?"),
        (lambda: ms.fit("topk(k=3)", X, "16"), "fit: n_q='16'; give a whole number"),  # type: ignore[arg-type]
        (lambda: ms.fit("topk(k=3)", X, nq=16), "did you mean n_q?"),  # type: ignore[call-arg]
        (lambda: ms.fit("topk(k=3)", iter([X]), 16), "has no length, and may not end"),
        (lambda: ms.fit("topk(k=3)", torch.full((9, 8), torch.nan), 16), "row 0, column 0 .* holds NaN; remove"),
        (lambda: ms.fit("topk(k=3)", X.long(), 16), r"x_p is a int64 tensor \[4, 16, 8\], not real numbers"),
        (lambda: ms.fit("topk(k=3)", "nothing.npy", 16), "nothing.npy does not exist; check the path"),
        (lambda: ms.discover(X, n_q=16), "argument 'n_q'; it takes rows, target, seed, most"),  # type: ignore[call-arg]
        (lambda: ms.fit("topk(k=3)", X, 16, lr=float("nan")), "lr=nan; it must be positive and finite"),
    ],
)
@pytest.mark.usefixtures("as_in_production")
def test_what_trains_nonsense_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(MonosemError, match=words) as refused:
        call()
    assert isinstance(refused.value, ArgumentError | DataError)
    assert "\n" not in str(refused.value)


def test_batches_of_other_widths_are_refused() -> None:
    loader = [torch.ones(3, 4), torch.ones(3, 5)]
    with pytest.raises(DataError, match=r"the sources of x_p have|a batch is a tensor|reads one source"):
        ms.open_rows(DataLoader(loader, batch_size=None))  # type: ignore[arg-type]


def test_batch_topk_keeps_a_fractional_mean() -> None:
    assert ms.fit("batch_topk(k=2.5)", X, 16, **RAW).model.activation.k == 2.5  # type: ignore[attr-defined]


def test_a_world_trains_and_scores() -> None:
    world = ms.World(ms.WorldSpec(12, (8, 8), 0.3, ms.bench.Independent(0.8), rows=512))
    result = ms.fit("topk(k=3)", world, 24, steps=200, batch_size=64, lr=0.01)
    scores = ms.score(result, world)
    assert scores["decoder_cosine.M_IP"] == pytest.approx(ms.evaluate(result, world)["decoder_cosine.M_IP"])
    assert ms.evaluate(result, world)["fvu"] < 0.4
    assert ms.fit("topk_crosscoder(k=3)", world, 24, steps=2).model.layout.p_widths == (8, 8)

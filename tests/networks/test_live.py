"""Rows straight from a network: every row once an epoch, shuffled, and the same at every call."""

from pathlib import Path

import pytest
import torch

from monosem.base.errors import ArgumentError, DataError
from monosem.core.io import load_model
from monosem.core.pairs import Source
from monosem.data.batches import TokenFilter
from monosem.networks.harvest import harvest
from monosem.networks.live import LiveSource
from monosem.train.config import FitConfig, Order
from monosem.train.loop import fit
from tests.networks.networks import Tiny, masked_batches

IN, OUT = "layers.1.mlp:in", "layers.1.mlp:out"


def _live(**options: object) -> LiveSource:
    given = {"keep": TokenFilter(first=1), "buffer": 16, "seed": 3, "normalise": False} | options
    return LiveSource(Tiny(), IN, OUT, masked_batches(), **given)  # type: ignore[arg-type]


def test_an_epoch_is_every_row_once_and_in_another_order(tmp_path: Path) -> None:
    live = _live()
    assert isinstance(live, Source)
    store = harvest(Tiny(), f"{IN}; {OUT}", masked_batches(), tmp_path, keep=TokenFilter(first=1))
    assert live.epoch_rows == store.rows
    index = torch.arange(store.rows)
    kept = torch.cat([store.table(site).take(index) for site in (IN, OUT)], 1)
    epochs = [torch.cat(live.take(index + e * store.rows), 1) for e in (0, 1)]
    for rows in (kept, *epochs):
        rows.copy_(rows[rows[:, 0].argsort()])
    for rows in epochs:
        torch.testing.assert_close(rows, kept)
    one, two = (live.take(index + e * store.rows)[0] for e in (0, 1))
    assert not torch.allclose(one, two)
    moved = (torch.cdist(one, store.table(IN).take(index)).argmin(1) - index).abs().double().mean()
    assert float(moved) > store.rows / 6  # batches are permuted, rows within a block too


def test_a_row_is_a_function_of_its_number() -> None:
    whole = _live()
    rows = whole.take(torch.arange(2 * whole.epoch_rows))[0]
    generator = torch.Generator().manual_seed(0)
    other = _live()
    for _ in range(20):
        index = torch.randint(0, 2 * whole.epoch_rows, (7,), generator=generator)
        assert torch.equal(other.take(index)[0], rows[index])
    far = torch.arange(5) + 2**50
    assert torch.equal(_live().take(far)[1], other.take(far)[1])
    assert not torch.equal(_live(seed=4).take(far)[1], other.take(far)[1])
    assert len({_live().digest, _live(seed=4).digest, _live(buffer=8).digest, _live(keep=None).digest}) == 4


def test_each_batch_runs_about_once_an_epoch() -> None:
    live = _live(buffer=10_000)
    ran = []
    live.runner.models[""].register_forward_pre_hook(lambda *_: ran.append(1))
    order = Order(None, 8, 0)
    start = int(order.index(0)[0])
    steps = 3 * live.epoch_rows // 8
    for step in range(steps):
        live.take(order.index(step))
    epochs = (start + 8 * steps - 1) // live.epoch_rows - start // live.epoch_rows + 1
    assert len(ran) == epochs * 5


def test_training_from_it_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Killed by a callback in the middle; the model that ends takes raw rows."""
    config = FitConfig(steps=30, batch_size=16, lr=3e-2, log_every=1, checkpoint_every=8, sample_rows=32)

    def stop(run: object, entry: dict[str, float]) -> None:
        if entry["step"] == 21:
            raise KeyboardInterrupt

    live = _live(normalise=True, buffer=40)
    whole = fit("topk_transcoder(k=3)", live, 24, config, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(
            "topk_transcoder(k=3)",
            _live(normalise=True, buffer=40),
            24,
            config,
            out=tmp_path / "part",
            callbacks=[stop],
        )
    fit("topk_transcoder(k=3)", _live(normalise=True, buffer=40), 24, config, out=tmp_path / "part")
    part = load_model(tmp_path / "part")
    assert torch.equal(part.W_E, whole.model.W_E)
    assert torch.equal(part.b_D, whole.model.b_D)
    x_p, x_r = _live().take(torch.arange(live.epoch_rows))
    with torch.no_grad():
        error = (part(x_p).x_r_hat - x_r).square().sum() / (x_r - x_r.mean(0)).square().sum()
    assert float(error) < 0.9


def test_an_sae_reads_one_side() -> None:
    live = LiveSource({"a": Tiny(), "b": Tiny(seed=1)}, "layers.0:out", None, masked_batches(), normalise=True)
    x_p, x_r = live.take(torch.arange(6))
    assert x_p is x_r
    assert live.p_widths == live.r_widths == (6, 6)


def test_wrong_input() -> None:
    with pytest.raises(ArgumentError, match="buffer=0"):
        _live(buffer=0)
    with pytest.raises(DataError, match="no batches to read"):
        LiveSource(Tiny(), IN, OUT, [])
    with pytest.raises(DataError, match="loosen the token filter"):
        _live(keep=TokenFilter(first=99))
    with pytest.raises(ArgumentError, match="training mode"):
        LiveSource(Tiny().train(), IN, OUT, masked_batches())

"""Rows straight from a network: a function of the seed and their number, from every kind of batches."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from monosem.base.errors import ArgumentError, DataError
from monosem.core.io import load_model
from monosem.core.pairs import LocatedSource, Source
from monosem.data.batches import TokenFilter
from monosem.data.source import StoreSource
from monosem.data.stream import SPAN
from monosem.networks.harvest import harvest
from monosem.networks.live import LiveSource
from monosem.networks.rewrite import rewriting
from monosem.networks.sites import find_sites
from monosem.train.config import FitConfig
from monosem.train.loop import Order, fit
from tests.networks.networks import Tiny, masked_batches

IN, OUT = "layers.1.mlp:in", "layers.1.mlp:out"
KEEP = TokenFilter(first=1)


def _live(batches: Any = None, **options: Any) -> LiveSource:
    given = {"keep": KEEP, "buffer": 16, "seed": 3, "normalise": False} | options
    return LiveSource(Tiny(), IN, OUT, masked_batches() if batches is None else batches, **given)


def _rows(source: LiveSource, first: int, last: int, step: int = 7) -> Tensor:
    """Rows [first, last), read in pieces as training reads them."""
    pieces = (torch.arange(start, min(start + step, last)) for start in range(first, last, step))
    return torch.cat([torch.cat(source.take(index), 1) for index in pieces])


class Saving:
    """Batches that can say where they are, as torchdata's and `datasets`' streams do."""

    def __init__(self) -> None:
        self.place, self.given = 0, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = masked_batches()
        while self.place < len(batches):
            self.place, self.given = self.place + 1, self.given + 1
            yield batches[self.place - 1]
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def test_an_epoch_is_every_row_once_and_in_another_order(tmp_path: Path) -> None:
    live = _live(buffer=10_000)
    assert isinstance(live, Source)
    assert isinstance(live, LocatedSource)
    store = harvest(Tiny(), f"{IN}; {OUT}", masked_batches(), tmp_path, keep=KEEP)
    index = torch.arange(store.rows)
    kept = torch.cat([store.table(site).take(index) for site in (IN, OUT)], 1)
    epochs = [torch.cat(live.take(index + e * store.rows), 1) for e in (0, 1)]
    assert not torch.allclose(*epochs)
    moved = (torch.cdist(epochs[0], kept).argmin(1) - index).abs().double().mean()
    assert float(moved) > store.rows / 6
    for rows in (kept, *epochs):
        rows.copy_(rows[rows[:, 0].argsort()])
    for rows in epochs:
        torch.testing.assert_close(rows, kept)


def test_streams_and_edits_of_one_network_leave_each_other_alone() -> None:
    """Two streams run ahead over a network that this thread changes and runs: their rows are the network's own."""
    model, batch = Tiny(), masked_batches()[0]
    alone = [
        _rows(LiveSource(Tiny(), site, None, masked_batches(), buffer=16, normalise=False), 0, 400)
        for site in (IN, OUT)
    ]
    streams = [LiveSource(model, site, None, masked_batches(), buffer=16, normalise=False) for site in (IN, OUT)]
    sites, plain = find_sites({"": model}, "layers.0:out"), model(batch["input_ids"])
    parts: list[list[Tensor]] = [[], []]
    with rewriting(model, [(sites[0], torch.zeros_like)]):
        for first in range(0, 400, 8):
            assert not torch.allclose(model(batch["input_ids"]), plain)
            for stream, rows in zip(streams, parts, strict=True):
                rows.append(_rows(stream, first, first + 8))
    for stream, rows, wanted in zip(streams, parts, alone, strict=True):
        stream.close()
        assert torch.equal(torch.cat(rows), wanted)


def test_rows_know_their_tokens() -> None:
    live = _live()
    x_p = live.take(torch.arange(12))[0]
    where = live.where(torch.arange(12))
    embedded = Tiny().embed.weight
    assert where.token is not None
    assert where.position is not None
    with torch.no_grad():
        wanted = Tiny().layers[0](mask=None, hidden_states=embedded[where.token])[0]  # no token sees another
    torch.testing.assert_close(x_p, wanted)
    assert int(where.position.min()) >= 1


@pytest.mark.parametrize("kind", ["list", "saving", "function", "loader"])
def test_a_row_is_a_function_of_its_number(kind: str, tmp_path: Path) -> None:
    """Read on, read again from the start, from the middle by another object, with a cursor and without."""

    def batches() -> Any:
        tokens = TensorDataset(torch.arange(120).reshape(20, 6) % 40, torch.arange(20))
        makers = {"list": masked_batches, "saving": Saving, "function": lambda: lambda: iter(masked_batches())}
        return makers[kind]() if kind in makers else DataLoader(tokens, batch_size=4)

    file = tmp_path / "cursor.json"
    whole = _live(batches(), cursor=file)
    rows = _rows(whole, 0, 300)
    assert torch.equal(_rows(whole, 40, 60), rows[40:60])  # back
    assert torch.equal(_rows(_live(batches()), 150, 200), rows[150:200])
    far = _live(batches(), cursor=file)
    ran: list[int] = []
    far.producer.runner.models[""].register_forward_pre_hook(lambda *_: ran.append(1))
    assert torch.equal(_rows(far, 280, 300), rows[280:])
    assert len(ran) < 12  # two blocks of 16 rows and the room ahead, not 280 rows
    far.close()
    assert torch.equal(_rows(far, SPAN * 5, SPAN * 5 + 20), rows[:20])
    assert not torch.equal(_rows(_live(batches(), seed=4), 0, 20), rows[:20])
    digests = {_live(batches(), **o).digest for o in ({}, {"seed": 4}, {"buffer": 8}, {"keep": None}, {"about": 1})}
    assert len(digests) == 5


def _outliers() -> Tiny:
    """A network whose token 9 is far longer than others."""
    model = Tiny()
    with torch.no_grad():
        model.embed.weight[9] *= 300
    return model


def test_rows_far_longer_than_most_are_left_out(tmp_path: Path) -> None:
    """Those that a store leaves out, once an epoch and row; whoever reads on, again, or from a cursor sees the same."""
    store = StoreSource(
        harvest(_outliers(), f"{IN}; {OUT}", masked_batches(), tmp_path / "acts", keep=KEEP), IN, OUT, normalise=False
    )
    total, far = store.rows, store.ordinary()
    assert 0 < far < total / 5
    options: dict[str, Any] = {"keep": KEEP, "normalise": False, "norm_limit": 5, "buffer": 16}
    options["cursor"] = tmp_path / "cursor.json"
    source = LiveSource(_outliers(), IN, OUT, masked_batches(), **options)
    rows = _rows(source, 0, 16 * store.rows)
    kept = torch.cat(store.take(torch.arange(store.rows)), 1).repeat(16, 1)
    torch.testing.assert_close(rows[rows[:, 0].argsort()], kept[kept[:, 0].argsort()])
    left_out, seen = source.left_out
    assert left_out / seen == pytest.approx(far / total, abs=0.02)
    where = source.where(torch.arange(16 * store.rows, 16 * store.rows + 8))
    assert where.token is not None
    assert 9 not in where.token
    source.close()
    assert torch.equal(_rows(LiveSource(_outliers(), IN, OUT, masked_batches(), **options), 280, 300), rows[280:300])
    apart = LiveSource(_outliers(), IN, OUT, masked_batches(), **options | {"cursor": None})
    assert torch.equal(_rows(apart, 150, 170), rows[150:170])
    assert apart.ordinary([torch.ones(2, 6), torch.ones(2, 6) * torch.tensor([[1.0], [1e4]])]).tolist() == [True, False]
    with pytest.raises(ArgumentError, match="norm_limit=1; it is a multiple"):
        _live(norm_limit=1)


def test_a_cursor_spares_reading_again(tmp_path: Path) -> None:
    file = tmp_path / "cursor.json"
    rows = _rows(_live(Saving(), cursor=file), 0, 400)
    late = Saving()
    source = _live(late, cursor=file)
    late.given = 0
    assert torch.equal(_rows(source, 350, 400), rows[350:])
    assert late.given < 12  # 400 rows are some 25 batches


def test_an_iterator_is_read_once() -> None:
    rows = _rows(_live(lambda: iter(masked_batches())), 0, 48)
    once = _live(iter(masked_batches()))
    assert torch.equal(_rows(once, 0, 48), rows)
    with pytest.raises(DataError, match="an iterator cannot be read again from its start"):
        once.take(torch.arange(3))
    short = _live(iter(masked_batches()))
    with pytest.raises(DataError, match=r"the stream ends after \d+ rows, training asks for row 69"):
        _rows(short, 0, 1000)


def test_the_ring_does_not_grow_and_runs_ahead() -> None:
    """The network runs on by a block and a quarter, and no further."""
    live = _live(buffer=40)
    ran: list[int] = []
    live.producer.runner.models[""].register_forward_pre_hook(lambda *_: ran.append(1))
    live.take(torch.arange(4))
    deadline = time.monotonic() + 5
    while live._ring.arrived < live._ring.slots and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live._ring.arrived == live._ring.slots == 50
    held_before = [x.data_ptr() for x in live._ring.rows]
    _rows(live, 4, 2000, 16)
    assert [x.data_ptr() for x in live._ring.rows] == held_before
    assert len(ran) > 50


def test_several_dictionaries_from_one_pass() -> None:
    """Two loops in two threads, of different sites; every batch runs once, and each sees what it would see alone."""
    config = FitConfig(steps=20, batch_size=8, sample_rows=16)
    both = LiveSource(Tiny(), "layers.*:out", None, masked_batches(), keep=KEEP, buffer=40, normalise=False)
    views = [both.view(both.sites_of(f"layers.{i}:out")) for i in (0, 2)]
    both.close()
    ran: list[int] = []
    both.producer.runner.models[""].register_forward_pre_hook(lambda *_: ran.append(1))
    models: dict[int, Any] = {}

    def train(number: int) -> None:
        models[number] = fit("topk(k=2)", views[number], 12, config).model
        views[number].close()

    threads = [threading.Thread(target=train, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows_a_batch = sum(KEEP(b["input_ids"], b["attention_mask"].bool()).sum() for b in masked_batches()) / 5
    assert len(ran) < 2 * (20 * 8 + 50) / float(rows_a_batch)
    for number, layer in ((0, 0), (1, 2)):
        alone = LiveSource(Tiny(), "layers.*:out", None, masked_batches(), keep=KEEP, buffer=40, normalise=False)
        view = alone.view(alone.sites_of(f"layers.{layer}:out"))
        alone.close()
        assert torch.equal(fit("topk(k=2)", view, 12, config).model.W_D, models[number].W_D)
    with pytest.raises(ArgumentError, match=r"\['layers.1:in'\] are not read by this stream"):
        both.sites_of("layers.1:in")


def test_training_from_it_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Killed by a callback in the middle; the model that ends takes raw rows."""
    config = FitConfig(steps=30, batch_size=16, lr=3e-2, log_every=1, checkpoint_every=8, sample_rows=32)

    def stop(run: object, entry: dict[str, float]) -> None:
        if entry["step"] == 21:
            raise KeyboardInterrupt

    def run(name: str, **more: Any) -> Any:
        live = _live(normalise=True, buffer=40, cursor=tmp_path / f"{name}.json")
        return fit("topk_transcoder(k=3)", live, 24, config, out=tmp_path / name, **more)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("part", callbacks=[stop])
    run("part")
    part = load_model(tmp_path / "part")
    assert torch.equal(part.W_E, whole.model.W_E)
    assert torch.equal(part.b_D, whole.model.b_D)
    x_p, x_r = _live().take(torch.arange(100))
    with torch.no_grad():
        error = (part(x_p).x_r_hat - x_r).square().sum() / (x_r - x_r.mean(0)).square().sum()
    assert float(error) < 0.9


class Slow(nn.Module):
    """Some rows after a wait that takes no processor: a network on another device."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.tap = seconds, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.tap(x)  # type: ignore[no-any-return]


def test_training_does_not_wait_for_a_network_that_is_faster() -> None:
    """A step of 30 ms, a pass of 10 ms for its rows: hardly a step waits as long as a pass takes."""
    rows = [torch.randn(32, 4, generator=torch.Generator().manual_seed(n)) for n in range(40)]
    live = LiveSource(Slow(0.01).eval(), "tap:out", None, rows, buffer=256, normalise=False)
    live.take(torch.arange(32))
    order, waits = Order(None, 32, 0), []
    for step in range(40):
        before = live._ring.waited
        live.take(order.index(step))
        waits.append(live._ring.waited - before)
        time.sleep(0.03)
    assert sum(wait > 0.01 for wait in waits) <= 4  # all of them, were the network run in turn with training
    assert 0 < live.waited < 0.5


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
    with pytest.raises(ArgumentError, match="without gaps"):
        _live().take(torch.tensor([0, 2]))

    def broken() -> Iterator[Any]:
        yield masked_batches()[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        _rows(_live(broken), 0, 100)

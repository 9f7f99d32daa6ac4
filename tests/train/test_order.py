"""Which rows a step sees: whole epochs without gaps, a function of the step alone, streams that never repeat."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monosem.base.errors import ArgumentError
from monosem.train.config import FitConfig
from monosem.train.loop import Order


@given(rows=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(-3, 2**70))
def test_every_epoch_visits_every_row_once(rows: int, batch: int, seed: int) -> None:
    order, epochs = Order(rows, batch, seed), 3
    steps = -(-epochs * rows // batch)
    seen = torch.cat([order.index(step) for step in range(steps)])
    assert seen.shape == (steps * batch,)
    for epoch in range(epochs):
        assert seen[epoch * rows : (epoch + 1) * rows].sort().values.tolist() == list(range(rows))


@given(
    rows=st.one_of(st.none(), st.integers(1, 40)),
    batch=st.integers(1, 50),
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=6),
)
def test_a_step_sees_the_same_rows_whatever_was_asked_before(rows: int | None, batch: int, steps: list[int]) -> None:
    order = Order(rows, batch, 3)
    for step in steps:
        assert torch.equal(order.index(step), Order(rows, batch, 3).index(step))


def test_epochs_differ_and_so_do_seeds() -> None:
    order = Order(50, 50, 0)
    assert not torch.equal(order.index(0), order.index(1))
    assert not torch.equal(order.index(0), Order(50, 50, 1).index(0))


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_is_read_forward_and_never_repeats(seed: int) -> None:
    order = Order(None, 64, seed)
    seen = torch.cat([order.index(step) for step in range(20)])
    assert torch.equal(seen, seen[0] + torch.arange(20 * 64))
    assert int(seen[0]) >= 0
    assert int(Order(None, 1, seed).index(2**36 - 1)) > int(seen[0])  # and holds no overflow after 2^36 rows


def test_streams_of_different_seeds_do_not_overlap() -> None:
    starts = sorted(int(Order(None, 1, seed).index(0)) for seed in range(100))
    assert min(later - earlier for earlier, later in itertools.pairwise(starts)) >= 2**36


def test_a_batch_size_does_not_change_the_order() -> None:
    small, large = Order(30, 4, 1), Order(30, 12, 1)
    assert torch.equal(torch.cat([small.index(step) for step in range(6)]), torch.cat([large.index(0), large.index(1)]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"sample_rows": 0}, "sample_rows=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"dead_window": 0}, "dead_window=0"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_a_wrong_number_is_named(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        FitConfig(**wrong)


def test_the_window_is_a_tenth_of_the_run_at_most_ten_million() -> None:
    assert FitConfig(steps=100, batch_size=10).window == 100
    assert FitConfig(steps=1, batch_size=1).window == 1
    assert FitConfig(steps=10**6, batch_size=10**4).window == 10**7
    assert FitConfig(dead_window=7).window == 7

"""Identification from rows alone: solo rows, flats, atoms that rows leave open, and wrong ones without evidence."""

from math import comb

import numpy as np
import pytest
import torch

from monosem.base.errors import ShapeError
from monosem.bench.world import World
from monosem.bench.worlds import world_spec
from monosem.dictionary.identified import _tail, identified


def _rows(parts: str, rows: int = 3000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    world = World(world_spec(f"world(n=15, d=10, rows={rows}) + {parts}", seed=3))
    return world.W[0], world.rows(0, rows).sources[0], world.offset(0)


def test_features_that_fire_alone_are_identified_in_a_cone_and_behind_an_offset() -> None:
    W, x, b = _rows("independent(rate=0.1) + cone(cosine=0.4) + offset(length=3.0)")
    assert set(identified(W, x, offset=b).by) == {"solo"}
    assert identified(W, x, offset=b).silent > 300


def test_features_that_never_fire_alone_are_identified_by_flats() -> None:
    W, x, _ = _rows("exclusive(size=5, present=0.999)")
    evidence = identified(W, x)
    assert evidence.by.count("flats") >= 13
    assert "solo" not in evidence.by


def test_mixtures_of_features_get_no_solo_rows_and_true_directions_do() -> None:
    W, x, _ = _rows("independent(rate=0.1)")
    mixed = torch.nn.functional.normalize(W[:, :5] + W[:, 5:10], dim=0)
    evidence = identified(torch.cat([W, mixed], 1), x)
    assert evidence.by == ["solo"] * 15 + ["open"] * 5
    instead = identified(torch.cat([W[:, 5:], mixed], 1), x)  # where one of the two is missing
    assert instead.by[-5:].count("open") >= 4


def test_in_noise_beyond_the_angle_every_atom_is_open() -> None:
    W, x, _ = _rows("independent(rate=0.1) + noise(db=5)")
    assert set(identified(W, x).by) == {"open"}


def test_constant_sizes_leave_open_what_always_fires_together() -> None:
    rng = np.random.default_rng(0)
    on = rng.random((2000, 6)) < 0.15
    on[:, 0] = on[:, 1]
    D = torch.eye(8)[:, :6]
    constant = torch.from_numpy(on).float() @ D.T
    evidence = identified(D, constant)
    assert evidence.by[:2] == ["open", "open"]
    assert evidence.companion[:2].tolist() == [1, 0]
    assert evidence.free[0] == pytest.approx(0.5**0.5, abs=0.02)
    varied = torch.from_numpy(on * rng.exponential(size=on.shape)).float() @ D.T
    assert identified(D, varied).by[:2] == ["flats", "flats"]


def test_the_probability_is_that_of_a_fair_coin() -> None:
    every = torch.arange(13).repeat(4)
    some = (every * torch.tensor([0.0, 0.5, 0.8, 1.0]).repeat_interleave(13)).long()
    exact = [
        sum(comb(n, i) for i in range(k, n + 1)) / 2**n for k, n in zip(some.tolist(), every.tolist(), strict=True)
    ]
    assert _tail(some, every) == pytest.approx(exact)


def test_widths_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match="D has 4 rows, x 5 columns"):
        identified(torch.eye(4), torch.zeros(3, 5))

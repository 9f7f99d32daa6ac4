"""The model of discovery: its coder against brute force, its scores against the law, what it finds and denies."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.base.errors import DataError
from monosem.bench.metrics import recall_precision
from monosem.bench.world import World
from monosem.bench.worlds import world_spec
from monosem.dictionary.climb import Settings
from monosem.dictionary.discover import Discovery, agreement, confidence_of, dense_factors, discover, mode
from monosem.dictionary.model_search import (
    SKEW_MOVES,
    Plan,
    Rows,
    composite,
    extended,
    fitted,
    mirrored,
    polished,
    pruned,
    scored,
    straightened,
    without,
)
from monosem.dictionary.priced import priced_pursuit
from monosem.dictionary.sparse_model import SparseModel, described, fit_background, gain

QUICK = Settings(short=10, passes=12, tries=0, skew_tries=0)


def unit(d: int, m: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(d, m, generator=torch.Generator().manual_seed(seed)), dim=0)


def cheapest(y: Tensor, A: Tensor, price: Tensor) -> float:
    """min over supports of at most three atoms, positive coefficients: |y - A z|^2 / 2 + prices."""
    best = float(y.square().sum()) / 2
    for size in (1, 2, 3):
        for support in itertools.combinations(range(A.shape[1]), size):
            part = A[:, support]
            z = torch.linalg.lstsq(part, y[:, None]).solution[:, 0]
            if bool((z > 0).all()):
                cost = float((y - part @ z).square().sum()) / 2 + float(price[list(support)].sum())
                best = min(best, cost)
    return best


def test_codes_cost_what_brute_force_finds() -> None:
    A, rng = 20 * unit(12, 9), np.random.default_rng(0)
    z = torch.from_numpy(rng.exponential(size=(40, 9)) * (rng.random((40, 9)) < 0.15)).float()
    y = z @ A.T + torch.from_numpy(rng.standard_normal((40, 12))).float()
    price = torch.linspace(2.0, 6.0, 9)
    code = priced_pursuit(y @ A, y.square().sum(1), A.T @ A, price)
    best = torch.tensor([cheapest(row, A, price) for row in y])
    few = (z > 0).sum(1) <= 3
    assert float((code.loss - best)[few].quantile(0.95)) < 1e-2
    assert torch.allclose(code.error, (y - code.dense(9) @ A.T).square().sum(1), rtol=1e-3, atol=0.2)
    assert bool((code.value >= 0).all())
    assert bool((code.worth >= 0).all())
    worth = code.sum_of(code.worth, 9)
    assert worth.shape == (9,)


def test_a_barred_atom_does_not_enter() -> None:
    A = 10 * unit(12, 9)
    y = (A[:, :3].sum(1) * 2).expand(4, 12)
    barred = torch.tensor([[0], [1], [2], [5]])
    code = priced_pursuit(y @ A, y.square().sum(1), A.T @ A, torch.full((9,), 3.0), barred=barred)
    z = code.dense(9)
    assert z.gather(1, barred).flatten().tolist() == [0.0] * 4
    assert z[3, :3].tolist() == pytest.approx([2.0] * 3, rel=1e-3)


def test_a_whitener_is_the_root_of_the_noises_inverse() -> None:
    factors = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    model = SparseModel(unit(8, 5), torch.zeros(8), 0.3, factors, torch.full((5,), 0.1), torch.ones(5))
    S = 0.09 * torch.eye(8) + factors @ factors.T
    assert torch.allclose(model.whitener @ S @ model.whitener, torch.eye(8), atol=1e-4)
    assert model.volume == pytest.approx(-0.5 * float(torch.logdet(S.double())), rel=1e-4)


def test_a_density_integrates_to_one_in_each_part() -> None:
    """One dimension, one atom: quadrature of the background, and of the silent part of the sparse law."""
    x = torch.linspace(-60, 60, 120_001)[:, None]
    rows = torch.from_numpy(np.random.default_rng(0).standard_t(4, (4000, 1))).float()
    law = fit_background(rows)
    assert float(law.log_density(x).double().exp().sum()) * 1e-3 == pytest.approx(1.0, abs=0.02)
    model = SparseModel(torch.ones(1, 1), torch.zeros(1), 0.5, torch.zeros(1, 0), torch.tensor([0.2]), torch.ones(1))
    silent = model.log_sparse(x.square().sum(1) / 2 / 0.25)
    assert float(silent.double().exp().sum()) * 1e-3 == pytest.approx(0.8, abs=0.01)


@pytest.fixture(scope="module")
def world() -> World:
    return World(world_spec("world(n=24, d=16, rows=1000) + independent(rate=0.08) + clusters(cosine=0.5)", seed=5))


def truth(world: World, rows: int = 1000) -> tuple[Tensor, SparseModel]:
    drawn = world.rows(0, rows)
    return drawn.sources[0], described(world.W[0], drawn.sources[0])


def test_the_truth_beats_fewer_and_more_atoms_and_any_other_dictionary(world: World) -> None:
    x, model = truth(world)
    rows = Rows(x, 0)
    score = scored(rows, model).score
    assert score > scored(rows, without(model, torch.arange(24) > 0)).score + 100
    assert score > scored(rows, extended(model, unit(16, 4, 3), 0.5, 1000)).score
    held = world.held_out(400).sources[0]
    law = fit_background(x)
    assert gain(model, held, law) > gain(described(unit(16, 24, 1), x), held, law) + 10


def test_pruning_takes_wrong_atoms_that_prop_each_other_up(world: World) -> None:
    x, model = truth(world)
    mixed = torch.nn.functional.normalize(model.D[:, :8] + model.D[:, 8:16], dim=0)
    crowded = extended(model, mixed, 1.0, 1000)
    left = pruned(Rows(x, 0), crowded, 0)
    scores = recall_precision(left.D, world.W[0])
    assert scores["recall"] == 1.0
    assert scores["precision"] == 1.0


def test_a_move_drops_mixtures(world: World) -> None:
    x, model = truth(world)
    mixed = extended(model, torch.nn.functional.normalize(model.D[:, :1] + model.D[:, 10:11], dim=0), 1.0, 1000)
    dropped = composite(Rows(x, 0), scored(Rows(x, 0), mixed), 0)
    assert dropped is not None
    assert float((dropped.D.T @ mixed.D[:, -1]).max()) < 0.99
    assert dropped.m >= 22


SIGNED = "world(n=16, d=14, rows=1500, signed=True) + independent(rate=0.06)"


def test_a_skew_atom_and_what_sets_it_right_become_the_feature() -> None:
    x, model = truth(world := World(world_spec(SIGNED, seed=1)))
    both = torch.cat([model.D, -model.D], 1)
    whole = scored(Rows(x, 0), described(both, x, passes=20))
    skew = both.clone()
    skew[:, 0] = torch.nn.functional.normalize(both[:, 0] - 0.6 * both[:, 1], dim=0)
    state = scored(Rows(x, 0), replace(whole.model, D=skew))
    assert state.score < whole.score - 100
    straight = straightened(Rows(x, 0), state, 0)
    assert straight is not None
    assert float((skew.T @ both[:, 0]).max()) < 0.95 < 0.999 < float((straight.D.T @ both[:, 0]).max())
    better = polished(Rows(x, 0), state, 4, False, None, SKEW_MOVES)
    assert better.score > whole.score - 100
    assert recall_precision(better.model.D, world.W[0])["recall"] == 1.0
    assert straightened(Rows(x, 0), whole, 0) is None


def test_signs_are_given_where_atoms_have_opposites() -> None:
    x, model = truth(World(world_spec(SIGNED, seed=1)))
    assert mirrored(Rows(x, 0), scored(Rows(x, 0), model), 0) is None
    some = replace(
        model,
        D=torch.cat([model.D, -model.D[:, :4]], 1),
        rates=torch.cat([model.rates, model.rates[:4]]),
        sizes=torch.cat([model.sizes, model.sizes[:4]]),
    )
    both = mirrored(Rows(x, 0), scored(Rows(x, 0), some), 0)
    assert both is not None
    assert both.m == 32
    assert float((both.D.T @ both.D).amin(1).max()) < -0.999
    assert mirrored(Rows(x, 0), scored(Rows(x, 0), both), 0) is None


def test_a_fit_cools_to_the_noise() -> None:
    world = World(world_spec("world(n=16, d=12, rows=1000) + independent(rate=0.1) + noise(db=15)", seed=2))
    x, model = truth(world)
    state = fitted(Rows(x, 0), model, Plan(passes=10, breeding=0.0))
    assert state.model.noise == pytest.approx(world.noise(0)[0], rel=0.1)


@pytest.mark.parametrize(
    "parts", ["clusters(cosine=0.7)", "cone(cosine=0.3)", "offset(length=6.0)", "factors(count=2)"], ids=str
)
def test_discovery_works_where_features_are_coherent_or_rows_hold_more(parts: str) -> None:
    world = World(world_spec(f"world(n=18, d=14, rows=1200) + independent(rate=0.08) + {parts}", seed=7))
    result = discover(world.rows(0, 1200).sources[0], settings=QUICK)
    scores = recall_precision(result.anchors.p, world.W[0])
    assert scores["recall"] >= 0.9, scores
    assert scores["precision"] >= 0.9, scores
    assert result.gain > 5
    assert result.sparse


@pytest.mark.parametrize("kind", ["gaussian", "student"])
def test_rows_without_a_code_are_said_to_have_none(kind: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((600, 8)) if kind == "gaussian" else rng.standard_t(4, (600, 8))
    x = torch.from_numpy(rows).float()
    quick = Settings(short=8, passes=8, tries=0)
    with pytest.raises(DataError, match="no direction stands out"):
        check_sparse(discover(x, settings=quick))


def check_sparse(result: Discovery) -> None:
    """Rows without a code end in either of two ways: no atom is left, or those that are left gain nothing."""
    assert not result.sparse, (result.gain, result.outside)
    raise DataError("no direction stands out: nothing is gained")


def test_agreement_needs_both_halves_and_confidence_follows_it() -> None:
    D = torch.eye(4)[:, :3]
    turned = torch.nn.functional.normalize(D + 0.3 * D.roll(1, 1), dim=0)
    agreed = agreement(D, D[:, [2, 0]], D)
    assert agreed.tolist() == [1.0, 0.0, 1.0]
    least = float(agreement(D, D, turned).min())
    assert least == pytest.approx(1 / math.sqrt(1.09), abs=1e-5)
    assert agreement(D, torch.zeros(4, 0), D).tolist() == [-1.0] * 3
    rising = confidence_of(torch.tensor([-1.0, 0.85, 0.92, 0.96, 0.99]))
    assert bool((rising.diff() > 0).all())


def test_starts_see_an_offset_and_dense_factors() -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.exponential(size=(1000, 10)) * (rng.random((1000, 10)) < 0.1)).float()
    b = torch.full((10,), 3.0)
    assert float((mode(x + b) - b).norm()) < 0.1
    assert dense_factors(x).shape[1] == 0
    basis = torch.linalg.qr(torch.from_numpy(rng.standard_normal((10, 2))))[0].float()
    dense = x + torch.from_numpy(rng.standard_normal((1000, 2))).float() @ basis.T * 2
    factors = dense_factors(dense)
    assert factors.shape[1] == 2
    assert float((torch.linalg.qr(factors)[0].T @ basis).norm()) == pytest.approx(2**0.5, abs=0.05)

"""Laws in parts: rates and pairs by chi^2, sizes by Kolmogorov and Smirnov, geometry, background, worlds as text."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, MonosemError, UnknownNameError
from monosem.bench.laws_firing import FIRINGS, Blocks, Copula, Exclusive, Firing, IndependentFiring, Subspaces, Tree
from monosem.bench.laws_sizes import SIZES, Composed, Constant, Exponential, Lognormal, Pareto, Sizes
from monosem.bench.surroundings import BACKGROUNDS, GEOMETRIES, Clusters, Cone, Duplicates, Noise, Offset
from monosem.bench.task_scores import oracle
from monosem.bench.tasks import TASKS, WORLDS, TaskSource, task
from monosem.bench.world import BLOCK, World, WorldSpec
from monosem.bench.worlds import grid_text, world_spec

N, ROWS = 24, 40 * BLOCK
FIRING: list[Firing] = [
    IndependentFiring(0.1),
    IndependentFiring(0.05, zipf=1.2),
    Copula(0.1, strength=0.6, rank=3),
    Copula(0.05, zipf=0.8, strength=0.3),
    Blocks(0.08, 0.4),
    Blocks(0.1, 1.0, size=4),
    Exclusive(7),
    Exclusive(6, 0.5),
    Tree((2, 2), trees=3, root=0.3, follow=0.5, free=0.1),
    Tree((3,), trees=4, root=0.2, follow=0.7, exclusive=True, zipf=0.5),
    Subspaces(3, 0.1),
]
SIZE: list[Sizes] = [Exponential(0.5, 2.0), Constant(2.0), Pareto(1.5), Lognormal(0.7)]


def chi2_tail(statistic: float, degrees: int) -> float:
    from scipy.stats import chi2

    return float(chi2.sf(statistic, degrees))


def drawn(firing: Firing, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(7)
    mask = np.zeros((rows, N), dtype=bool)
    for block in range(0, rows, BLOCK):
        cells = firing.fires(rng, BLOCK, N)
        assert (np.diff(cells) > 0).all()
        mask[block : block + BLOCK].ravel()[cells] = True
    return mask


@pytest.mark.parametrize("firing", FIRING, ids=repr)
def test_rates_and_pairs_are_those_stated(firing: Firing) -> None:
    """Each count against its law; the squares of the z's against chi^2, and no pair beyond 5.5."""
    mask = drawn(firing).astype(float)
    p, both = firing.rates(N), firing.together(N)
    assert np.allclose(np.diag(both), p)
    z = (mask.sum(0) - ROWS * p) / np.sqrt(ROWS * p * (1 - p))
    assert np.abs(z).max() < 5
    if isinstance(firing, IndependentFiring):
        assert chi2_tail(float((z**2).sum()), N) > 1e-4
    count, wanted = mask.T @ mask, ROWS * both
    above = np.triu_indices(N, 1)
    error = np.sqrt(np.maximum(wanted * (1 - both), 1e-12))[above]
    never = wanted[above] == 0
    assert (count[above][never] == 0).all()
    pairs = ((count - wanted)[above] / error)[~never]
    assert np.abs(pairs).max() < 5.5
    assert chi2_tail(float((pairs**2).mean()) * 50, 50) > 1e-6  # 50: pairs are dependent


def test_a_copula_is_not_independent_and_blocks_are_what_they_say() -> None:
    copula = Copula(0.1, strength=0.6, rank=3)
    lift = copula.together(N) / np.outer(copula.rates(N), copula.rates(N))
    off = lift[~np.eye(N, dtype=bool)]
    assert off.max() > 2
    assert off.min() < 0.6
    mask = drawn(Blocks(0.08, 0.4))
    assert mask[mask[:, 0], 1].mean() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_trees_children_follow_their_parents(exclusive: bool) -> None:
    tree = Tree((3, 2), trees=2, root=0.3, follow=0.6, exclusive=exclusive, free=0.1)
    mask, parent = drawn(tree), tree.parent_of(N)
    children = np.flatnonzero(parent >= 0)
    assert children.size == 2 * (3 + 6)
    for child in children:
        assert mask[mask[:, child], parent[child]].all()
    together = np.array([mask[:, children[parent[children] == q]].sum(1).max() for q in set(parent[children])])
    assert (together == 1).all() if exclusive else (together > 1).all()


def law_of(sizes: Sizes) -> Any:
    """The law that a class of sizes names, as scipy has it."""
    from scipy import stats

    if isinstance(sizes, Exponential):
        return stats.expon(sizes.c_min, sizes.beta)
    return stats.pareto(sizes.exponent) if isinstance(sizes, Pareto) else stats.lognorm(vars(sizes)["sd"])


@pytest.mark.parametrize("sizes", [one for one in SIZE if not isinstance(one, Constant)], ids=repr)
def test_sizes_have_the_tail_stated(sizes: Sizes) -> None:
    values = np.sort(sizes.draw(np.random.default_rng(3), 20_000))
    assert values.min() > 0
    empirical = 1 - np.arange(1, values.size + 1) / values.size
    gap = np.abs(empirical - law_of(sizes).sf(values)).max()
    assert gap < 2.2 / np.sqrt(values.size)  # Kolmogorov: 1 in 8,000


def test_signs_scales_and_spheres() -> None:
    rng = np.random.default_rng(0)
    law = Composed(IndependentFiring(0.3), Constant(1.0), spread=1.0, signed=True)
    cells, values = law.draw(rng, 4096, N)
    assert np.allclose(np.abs(values), law.scales(N)[cells % N])
    assert abs(np.sign(values).mean()) < 5 / np.sqrt(values.size)
    assert law.has_signs(N)
    assert not Composed().has_signs(N)
    cells, values = Composed(Subspaces(3, 0.2), Constant(2.0)).draw(rng, 4096, N)
    points = values.reshape(-1, 3)
    assert np.allclose(np.linalg.norm(points, axis=1), 2.0)
    assert np.abs(points.mean(0)).max() < 0.1
    assert np.allclose(np.cov(points.T), np.eye(3) * 4 / 3, atol=0.15)


def test_groups_are_halves_by_rate() -> None:
    law = Composed(IndependentFiring(0.05, zipf=1.0))
    rare = law.group("rare", N)
    assert rare.sum() == N // 2
    assert law.rates(N)[rare].max() <= law.rates(N)[~rare].min()
    with pytest.raises(ArgumentError, match="parents"):
        law.group("parents", N)


def cosines(*geometry: object) -> np.ndarray:
    spec = WorldSpec(60, (64,), 0.2, Composed(), rows=100, geometry=geometry)  # type: ignore[arg-type]
    W = World(spec).W[0].double()
    assert torch.allclose(W.norm(dim=0), torch.ones(60).double(), atol=1e-6)
    return (W.T @ W).numpy()


def test_geometries_are_where_they_say() -> None:
    off = ~np.eye(60, dtype=bool)
    assert abs(cosines()[off].mean()) < 0.05
    assert cosines(Cone(0.3))[off].mean() == pytest.approx(0.3, abs=0.04)
    block = np.arange(60)[:, None] // 5 == np.arange(60) // 5
    gram = cosines(Clusters(0.6))
    assert gram[block & off].mean() == pytest.approx(0.6, abs=0.04)
    assert abs(gram[~block].mean()) < 0.05
    twins = cosines(Duplicates(4, 0.9))
    assert [twins[i, 59 - i] for i in range(4)] == pytest.approx([0.9] * 4, abs=1e-6)


@pytest.mark.parametrize("rows", [None, 3000])
def test_the_background_has_the_same_bits_however_rows_are_asked_for(rows: int | None) -> None:
    spec = replace(world_spec("world(n=20, d=16) + noise(db=10) + factors(count=2) + offset(length=3.0)"), rows=rows)
    world, index = World(spec), torch.tensor([2047, 3, 1024, 3, 2999])
    for place, row in enumerate(index.tolist()):
        assert torch.equal(world.take(index).sources[1][place], World(spec).rows(row, row + 1).sources[1][0])
    around = world.rows(0, 2000).sources[0] - world.rows(0, 2000).features.map(world.W[0].T)
    apart = World(replace(spec, background=())).rows(0, 2000)
    assert torch.equal(apart.features.value, world.rows(0, 2000).features.value)
    energy = apart.sources[0].double().square().sum(1).mean()
    assert float(world.offset(0).norm()) == pytest.approx(3.0, rel=1e-5)
    spread = (around - world.offset(0)).double().square().sum(1).mean()
    assert float(spread / energy) == pytest.approx(1.1, rel=0.1)  # factors as much again, noise a tenth
    held = world.held_out(2000)
    assert not torch.equal(held.sources[0], world.rows(0, 2000).sources[0])


def test_worlds_without_surroundings_keep_their_digests() -> None:
    """Digests of data and specification as they were before worlds had surroundings."""
    nano = task("lrb/nano")
    assert nano.digest == "b2fe56604ac4849db12670df3bc98b4b6d24984cdcd8cea33caf04498531ecd0"
    assert TaskSource(nano).digest == "f5bb03a7ef2f8cace31a5eee5df729ace5805aeab4b47919a7aa61de81798397"


@pytest.mark.parametrize("name", WORLDS)
def test_every_task_can_be_drawn_and_its_oracle_is_good(name: str) -> None:
    source = TaskSource(task(f"lrb/{name}"))
    best = oracle(source, rows=256)
    floor = {"noise": 0.75, "network": 0.6}.get(name, 0.9)
    assert best["f1"] > floor, best


def test_a_cell_of_the_grid_is_a_world_of_its_own() -> None:
    cell = task("lrb/grid(coherence=0.6, given=0.4, db=20, rows=500)", seed=3)
    assert cell.world == world_spec(grid_text(coherence=0.6, given=0.4, db=20, rows=500), seed=3)
    assert cell.digest != task("lrb/grid(coherence=0.6, given=0.4, db=20, rows=501)", seed=3).digest
    assert len({one.digest for one in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cone()", "begins with"),
        ("world() + cones()", "did you mean 'cone'"),
        ("world() + cone(angle=3)", "angle"),
        ("world(widths=3)", "widths"),
        ("world() + blocks() + copula()", "two laws of one kind"),
        ("world(signed=True) + zipf()", "whole law"),
        ("world() + cone(cosine=1.0)", r"\[0, 1\)"),
        ("world() + blocks(given=0.01)", "given"),
        ("world(n=10) + tree()", "need n = 52"),
    ],
)
def test_texts_that_make_no_world_say_why(text: str, message: str) -> None:
    with pytest.raises(MonosemError, match=message):
        World(world_spec(text)).rows(0, 1)


def test_every_part_is_drawn_at_its_defaults() -> None:
    for name in (*FIRINGS, *SIZES, *GEOMETRIES, *BACKGROUNDS):
        world = World(world_spec(f"world(n=60, rows=50) + {name}()"))
        assert world.rows(0, 50).sources[0].isfinite().all(), name
    with pytest.raises(UnknownNameError):
        task("lrb/unknown")
    assert isinstance(Noise(3.0), BACKGROUNDS["noise"])
    assert isinstance(Offset(), BACKGROUNDS["offset"])

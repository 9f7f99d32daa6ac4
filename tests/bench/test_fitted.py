"""Worlds fitted to rows: what is drawn is what the fit says, resembles the rows, and names no path."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.anchors.directions import Anchors
from monosem.base.errors import CheckpointError, ShapeError
from monosem.base.spec import to_plain
from monosem.bench.fitted import FittedLaw, _read, fit_world, resemblance, told_apart
from monosem.bench.tasks import TaskSource, task
from monosem.bench.world import World, WorldSpec
from monosem.bench.worlds import world_spec
from tests.cli.calls import call

REAL = World(
    world_spec("world(n=16, d=12, rows=4000) + blocks(rate=0.1, given=0.5, size=4) + cone(cosine=0.3) + noise(db=25)")
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> WorldSpec:
    x = REAL.rows(0, 4000).sources[0]
    return fit_world(x, REAL.W[0], tmp_path_factory.mktemp("fit") / "task.safetensors")


def test_what_is_drawn_has_the_stated_rates_and_pairs(fitted: WorldSpec) -> None:
    law = fitted.law
    assert isinstance(law, FittedLaw)
    on = World(fitted).rows(0, 4000).features.dense().double() > 0
    rates, pairs = on.double().mean(0).numpy(), (on.double().T @ on.double() / 4000).numpy()
    for drawn, stated in ((rates, law.rates(16)), (pairs, law.together(16))):
        assert np.abs(drawn - stated).max() < 4.5 * np.sqrt(stated.max() / 4000)


def test_it_has_the_directions_rates_pairs_and_noise_of_the_world_behind_the_rows(fitted: WorldSpec) -> None:
    law = fitted.law
    assert isinstance(law, FittedLaw)
    assert (World(fitted).W[0] * REAL.W[0]).sum(0).min() > 0.99
    drawn, rows = World(fitted).held_out(4000, sources=(0,)).sources[0], REAL.rows(0, 4000).sources[0]
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(rows.T), rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.mean(0), rows.mean(0), rtol=0, atol=0.05)
    assert law.rates(16).mean() == pytest.approx(0.1, rel=0.2)  # small events are lost in the noise
    lift = law.together(16) / np.outer(law.rates(16), law.rates(16))
    assert lift[0, 1] > 2.5
    assert lift[0, 5] == pytest.approx(1.0, abs=0.3)
    assert World(fitted).noise(0)[0] == pytest.approx(REAL.noise(0)[0], rel=0.3)


def test_it_is_nearer_to_the_rows_than_gaussian_rows_are(fitted: WorldSpec) -> None:
    far = resemblance(fitted, REAL.rows(0, 4000).sources[0], rows=600)
    assert far["fitted"] < 0.6
    assert far["itself"] == pytest.approx(0.5, abs=0.05)
    assert far["gaussian"] > far["fitted"] + 0.05


def test_a_classifier_tells_apart_what_differs_and_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 4, generator=draw), torch.randn(300, 4, generator=draw)
    assert told_apart(x, y) == pytest.approx(0.5, abs=0.06)
    assert told_apart(x, y + 2) > 0.8


def test_the_task_is_named_by_its_content_and_not_by_where_it_lies(fitted: WorldSpec, tmp_path: Path) -> None:
    assert isinstance(fitted.law, FittedLaw)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(fitted.law.file).read_bytes())
    other = task(f"fitted:{copy}", seed=5)
    assert other.world.digest == task(f"fitted:{fitted.law.file}", seed=5).world.digest
    assert str(tmp_path) not in str(to_plain(other.world))
    source = TaskSource(other)
    assert source.rows == 4000
    assert (source.W_p == World(fitted).W[0]).all()
    assert not torch.equal(source.take(torch.arange(5))[0], World(fitted).rows(0, 5).sources[0])


@pytest.mark.parametrize(("name", "digest"), [("pictures", "4b372f66"), ("stories15m", "641d4d3e")])
def test_the_frozen_tasks_are_what_their_records_say(name: str, digest: str) -> None:
    world = task(f"fitted:studies/assets/{name}-task.safetensors").world
    assert world.digest.startswith(digest)
    assert World(world).rows(0, 50).sources[0].isfinite().all()


def test_a_file_that_changed_and_a_width_that_differs_are_refused(fitted: WorldSpec, tmp_path: Path) -> None:
    x = REAL.rows(0, 500).sources[0]
    path = tmp_path / "task.safetensors"
    spec = fit_world(x, REAL.W[0], path, rows=100)
    fit_world(x[:400], REAL.W[0], path)
    _read.cache_clear()
    with pytest.raises(CheckpointError, match="is not the file that the task was made of"):
        World(spec).rows(0, 3)
    with pytest.raises(ShapeError, match="D has 5 rows"):
        fit_world(x, torch.eye(5), path)


def test_the_command_fits_a_task(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", REAL.rows(0, 1500).sources[0].numpy())
    Anchors(REAL.W[0], REAL.W[0]).save(tmp_path / "D.safetensors")
    out = ("--out", tmp_path)
    ran = call("bench", "fit", "--data", tmp_path / "x.npy", "--dictionary", tmp_path / "D.safetensors", *out, "--json")
    answer = json.loads(ran.stdout)
    assert answer["n"] == 16
    assert answer["told_apart"]["fitted"] < answer["told_apart"]["gaussian"]
    assert TaskSource(task(answer["task"])).rows == 1500
    assert "--data ROWS" in call("bench", "fit", *out).stderr

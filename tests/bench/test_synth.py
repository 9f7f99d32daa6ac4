"""SynthSAEBench's law against drawing everything and gating it, its printed numbers, and its scorer by brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monosem.base.errors import ArgumentError, DataError
from monosem.base.files import write_json
from monosem.base.seeds import philox
from monosem.base.sparse import DenseCode, Positions, SparseCode
from monosem.bench.synth import SynthLaw, SynthSource, SynthSpec, draw_tensors, orthogonalised, read_world
from monosem.bench.synth_scores import Scored, synth_scores
from monosem.bench.world import BLOCK, SparseFeatures
from monosem.train.config import FitConfig
from monosem.train.loop import fit

SMALL = SynthSpec(n=140, width=24, seed=7, roots=6, branch=3, depth=2, rank=4, p_min=0.02, directions="random")


def _gated(spec: SynthSpec, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Every latent drawn, then gated level by level: the benchmark's own order of work."""
    t = draw_tensors(spec)
    F, mu, sigma = t.factors.double().numpy(), t.mu.double().numpy(), t.sigma.double().numpy()
    threshold = np.sqrt(2.0) * torch.erfinv(1.0 - 2.0 * torch.from_numpy(spec.compensated)).numpy()
    u = rng.standard_normal((rows, spec.rank)) @ F.T
    u += np.sqrt(1 - (F**2).sum(1)) * rng.standard_normal(u.shape)
    z = np.where(u > threshold, np.maximum(0.0, mu + sigma * rng.standard_normal(u.shape)), 0.0)
    raw, first = z.copy(), 0
    for level, width in enumerate(spec.levels):
        for feature in range(first, first + width):
            if level:
                parent = (feature - spec.roots) // spec.branch
                scale = z[:, parent] / mu[parent] if spec.scaled else 1.0
                z[:, feature] = np.where(z[:, parent] > 0, z[:, feature] * scale, 0.0)
        for parent in range(first, first + width if level < spec.depth else first):
            children = spec.roots + spec.branch * parent + np.arange(spec.branch)
            for row in np.flatnonzero(z[:, parent] > 0):
                alive = children[raw[row, children] > 0]
                if alive.size:
                    z[row, np.setdiff1d(children, [rng.choice(alive)])] = 0.0
        first += width
    return z


def _drawn(spec: SynthSpec, rows: int) -> np.ndarray:
    cells, values = SynthLaw(spec, draw_tensors(spec)).draw(philox(1, "test"), rows, spec.n)
    z = np.zeros(rows * spec.n)
    z[cells] = values
    return z.reshape(rows, spec.n)


@pytest.mark.parametrize("scaled", [True, False])
def test_drawing_from_the_roots_down_is_the_law_of_drawing_everything(scaled: bool) -> None:
    spec, rows = replace(SMALL, scaled=scaled), 6_000
    slow, fast = _gated(spec, philox(2, "test"), rows), _drawn(spec, rows)
    a, b = slow > 0, fast > 0
    p = (a.mean(0) + b.mean(0)) / 2
    z = (a.mean(0) - b.mean(0)) / np.sqrt(2 * p * (1 - p) / rows)
    assert np.sqrt((z**2).mean()) < 1.25
    assert np.abs(z).max() < 4.5
    pairs_a, pairs_b = a.T.astype(float) @ a, b.T.astype(float) @ b
    often = np.triu(pairs_a + pairs_b >= 30, 1)
    z = (pairs_a - pairs_b)[often] / np.sqrt((pairs_a + pairs_b)[often])
    assert often.sum() > 500
    assert np.sqrt((z**2).mean()) < 1.1
    for power in (1, 2):
        spread = np.sqrt(((slow**power).var(0) + (fast**power).var(0)) / rows)
        z = ((slow**power).mean(0) - (fast**power).mean(0)) / np.maximum(spread, 1e-12)
        assert np.sqrt((z**2).mean()) < 1.25


def test_a_child_fires_only_with_its_parent_and_without_its_siblings() -> None:
    on = _drawn(SMALL, 4000) > 0
    family = on[:, SMALL.roots : SMALL.related].reshape(-1, SMALL.parents, SMALL.branch)
    assert family.sum(2).max() == 1
    assert not (family.any(2) & ~on[:, : SMALL.parents]).any()


def test_the_numbers_of_the_benchmark() -> None:
    spec = SynthSpec(directions="random")
    assert (spec.levels, spec.related, spec.parents) == ((128, 512, 2048, 8192), 10_880, 2_688)
    assert spec.nominal.sum() == pytest.approx(59.144, abs=1e-3)
    assert spec.compensated.max() == pytest.approx(0.9151, abs=1e-4)
    tensors = draw_tensors(spec)
    assert tensors.factors[0, :3].tolist() == pytest.approx([0.08818, -0.02237, 0.11010], abs=1e-5)
    assert tensors.sigma[:3].tolist() == pytest.approx([0.49168, 0.26660, 1.54545], abs=3e-5)
    assert float(tensors.bias.norm()) == pytest.approx(0.5)
    cells, _ = SynthLaw(spec, tensors).draw(philox(0, "count"), 4 * BLOCK, spec.n)
    l0 = cells.size / (4 * BLOCK)
    assert abs(l0 - 34.478) < 5 * 11.6 / np.sqrt(4 * BLOCK)


def test_the_short_gradient_is_that_of_the_objective() -> None:
    rows = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    v = rows.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([v], lr=3e-4)
    for _ in range(10):
        optimiser.zero_grad()
        gram = v @ v.T
        off = gram - torch.diag(gram.diag())
        (off.square().sum() + 40 * (v.square().sum(1) - 1).square().sum()).backward()
        optimiser.step()
    wanted = torch.nn.functional.normalize(v.detach(), dim=1)
    torch.testing.assert_close(orthogonalised(rows, steps=10), wanted, atol=2e-6, rtol=0)


def test_rows_are_a_function_of_their_number() -> None:
    source, other = SynthSource(SMALL), SynthSource(SMALL)
    x = torch.cat([source.take(torch.arange(b * BLOCK, (b + 1) * BLOCK))[0] for b in range(3)])
    index = torch.tensor([2050, 3, 1024, 2999])
    assert torch.equal(other.take(index)[0], x[index])
    assert torch.equal(other.take(torch.arange(BLOCK, 2 * BLOCK))[0], x[BLOCK : 2 * BLOCK])
    truth = source.held_out(5, start=BLOCK - 2)
    z = truth.features.dense()
    torch.testing.assert_close(truth.sources[0], z @ source.tensors.directions + source.tensors.bias)
    assert source.digest == other.digest != SynthSource(replace(SMALL, seed=8)).digest
    with pytest.raises(ArgumentError, match="numbered from 0"):
        source.take(torch.tensor([-1]))


def test_a_run_trains_on_the_stream() -> None:
    result = fit("topk(k=8, aux=0.0)", SynthSource(SMALL), 48, FitConfig(steps=60, batch_size=BLOCK, lr=3e-3))
    assert result.log[-1]["fvu"] < 0.7 * result.log[0]["fvu"]


def test_the_published_files_are_read_and_wrong_ones_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = SynthSpec(directions="random")
    own = draw_tensors(spec)
    files = {"feature_vectors": own.directions, "bias": own.bias, "correlation_factor": own.factors}
    save_file({name: value.contiguous() for name, value in files.items()}, tmp_path / "synthetic_model.safetensors")
    with pytest.raises(DataError, match=r"hierarchy\.json"):
        read_world(tmp_path)
    write_json(tmp_path / "hierarchy.json", {"roots": [{"feature_index": 0, "scale_children_by_parent": False}]})
    world = read_world(tmp_path)
    assert (world.origin, world.spec.name) == ("published", "synth-16k-v1")
    assert read_world(tmp_path, scaled=True).spec.name == "synth-16k-v2"
    assert torch.equal(world.tensors.sigma, own.sigma)
    files["bias"] = own.bias[:5]
    save_file({name: value.contiguous() for name, value in files.items()}, tmp_path / "synthetic_model.safetensors")
    with pytest.raises(DataError, match=r"bias has shape \(5,\)"):
        read_world(tmp_path)


@pytest.mark.parametrize("sparse", [True, False])
def test_the_scores_are_those_of_dense_counting(sparse: bool) -> None:
    g = torch.Generator().manual_seed(3)
    rows, n, n_q, width = 300, 20, 12, 6
    directions, W_D = torch.randn(n, width, generator=g), torch.randn(width, n_q, generator=g)
    W_D[:, 3] = 0.7 * directions[4]
    W_D[:, 5] = -directions[9]
    z = torch.randn(rows, n, generator=g).clamp(min=0.8) - 0.8
    codes = (torch.randn(rows, n_q, generator=g) - 0.5).relu()
    codes[:, 7] = 0.0
    codes[:, 3] = z[:, 4]
    x, x_hat = torch.randn(rows, width, generator=g), torch.randn(rows, width, generator=g)
    at = Positions.from_mask(codes != 0)
    code = SparseCode(at, codes[at.row, at.col]) if sparse else DenseCode(codes)
    cell = z.nonzero()
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), (z > 0).sum(1).cumsum(0)])
    features = SparseFeatures(crow, cell[:, 1], z[z > 0], n)
    scores = synth_scores(W_D, directions, [Scored(code, x_hat, x, features)])

    cosine = torch.nn.functional.normalize(W_D, dim=0).T @ torch.nn.functional.normalize(directions, dim=1).T
    best, fires, truth = cosine.abs().argmax(1), codes != 0, z > 0
    f1 = []
    for j in range(n_q):
        hit = float((fires[:, j] & truth[:, best[j]]).sum())
        whole = float(fires[:, j].sum() + truth[:, best[j]].sum())
        f1.append(2 * hit / whole if whole else 0.0)
    assert scores["f1"] == pytest.approx(np.mean(f1))
    assert scores["l0"] == pytest.approx(float(fires.float().sum(1).mean()))
    assert scores["dead"] == pytest.approx(1 / n_q)
    assert scores["uniqueness"] == pytest.approx(len(set(best.tolist())) / n_q)
    spread = x.square().sum(1).mean() - x.mean(0).square().sum()
    assert scores["ev"] == pytest.approx(float(1 - (x - x_hat).square().sum(1).mean() / spread), abs=1e-6)
    assert scores["shrinkage"] == pytest.approx(float((x_hat.norm(dim=1) / x.norm(dim=1)).mean()), abs=1e-6)
    assert scores["signed_mcc"] <= scores["mcc"]
    assert 1 / n <= scores["truth_f1"] <= n_q / n

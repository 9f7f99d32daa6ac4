"""Selection from a bfloat16 product is selection from float32 sums: on ties, near-ties, extremes; and in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.core.model import SDL
from monosem.kernels import precision
from monosem.kernels.native import certified
from monosem.kernels.native.build import library, why_absent
from monosem.kernels.native.certified import Halved
from monosem.kernels.native.team import address, each
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.train.scenes import rows, scene_source

pytestmark = pytest.mark.skipif(library() is None, reason=f"no compiled kernels: {why_absent()}")


@st.composite
def encoders(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """x, W, bias: of any scale, on a coarse grid (exact ties), or with rows that nearly agree."""
    batch, n_q, n_p = draw(st.integers(1, 6)), draw(st.sampled_from([1, 5, 64, 65, 300])), draw(st.integers(1, 130))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x, W = torch.randn(batch, n_p, generator=generator), torch.randn(n_q, n_p, generator=generator)
    bias = torch.randn(n_q, generator=generator)
    kind = draw(st.sampled_from(["plain", "ties", "near ties", "large", "small", "sparse"]))
    if kind == "ties":
        x, W, bias = x.round(), W.round(), bias.round()
    elif kind == "near ties":
        W = W[:1] + 1e-5 * W
        bias = bias * 1e-5
    elif kind == "sparse":
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.9, 0.0, x)
        W[n_q // 2 :] = 0
    scale = {"large": 1e12, "small": 1e-12}.get(kind, 1.0)
    return x * scale, W, bias * scale


TILES = [(1024, 2048), (2, 64), (3, 40)]


@contextmanager
def tiles(shape: tuple[int, int]) -> Iterator[None]:
    """Rows and latents of one product."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "ROWS", shape[0])
        patch.setattr(certified, "COLUMNS", shape[1])
        yield


@given(encoders(), st.data())
def test_top_is_the_top_of_the_defined_order(case: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    x, W, bias = case
    k = data.draw(st.integers(1, W.shape[0]))
    halved = Halved(W, bias)
    with tiles(data.draw(st.sampled_from(TILES))):
        found = halved.top(x, k, data.draw(st.sampled_from([None, k, 0])))
    assert found is not None
    z = halved.every(x)
    torch.testing.assert_close(
        z.double(),
        x.double() @ W.double().T + bias.double(),
        rtol=1e-4,
        atol=1e-5 * float(x.abs().max() + bias.abs().max()) * 20,
    )
    wanted = torch.sort(z, dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], z.gather(1, wanted))


@given(encoders(), st.booleans(), st.sampled_from(TILES))
def test_above_is_all_above(case: tuple[Tensor, Tensor, Tensor], per_column: bool, tile: tuple[int, int]) -> None:
    x, W, bias = case
    halved = Halved(W, bias)
    z = halved.every(x)
    floors: Tensor | float = z[0].clone() if per_column else float(z.median())  # exactly at a cell: not above it
    with tiles(tile):
        found = halved.above(x, floors, 8 * z.numel())
    assert found is not None
    mask = z > floors
    assert torch.equal(found[0], mask.sum(1))
    assert torch.equal(found[1], mask.nonzero()[:, 1])
    assert torch.equal(found[2], z[mask])


@given(encoders())
def test_the_bound_holds_for_every_cell(case: tuple[Tensor, Tensor, Tensor]) -> None:
    """The low-precision value differs from float64 by no more than the certificate allows."""
    x, W, bias = case
    halved = Halved(W, bias)
    low, up = (torch.empty(x.shape[0], 64 * -(-W.shape[0] // 64)) for _ in range(2))
    for parts, _ in halved._products(x):
        each("bounds", [(address(parts), 0, x.shape[0], low.shape[1], address(low), address(up))])
    z = x.double() @ W.double().T + bias.double()
    assert bool((low[:, : W.shape[0]] <= z).all())
    assert bool((z <= up[:, : W.shape[0]]).all())
    room = (up - low)[:, : W.shape[0]].double()
    norms = [rows.double().norm(dim=1) + 2.0**-53 for rows in (x, W)]  # squares may vanish
    products = norms[0][:, None] * norms[1]
    assert bool((room <= 0.05 * (products + bias.abs()) + 1e-25).all())


def test_near_ties_fall_back_and_are_still_right() -> None:
    """A thousand latents closer to each other than bfloat16 can tell: no limit of candidates is enough."""
    x, W = rows(8, 96), rows(1, 96, seed=1) + 1e-4 * rows(1000, 96, seed=2)
    halved = Halved(W, torch.zeros(1000))
    found = halved.top(x, 4)
    assert found is not None
    assert halved.fell_back == 8
    wanted = torch.sort(halved.every(x), dim=1, descending=True, stable=True).indices[:, :4].sort(1).values
    assert torch.equal(found[0], wanted)


def test_plain_rows_do_not_fall_back() -> None:
    x, W = rows(64, 96), rows(2000, 96, seed=1)
    halved = Halved(W, torch.zeros(2000))
    halved.top(x, 8)
    assert (halved.rows, halved.fell_back) == (64, 0)
    assert halved.computed < 64 * 8 * 4


def test_nan_is_left_to_the_full_precision() -> None:
    x, W = rows(4, 8), rows(50, 8, seed=1)
    x[2, 3] = float("nan")
    assert Halved(W, torch.zeros(50)).top(x, 3) is None
    assert Halved(W, torch.zeros(50)).above(x, 0.0, 1000) is None


METHODS = ("topk(k=2)", "batch_topk(k=1.5)", "relu_l1(l1=2.0)", "jumprelu", "gated(l1=2.0)", "multi_topk(k=1)",
           "matryoshka(k=2)", "topk(k=2, aux=0.03125)", "topk_crosscoder(k=2)", "binary")  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_run_takes_the_same_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defined order differs from the matrix product's in the last bits; six steps later so do the weights."""
    monkeypatch.setattr("monosem.kernels.select.has_bfloat16", lambda: True)
    used: list[bool] = []
    start = Halved.__init__

    def watched(self: Halved, *arguments: Tensor) -> None:
        used.append(True)
        start(self, *arguments)

    monkeypatch.setattr(Halved, "__init__", watched)
    config = FitConfig(6, 16, 1e-3, log_every=1, dead_window=20)
    source = scene_source(10, p_widths=(4, 6)) if "crosscoder" in name else scene_source(10)
    full = fit(name, source, 48, config)
    half = fit(name, source, 48, replace(config, selection="bf16"))
    assert any(used) != name.startswith("multi_topk")  # whose k of 128 takes all 48 latents: z of every cell
    assert all("fell_back" in entry for entry in half.log)
    for (label, a), b in zip(full.model.named_parameters(), half.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda m, label=label: f"{label}: {m}")


@pytest.mark.parametrize("name", ["group_max", "abs_topk"])
def test_activations_without_a_rule_on_z_stay_in_full_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from monosem.core.activations import AbsTopK, GroupMax
    from monosem.losses.fidelity import Reconstruction
    from monosem.methods import Method

    monkeypatch.setattr("monosem.kernels.select.has_bfloat16", lambda: True)
    monkeypatch.setattr(certified.Halved, "__init__", lambda *a: pytest.fail("a bfloat16 product was made"))
    made = Method(GroupMax(4) if name == "group_max" else AbsTopK(2), (Reconstruction(),))
    assert isinstance(fit(made, scene_source(10), 16, FitConfig(2, 8, selection="bf16")).model, SDL)


@pytest.mark.parametrize("name", ["relu_l1(l1=0.01)", "jumprelu", "topk_crosscoder(k=9)"])
def test_dense_products_in_bfloat16_are_near_and_only_when_asked(name: str) -> None:
    config = FitConfig(6, 16, 1e-3, log_every=1)
    source = scene_source(10, p_widths=(4, 6)) if "crosscoder" in name else scene_source(10)
    full = fit(name, source, 48, config)
    low = fit(name, source, 48, replace(config, dense="bf16"))
    for a, b in zip(full.model.parameters(), low.model.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 0.02  # six steps of at most 1e-3 an entry
    losses = [(a["loss"], b["loss"]) for a, b in zip(full.log, low.log, strict=True)]
    assert all(b == pytest.approx(a, rel=0.03) for a, b in losses)
    assert any(a != b for a, b in losses)


def test_a_bfloat16_product_has_bfloat16_gradients() -> None:
    a, b = rows(5, 7).requires_grad_(), rows(7, 3, seed=1).requires_grad_()
    with precision.dense_products(True):
        out = precision.multiply(a, b)
        out.backward(rows(5, 3, seed=2))
    g = rows(5, 3, seed=2)
    for found, wanted in ((out, a @ b), (a.grad, g @ b.T), (b.grad, a.T @ g)):
        assert found is not None
        assert float((found - wanted).detach().abs().max()) < 2**-6 * 7
        assert not torch.equal(found, wanted)
    assert torch.equal(precision.multiply(a, b), a @ b)


@pytest.mark.parametrize(
    ("of_x", "of_W"), [(1, 1e-24), (1, 1e-25), (1e-20, 1e-18), (1e-20, 1e-20), (1e15, 1e-39), (0, 1)]
)
def test_tiny_numbers_are_computed_not_decided(of_x: float, of_W: float) -> None:
    """Their squares underflow: a bound made of these squares alone left out up to every cell."""
    generator = torch.Generator().manual_seed(3)
    x, W = (torch.randn(8, 100, generator=generator) * of_x), torch.randn(150, 100, generator=generator) * of_W
    halved = Halved(W, torch.zeros(150))
    z = halved.every(x)
    for floor in (0.0, float(z.flatten().sort().values[-100])):
        cells = halved.above(x, floor, x.shape[0] * 150 * 8)
        assert cells is not None
        wanted = (z > floor).nonzero()
        assert cells[0].tolist() == (z > floor).sum(1).tolist()
        assert torch.equal(cells[1], wanted[:, 1])

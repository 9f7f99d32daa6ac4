"""Resampling: dead latents start again at rows that are badly explained, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.seeds import torch_generator
from monosem.core.activations import ReLU
from monosem.core.model import SDL
from monosem.losses.fidelity import Reconstruction
from monosem.losses.resample import Resample
from tests.losses.trials import batch, trial


def applied(pair: str, dead: Tensor, seed: int = 0) -> tuple[SDL, SDL, tuple[Tensor, Tensor]]:
    """(before, after, the rows)."""
    run = trial(ReLU(), (Reconstruction(),), pair)
    x = batch(pair, run.generator, 50)
    before = copy.deepcopy(run.model)
    Resample().apply(run.model, *x, dead, torch_generator(seed, "resample", 3))
    return before, run.model, x


@pytest.mark.parametrize("pair", ["sae", "skip_transcoder", "crosscoder, private latents", "cross_layer"])
def test_the_weights_of_dead_latents_change_and_no_others(pair: str) -> None:
    """Elsewhere an assignment through two chained masks changes a copy: the weights stay, the moments are reset."""
    dead = torch.arange(16) % 3 == 0
    before, after, _ = applied(pair, dead)
    for old, new in ((before.W_E, after.W_E), (before.W_D.T, after.W_D.T)):
        moved = (old != new).any(1)
        assert torch.equal(moved, dead)
    assert torch.equal(after.b_E == 0, dead)
    assert torch.equal(before.b_E[~dead], after.b_E[~dead])
    for name, old in before.named_parameters():
        if name.split(".")[0] in ("b_D", "_b_in", "W_skip"):
            assert torch.equal(old, dict(after.named_parameters())[name])
    assert after.training


@pytest.mark.parametrize("pair", ["transcoder", "sae"])  # the second has a b_in, tied to b_D
def test_directions_and_lengths_are_those_of_the_equation(pair: str) -> None:
    """Decoder: a row of x_r less b_D, unit. Encoder: the same row of x_p less b_in, at 0.2 of the living mean."""
    dead = torch.arange(16) < 6
    before, after, (x_p, x_r) = applied(pair, dead)
    assert pair == "transcoder" or bool(before.b_in.any())
    wanted_r = torch.nn.functional.normalize(x_r - before.b_D, dim=1)
    wanted_p = torch.nn.functional.normalize(x_p - before.b_in, dim=1)
    alive = before.W_E[~dead].norm(dim=1).mean()
    for latent in range(6):
        row = int((wanted_r @ after.W_D[:, latent]).argmax())
        torch.testing.assert_close(after.W_D[:, latent], wanted_r[row])
        torch.testing.assert_close(after.W_E[latent], 0.2 * alive * wanted_p[row])


def test_rows_are_drawn_by_their_squared_loss() -> None:
    """400 draws against the distribution: chance proportional to the square of the row's squared error."""
    run = trial(ReLU(), (Reconstruction(),), "transcoder", n_q=401)
    model = run.model
    with torch.no_grad():
        model.decoder.weights[0].zero_()
        model.b_D.zero_()
    x_p = torch.randn(3, 6)
    x_r = torch.eye(7)[:3] * torch.tensor([1.0, 2.0, 0.0])[:, None] ** 0.5  # losses 1, 2 and 0
    dead = torch.arange(401) > 0
    Resample().apply(model, x_p, x_r, dead, torch_generator(0, "draw"))
    counts = [int((model.W_D[row, 1:] == 1).sum()) for row in range(3)]
    assert counts[2] == 0
    assert sum(counts) == 400
    assert abs(counts[0] - 80) < 4 * 8  # 1 : 4, four standard deviations


def test_the_draw_depends_on_the_generator_alone() -> None:
    dead = torch.arange(16) < 9
    (_, one, _), (_, same, _), (_, other, _) = (applied("sae", dead, seed) for seed in (0, 0, 1))
    assert torch.equal(one.W_D, same.W_D)
    assert not torch.equal(one.W_D, other.W_D)


def test_edges() -> None:
    none, every = torch.zeros(16, dtype=torch.bool), torch.ones(16, dtype=torch.bool)
    before, after, _ = applied("sae", none)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    _, after, _ = applied("sae", every)
    torch.testing.assert_close(after.W_E.norm(dim=1), torch.full((16,), 0.2))
    run = trial(ReLU(), (Reconstruction(),), "sae")
    run.model.eval()
    with torch.no_grad():
        run.model.b_D.zero_()
    zeros = torch.zeros(4, 6)  # nothing is explained badly, and no direction to take: stays finite
    Resample().apply(run.model, zeros, zeros, every, torch_generator(0, "draw"))
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert not run.model.training


def test_when_it_is_due() -> None:
    rule = Resample(every=10, begin=0.2, end=0.6)
    assert [step for step in range(100) if rule.due(step, 100)] == [20, 30, 40, 50]
    assert not Resample(every=1, begin=0.0, end=1.0).due(0, 10)


@pytest.mark.parametrize("options", [{"every": 0}, {"begin": 0.5, "end": 0.5}, {"end": 1.5}])
def test_a_value_out_of_range_is_one_clear_error(options: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="="):
        Resample(**options)  # type: ignore[arg-type]

"""The network in the loop: its loss and gradient against plain autograd, and a training that it improves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, RefusedError
from monosem.core.activations import Context
from monosem.core.pairs import TensorSource
from monosem.core.units import Units
from monosem.data.batches import TokenFilter
from monosem.losses.objective import Step
from monosem.methods import method
from monosem.networks.finetune import NetworkLoss, in_network
from monosem.networks.network import network_scores
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.networks.llamas import WIDTH, ids, llama, trained

SITE, KEEP = "model.layers.1:out", TokenFilter(first=1)


def _loss(units: Units | None = None, **more: Any) -> NetworkLoss:
    given: dict[str, Any] = {"to": None, "batches": [ids()], "keep": KEEP, "against": "kl", "seed": 0} | more
    return NetworkLoss(llama(), SITE, units=units, **given)


def _plain(sdl: Any, units: Units | None, against: str) -> Tensor:
    """By definition: one hook of the test's own, all predictions at once, in one graph."""
    model, tokens = llama(), ids()

    def hook(module: Any, args: Any, out: Tensor) -> Tensor:
        rows = out.reshape(-1, WIDTH)
        x = rows if units is None else (rows - units.p_mean) * units.p_scale
        y = sdl(x).x_r_hat
        y = y if units is None else y / units.r_scale + units.r_mean
        new = y.reshape(out.shape).clone()
        new[:, 0] = out[:, 0]
        return new

    with torch.no_grad():
        clean = model(tokens).logits[:, 1:-1].log_softmax(-1)
    handle = model.model.layers[1].register_forward_hook(hook)
    spliced = model(tokens).logits[:, 1:-1].log_softmax(-1)
    handle.remove()
    if against == "ce":
        return -spliced.gather(-1, tokens[:, 2:, None]).mean()
    return (clean.exp() * (clean - spliced)).sum(-1).mean()


@pytest.mark.parametrize("against", ["kl", "ce"])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_and_its_gradient(against: str, normalised: bool) -> None:
    rows = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 + 1
    units = Units.of(rows, rows, (WIDTH,), (WIDTH,)) if normalised else None
    one, other = (trained("relu_l1", 24, (WIDTH,), (WIDTH,)) for _ in range(2))
    loss = _loss(units, against=against)
    value, wanted = loss(one, 0), _plain(other, units, against)
    assert float(value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    value.backward()
    wanted.backward()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None and p.requires_grad for p in loss.network.parameters())


def test_a_training_that_ends_in_the_network_loses_less_there() -> None:
    """The same rows, steps and seed; the KL over the last half makes the splice better, and the FVU hardly worse."""
    network, texts = llama(), [ids(8, seed=seed) for seed in range(12)]
    seen: list[Tensor] = []
    handle = network.model.layers[1].register_forward_hook(lambda m, a, out: seen.append(out[:, 1:].reshape(-1, WIDTH)))
    with torch.no_grad():
        for tokens in texts:
            network(tokens)
    handle.remove()
    source = TensorSource(torch.cat(seen).detach())
    config = FitConfig(steps=240, batch_size=64, lr=3e-3)
    plain = method("topk(k=3)")
    term = in_network(network, SITE, texts, keep=KEEP, begin=0.5)
    scores = {}
    for name, chosen in (("plain", plain), ("tuned", replace(plain, terms=(*plain.terms, term)))):
        result = fit(chosen, source, 32, config)
        scores[name] = network_scores(network, result.model, SITE, [ids(8, seed=99)], keep=KEEP)
        if name == "tuned":
            assert result.log[1]["loss/in_network"] == 0
            assert result.log[-1]["loss/in_network"] > 0
    kl = {name: score.effects[0].kl["spliced"] for name, score in scores.items()}
    assert kl["tuned"] < 0.95 * kl["plain"]
    assert scores["tuned"].fvu < 1.5 * scores["plain"].fvu


def test_before_it_begins_it_costs_nothing_and_balanced_it_weighs_as_the_error() -> None:
    sdl, x = trained("topk(k=3)", 24, (WIDTH,), (WIDTH,)), torch.randn(8, WIDTH)
    term = in_network(llama(), SITE, [ids()], keep=KEEP, begin=0.5)

    def step(number: int) -> Step:
        return Step(sdl, x, x, sdl(x), None, Context(True, number, 10))

    assert float(term.apply(step(4), {})) == 0
    late = step(5)
    assert float(term.apply(late, {}).detach()) == pytest.approx(float(late.error.square().sum(1).mean()), rel=1e-5)
    free = replace(term, balance=False)
    assert float(free.apply(step(5), {}).detach()) == pytest.approx(float(_loss()(sdl, 5).detach()), rel=1e-5)


@pytest.mark.usefixtures("as_in_production")
def test_wrong_input() -> None:
    with pytest.raises(ArgumentError, match="against='mse'; known: kl, ce"):
        in_network(llama(), SITE, [ids()], against="mse")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"begin=1\.0"):
        in_network(llama(), SITE, [ids()], begin=1.0)
    with pytest.raises(DataError, match="no two neighbouring tokens"):
        in_network(llama(), SITE, [ids()], keep=TokenFilter(last=1))
    sdl = trained("topk_crosscoder(k=3)", 24, (WIDTH, WIDTH), (WIDTH, WIDTH))
    with pytest.raises(RefusedError, match="reads 2 sites"):
        NetworkLoss(llama(), "model.layers.[01]:out", None, [ids()], None, None, "kl", 0)(sdl, 0)

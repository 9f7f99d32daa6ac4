"""Splicing and steering on stories15M itself; skipped, with the reason, where it was not fetched (`make real`)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.core.model import SDL
from monosem.methods import method
from monosem.networks.edits import add, zero
from monosem.networks.logits import logit_effect
from monosem.networks.network import network_scores
from monosem.networks.steer import steer
from studies.assets import models as assets_models
from tests.real import need

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
pytestmark = pytest.mark.real
SITE, WIDTH = "model.layers.3:out", 288


@pytest.fixture(scope="module")
def stories() -> tuple[Any, Any]:
    """(model, tokenizer)."""
    need("stories15m")
    return assets_models.stories15m()


def _text(stories: tuple[Any, Any]) -> Tensor:
    """One story as the model tells it."""
    model, tokenizer = stories
    ids = tokenizer("Once upon a time, there was a little", return_tensors="pt")["input_ids"]
    found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False)
    return found


def _identity() -> SDL:
    """x = relu(x) - relu(-x): nothing is lost."""
    sae, _ = method("relu_l1").build(2 * WIDTH, (WIDTH,), (WIDTH,))
    eye = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    with torch.no_grad():
        sae.encoder.weights[0].copy_(eye)
        sae.decoder.weights[0].copy_(eye)
    return sae.eval()


def test_a_perfect_model_loses_nothing_and_ablation_loses_much(stories: tuple[Any, Any]) -> None:
    model, text = stories[0], _text(stories)
    scores = network_scores(model, _identity(), SITE, [text])
    effect = scores.effects[0]
    with torch.no_grad():
        wanted = float(model(text, labels=text).loss)  # transformers' own mean over predictions
    assert effect.ce["clean"] == pytest.approx(wanted, rel=1e-4)
    assert effect.ce["clean"] < 1 < effect.ce["mean"]
    assert effect.ce["zero"] > 3
    assert effect.recovered("zero") == pytest.approx(1, abs=1e-4)
    assert effect.recovered("mean") == pytest.approx(1, abs=1e-4)
    assert effect.kl["spliced"] == pytest.approx(0, abs=1e-4)
    assert scores.fvu < 1e-10


def test_a_worse_model_loses_more(stories: tuple[Any, Any]) -> None:
    model, text, half = stories[0], _text(stories), _identity()
    with torch.no_grad():
        half.decoder.weights[0].mul_(0.5)
    worse = network_scores(model, half, SITE, [text])
    assert worse.cosine == pytest.approx(1)
    assert worse.effects[0].kl["spliced"] > 0.01
    assert (worse.effects[0].recovered("zero") or 0) < 0.999


def test_pushing_a_word_writes_it(stories: tuple[Any, Any]) -> None:
    """A decoder column along a word's unembedding row: its logit effect names it, and steering writes it."""
    model, tokenizer = stories
    word = tokenizer("dog")["input_ids"][-1]
    sae = _identity()
    with torch.no_grad():
        row = model.lm_head.weight[word] * model.model.norm.weight
        sae.decoder.weights[0][7] = row / row.norm()
        sae.encoder.weights[0][8] = 0
        sae.b_E[8] = -1
    assert int(logit_effect(sae, model, latents=[7], top=1).top) == word
    before = _text(stories)
    clean = model(before).logits
    with torch.no_grad(), steer(model, sae, "model.layers.5:out", add(7, 1000.0, at=slice(12, None))):
        after = _text(stories)
    assert torch.equal(after[0, :12], before[0, :12])
    assert bool((after[0, 13:] == word).all())
    with steer(model, sae, SITE, zero(8)):  # it never fires
        assert torch.equal(model(before).logits, clean)

"""Harvests of the real language model against transformers' own hidden states; two models side by side."""

from pathlib import Path

import pytest
import torch

from monosem.data.batches import TokenFilter
from monosem.data.source import StoreSource
from monosem.data.texts import pieces, text_batches
from monosem.networks.harvest import harvest
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from studies.assets import models as assets_models
from tests.real import need

pytestmark = pytest.mark.real
TEXTS = ["Once upon a time there was a little girl named Lily.", "Tom had a red ball. He liked to play with it."]


def test_stories15m_against_its_hidden_states(tmp_path: Path) -> None:
    need("stories15m")
    model, tokenizer = assets_models.stories15m()
    batches = list(text_batches(tokenizer, TEXTS, keep=TokenFilter(first=1)))
    store = harvest(
        model, "model.layers.*:out; model.layers.3.mlp:in,out", batches, tmp_path, vocabulary=pieces(tokenizer)
    )
    with torch.no_grad():
        (batch,) = batches
        hidden = model(**batch.inputs, output_hidden_states=True).hidden_states
        layer = model.model.layers[3]
        assert batch.keep is not None
        for number in range(5):  # hidden_states[i + 1] leaves layer i; the last is normalised
            found = store.table(f"model.layers.{number}:out").take(torch.arange(store.rows))
            torch.testing.assert_close(found, hidden[number + 1][batch.keep])
        mlp_in, mlp_out = (store.table(f"model.layers.3.mlp:{s}").take(torch.arange(store.rows)) for s in ("in", "out"))
        torch.testing.assert_close(layer.mlp(mlp_in), mlp_out)
    documents = store.documents[0 : store.rows]
    for number, text in enumerate(TEXTS):
        rows = [row for row in range(store.rows) if documents[row] == number]
        assert "".join(store.text(rows)).strip() == text


def test_two_encoders_side_by_side(tmp_path: Path) -> None:
    need("minilm", "minilm_finetuned")
    base, tokenizer = assets_models.minilm()
    tuned, _ = assets_models.minilm_finetuned()
    batches = list(text_batches(tokenizer, TEXTS))
    store = harvest({"base": base, "tuned": tuned}, "encoder.layer.3:out", batches, tmp_path, dtype="float16")
    assert store.sites == ("base/encoder.layer.3:out", "tuned/encoder.layer.3:out")
    one, two = (store.table(site).take(torch.arange(store.rows)) for site in store.sites)
    close = torch.nn.functional.cosine_similarity(one, two).mean()
    assert 0.3 < float(close) < 0.999
    config = FitConfig(steps=30, batch_size=16, lr=1e-2, log_every=30)
    model = fit("topk_crosscoder(k=4)", StoreSource(store, "*/encoder.layer.3:out"), 64, config).model
    x = torch.cat([one, two], 1)
    with torch.no_grad():
        error = (model(x).x_r_hat - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(error) < 0.9
    assert model.source_norms().shape == (2, 64)

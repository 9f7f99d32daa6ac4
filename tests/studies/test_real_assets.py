"""The real models and data are what they are said to be (make real; make test-real)."""

import pytest
import torch

from monosem.networks.models import named_networks, open_network
from studies.assets import data as assets_data
from studies.assets import models as assets_models
from tests.real import need

pytestmark = pytest.mark.real


def test_stories15m_tells_a_story() -> None:
    need("stories15m")
    model, tokenizer = assets_models.stories15m()
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine."
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(tokens[0], skip_special_tokens=True) == text
    shuffled = tokens[:, torch.randperm(tokens.shape[1])]
    with torch.no_grad():
        assert float(model(tokens, labels=tokens).loss) < 0.5
        assert float(model(shuffled, labels=shuffled).loss) > 5


@pytest.mark.parametrize("name", ["stories15m", "smollm2"])
def test_a_language_model_opens_by_name_with_the_same_logits(name: str) -> None:
    """The library finds the folder that the studies made; nothing of them is needed to open it."""
    need(name)
    assert named_networks()[name] == assets_models.save_network(name)
    (model, tokenizer), (named, named_tokenizer) = getattr(assets_models, name)(), open_network(name)
    text = "Once upon a time, there was a little girl named Lily; she loved naïve cafés."
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(named_tokenizer(text, return_tensors="pt")["input_ids"], tokens)
    assert named_tokenizer.decode(tokens[0]) == tokenizer.decode(tokens[0])
    assert named_tokenizer.all_special_ids == tokenizer.all_special_ids
    assert {(n, w.dtype) for n, w in named.named_parameters()} == {(n, w.dtype) for n, w in model.named_parameters()}
    with torch.no_grad():
        assert torch.equal(named(tokens).logits, model(tokens).logits)


def test_a_sentence_encoder_opens_by_name() -> None:
    need("minilm")
    (model, tokenizer), (named, named_tokenizer) = assets_models.minilm(), open_network("minilm")
    texts = ["The cat sat on the mat."]
    vectors = [assets_models.sentence_vectors(*pair, texts) for pair in ((model, tokenizer), (named, named_tokenizer))]
    assert torch.equal(*vectors)


def test_minilm_groups_sentences_by_meaning() -> None:
    need("minilm")
    model, tokenizer = assets_models.minilm()
    near = ["The cat sat on the mat.", "A kitten is sitting on a rug.", "The central bank raised its interest rate."]
    vectors = assets_models.sentence_vectors(model, tokenizer, near, batch=2)
    cosine = vectors @ vectors.T
    assert float(cosine[0, 1]) > float(cosine[0, 2]) + 0.3
    alone = assets_models.sentence_vectors(model, tokenizer, near[:1])
    assert torch.allclose(alone[0], vectors[0], atol=1e-5)  # padding and order do not matter


def test_fine_tuned_minilm_is_another_model_of_the_same_shape() -> None:
    need("minilm", "minilm_finetuned")
    base, tuned = assets_models.minilm()[0].state_dict(), assets_models.minilm_finetuned()[0].state_dict()
    assert {name: w.shape for name, w in base.items()} == {name: w.shape for name, w in tuned.items()}
    moved = [
        float((base[name] - tuned[name]).norm() / base[name].norm()) for name in base if base[name].is_floating_point()
    ]
    assert 0 < max(moved) < 0.2


def test_ada40() -> None:
    need("ada40")
    rows, labels = assets_data.ada40()
    assert rows.shape == (10_000, 1536)
    assert torch.allclose(rows.norm(dim=1), torch.ones(10_000), atol=1e-3)
    assert len(labels.names) == 40
    assert int(torch.bincount(labels.codes).min()) > 100


def test_newsgroups() -> None:
    need("newsgroups")
    found = assets_data.newsgroups()
    assert len(found.texts) == len(found.labels) == 18_821
    assert len(found.single().names) == 20
    assert len(assets_data.newsgroups("test").texts) == 7_528


def test_reuters_topics_nest() -> None:
    need("reuters")
    found = assets_data.reuters()
    assert len(found.texts) == 10_377
    grain, wheat = found.having("grain"), found.having("wheat")
    assert int(wheat.sum()) == 287
    assert float((grain & wheat).sum()) / float(wheat.sum()) > 0.98


def test_resnet_features_tell_images_apart() -> None:
    need("cifar10", "resnet50")
    images, labels = assets_data.cifar10()
    assert images.shape == (10_000, 32, 32, 3)
    some = torch.cat(
        [(labels.codes == c).nonzero().flatten()[:8] for c in (labels.names.index(n) for n in ("ship", "frog"))]
    )
    x = assets_models.ResNet50(torch.bfloat16)(images[some], 64)
    assert x.shape == (16, 2048)
    x = x - x.mean(0)
    first, second = x[:4].mean(0) - x[8:12].mean(0), x[4:8].mean(0) - x[12:].mean(0)
    assert float(torch.nn.functional.cosine_similarity(first, second, dim=0)) > 0.2  # halves agree on what differs

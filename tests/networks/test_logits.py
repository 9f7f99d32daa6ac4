"""Logit effects against the definition written out, and against a model's own logits."""

import pytest
import torch
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, RefusedError, ShapeError
from monosem.core.model import SDL
from monosem.methods import method
from monosem.networks.logits import logit_effect, unembedding

WIDTH, VOCABULARY = 8, 50


class Gemma(nn.Module):
    """An RMS norm that keeps its gain minus one, as Gemma's does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + self.weight)


class Model(nn.Module):
    """The parts of a language model that logit effects read, by transformers' names."""

    def __init__(self, norm: nn.Module | None = None, head: bool = True) -> None:
        super().__init__()
        self.norm = norm
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False) if head else None

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.lm_head

    def forward(self, stream: Tensor) -> Tensor:
        assert self.lm_head is not None
        logits: Tensor = self.lm_head(stream if self.norm is None else self.norm(stream))
        return logits


def _layer_norm() -> nn.LayerNorm:
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _sae(n_q: int = 12) -> SDL:
    model, _ = method("topk(k=2)").build(n_q, (WIDTH,), (WIDTH,), seed=1)
    return model


def test_against_the_whole_product() -> None:
    sae, table = _sae(600), torch.randn(VOCABULARY, WIDTH)  # more latents than one chunk holds
    found = logit_effect(sae, table, top=4)
    effect = (table.double() @ sae.W_D.detach().double()).T
    order = effect.argsort(1, descending=True)
    assert torch.equal(found.top, order[:, :4])
    assert torch.equal(found.bottom, order.flip(1)[:, :4])
    torch.testing.assert_close(found.top_values.double(), effect.gather(1, found.top), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bottom_values.double(), effect.gather(1, found.bottom), rtol=1e-4, atol=1e-5)
    some = logit_effect(sae, table, top=4, latents=[7, 599])
    assert torch.equal(some.top, found.top[[7, 599]])
    assert some.latents.tolist() == [7, 599]


@pytest.mark.parametrize("norm", [None, Gemma(), _layer_norm()], ids=["none", "rms", "layer"])
def test_it_is_the_change_of_the_logits_where_the_norm_divides_by_the_same(norm: nn.Module | None) -> None:
    """A latent's push, with the norm's division held fixed, moves the logits by the effect."""
    model, sae = Model(norm), _sae()
    stream, column = torch.randn(WIDTH, dtype=torch.float64), sae.W_D[:, 3].detach().double()
    model.double()

    def size(x: Tensor) -> Tensor:
        centred = x - x.mean() if isinstance(norm, nn.LayerNorm) else x
        return torch.ones(()) if norm is None else centred.square().mean().sqrt()

    bias = norm.bias if isinstance(norm, nn.LayerNorm) else torch.zeros(WIDTH)
    head = model.lm_head
    assert head is not None
    with torch.no_grad():
        before, after = model(stream) - head(bias.double()), model(stream + column) - head(bias.double())
        change = after * size(stream + column) - before * size(stream)
    found = logit_effect(sae, model, top=VOCABULARY, latents=[3])
    assert found.norm == ("" if norm is None else "norm")
    effect = torch.zeros(VOCABULARY).scatter(0, found.top[0], found.top_values[0])
    torch.testing.assert_close(effect.double(), change, rtol=1e-3, atol=1e-4)
    model.float()


def test_targets() -> None:
    two, _ = method("topk_crosscoder(k=2)").build(6, (4, 4), (4, 4))
    table = torch.randn(VOCABULARY, 4)
    second = logit_effect(two, table, site=1, top=3)
    assert torch.equal(second.top, (table @ two.W_D[4:]).T.topk(3, 1).indices)
    with pytest.raises(ArgumentError, match="choose one by site=0 to 1"):
        logit_effect(two, table)
    with pytest.raises(ArgumentError, match="site=2, the model writes 2 sources"):
        logit_effect(two, table, site=2)


def test_wrong_input() -> None:
    sae = _sae()
    with pytest.raises(ShapeError, match="n_r=8, the unembedding 5 columns"):
        logit_effect(sae, torch.randn(VOCABULARY, 5))
    with pytest.raises(ArgumentError, match=r"latents names \[12\], n_q=12"):
        logit_effect(sae, torch.randn(VOCABULARY, WIDTH), latents=[12])
    with pytest.raises(RefusedError, match="Model has no output embedding"):
        unembedding(Model(head=False))


def test_no_latents_and_words() -> None:
    sae, table = _sae(), torch.eye(WIDTH)
    assert logit_effect(sae, table, latents=[]).top.shape == (0, WIDTH)
    promoted, suppressed = logit_effect(sae, table, top=2).words(lambda ids: f"<{ids[0]}>", 5)
    column = sae.W_D[:, 5].detach()
    assert promoted[0] == (f"<{int(column.argmax())}>", pytest.approx(float(column.max())))
    assert suppressed[0] == (f"<{int(column.argmin())}>", pytest.approx(float(column.min())))

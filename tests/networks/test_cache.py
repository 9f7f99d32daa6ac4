"""Positions through cached passes, whatever the network calls its cache, against the same sequence in one pass."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monosem.base.errors import RefusedError
from monosem.core.model import SDL
from monosem.networks.edits import Where, add, scale
from monosem.networks.sampling import sample_texts
from monosem.networks.steer import steer, tokens_before
from tests.networks.llamas import VOCABULARY, WIDTH, ids, llama, trained

NAMES = ("cache", "past_key_values", "of_another_name")


class _Tokens:
    """A cache that only counts."""

    def __init__(self) -> None:
        self.count = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.count


class _States(_Tokens):
    """A cache of states, which counts no tokens."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        raise ValueError("only linear attention")


class _Network(nn.Module):
    """Embeds tokens and maps them; a cache of any name takes part in nothing but the count."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCABULARY)])

    def forward(self, input_ids: Tensor, *more: Any, **named: Any) -> Tensor:
        for value in (*more, *named.values()):
            if isinstance(value, _Tokens):
                value.count += input_ids.shape[1]
        out: Tensor = self.layers[1](self.layers[0](self.embed(input_ids)))
        return out


def _sae() -> SDL:
    return trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))


@pytest.mark.parametrize("name", [*NAMES, None])
@pytest.mark.parametrize("where", [[4], slice(1, 5), [0, 6], None])
def test_passes_with_a_cache_of_any_name_equal_one_pass(name: str | None, where: Where) -> None:
    network, x, cache = _Network(), ids(2, 7), _Tokens()
    with torch.no_grad(), steer(network, _sae(), "layers.0:out", add(3, 2.0, at=where), scale(5, 4.0, at=where)):
        whole = network(x)
        parts = [
            network(part, cache) if name is None else network(part, **{name: cache})
            for part in x.split([3, 2, 1, 1], 1)
        ]
    assert cache.count == 7
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert not torch.allclose(whole, network(x))


def test_without_a_cache_every_pass_is_a_sequence_of_its_own() -> None:
    network, x = _Network(), ids(2, 7)
    plain = network(x)
    with steer(network, _sae(), "layers.0:out", add(3, 2.0, at=[1])):
        for _ in range(2):
            moved = (network(x) != plain).any(-1)
            assert torch.equal(moved, torch.arange(7).eq(1).expand(2, 7))


UNKNOWN = {
    "a tuple for each layer": ((torch.zeros(2, 2, 3, 8), torch.zeros(2, 2, 3, 8)),),
    "a list of tensors": [torch.zeros(3, 2, WIDTH)],
    "an object that counts nothing": SimpleNamespace(states=[torch.zeros(2, 3, WIDTH)]),
    "a mapping": {"layer 0": torch.zeros(2, 3, WIDTH)},
    "a cache of states": _States(),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_may_hold_earlier_tokens_uncounted_is_refused(kind: str) -> None:
    network, x = _Network(), ids(2, 2)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for name in NAMES:
        with (
            steer(network, _sae(), "layers.0:out", add(3, 2.0, at=[4])),
            pytest.raises(RefusedError, match=r"positions of edits are unknown when _Network .*get_seq_length"),
        ):
            network(x, **{name: UNKNOWN[kind]})
        with steer(network, _sae(), "layers.0:out", add(3, 2.0), add(4, 2.0, at=mask)):  # no position is asked for
            network(x, **{name: UNKNOWN[kind]})


def test_arguments_that_carry_no_earlier_tokens() -> None:
    flags = [torch.zeros(2, 1, 3, 3), None, True, 1, "eager", (1, 2), {"full": torch.ones(2, 1, 3, 3).bool()}]
    assert tokens_before(flags) == 0
    one, other = _Tokens(), _Tokens()
    one.count = other.count = 4
    assert tokens_before([*flags, one, other]) == 4
    other.count = 5
    assert tokens_before([one, other]) is None


def test_a_part_called_alone_begins_a_sequence_unless_it_has_a_cache() -> None:
    """So `generate` calls an encoder, after passes of the whole that had a cache."""
    network, x, cache = nn.Sequential(_Network()), ids(2, 7), _Tokens()
    part = network[0].layers[0]
    plain = part(torch.ones(1, 7, WIDTH))
    with steer(network, _sae(), "0.layers.0:out", add(3, 2.0, at=[1])):
        network[0].layers[1](torch.ones(1, 7, WIDTH))
        with pytest.raises(RefusedError, match=r"when _Network is called so: it is only a part"):
            network[0](x, cache=cache)
        with pytest.raises(IndexError):
            network(x + VOCABULARY)  # a pass that fails ends all the same
        moved = (part(torch.ones(1, 7, WIDTH)) != plain).any(-1)
    assert torch.equal(moved[0], torch.arange(7).eq(1))


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_positions_in_a_generation_from_a_cache_of_an_earlier_pass(implementation: str) -> None:
    """The prompt is longer than what the cache holds: positions still count from its first token."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: monosem[real]")
    model, x = llama(), ids(1)
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with steer(model, trained("topk(k=6)", 24, (WIDTH,), (WIDTH,)), "model.layers.1:out", add(5, 30.0, at=[4, 10])):
        fresh = model.generate(x, use_cache=False, **options)
        if implementation == "static":
            again = model.generate(x, cache_implementation="static", disable_compile=True, **options)
        else:
            cache = transformers.DynamicCache(config=model.config)
            out = model(x[:, :3], use_cache=True)
            name = next(name for name, value in out.items() if isinstance(value, transformers.Cache))
            model(x[:, :3], **{name: cache})
            assert cache.get_seq_length() == 3
            again = model.generate(x, **{name: cache}, **options)
    assert torch.equal(again, fresh)
    assert not torch.equal(fresh, model.generate(x, **options))


class _Drawn(dict[str, Any]):
    """A pass's output, as transformers gives it."""

    @property
    def logits(self) -> Tensor:
        logits: Tensor = self["logits"]
        return logits


class _Language(nn.Module):
    """A language model whose next token depends on how many went before, by a cache of some name."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        self.table = nn.Parameter(torch.randn(32, 8))

    def forward(self, input_ids: Tensor, use_cache: bool, **named: Any) -> _Drawn:
        assert use_cache
        assert set(named) <= {self.name}
        cache = named.get(self.name or "") or _Tokens()
        logits = self.table[cache.count + input_ids]
        cache.count += input_ids.shape[1]
        return _Drawn({"logits": logits} | ({} if self.name is None else {self.name: cache}))


class _Letters:
    bos_token_id, eos_token_id = 0, 0

    def decode(self, row: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, row))


def test_sampling_hands_a_cache_back_by_the_name_it_came_with() -> None:
    texts = []
    for name in NAMES:
        torch.manual_seed(0)
        texts.append(list(sample_texts(_Language(name), _Letters(), 5, tokens=12, batch=5)))
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) == 5
    with pytest.raises(RefusedError, match="_Language returns no cache of earlier tokens among logits"):
        list(sample_texts(_Language(None), _Letters(), 1))


def test_sampling_a_network_of_transformers_warns_of_nothing() -> None:
    texts = list(sample_texts(llama(), _Letters(), 2, tokens=5, batch=2))
    assert len(texts) == 2

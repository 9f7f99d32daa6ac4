"""Packed windows from texts that need not end, and rows that are a sample of all texts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, DataError
from monosem.data.batches import TokenFilter
from monosem.data.texts import PackedTexts, sampled, text_batches
from monosem.networks.live import LiveSource
from tests.data.test_texts import WORDS, _tokenizer
from tests.networks.networks import Tiny


def _texts(number: int = 60) -> list[str]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(list("abcdefghij"), generator.integers(1, 30))) for _ in range(number)]


class Stream:
    """Rows of a dataset, with the place to go on from that `datasets` streams have."""

    def __init__(self, number: int = 60) -> None:
        self.texts, self.place, self.read = _texts(number), 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.place < len(self.texts):
            self.place, self.read = self.place + 1, self.read + 1
            yield {"text": self.texts[self.place - 1], "id": self.place}
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def _ids(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in batch.inputs["input_ids"].flatten()]


def test_windows_are_full_and_no_token_is_lost() -> None:
    """One document after the other, each with <s>, cut every eight tokens."""
    tokenizer = _tokenizer()
    packed = PackedTexts(tokenizer, _texts(), length=8, tokens=24, keep=TokenFilter(drop=(1,)))
    batches = list(packed)
    whole = [token for text in _texts() for token in tokenizer(text)["input_ids"]]
    assert _ids(batches) == whole[: len(whole) // 24 * 24]
    assert _ids(packed) == _ids(batches)  # again, from the start
    owner = [number for number, text in enumerate(_texts()) for _ in tokenizer(text)["input_ids"]]
    for number, batch in enumerate(batches):
        assert batch.inputs["input_ids"].shape == (3, 8)
        assert batch.document.tolist() == [owner[24 * number + 8 * row] for row in range(3)]
        assert batch.keep is not None
        assert torch.equal(batch.keep, batch.inputs["input_ids"] != 1)


@pytest.mark.parametrize("kind", ["list", "stream", "function"])
def test_it_goes_on_where_it_was(kind: str) -> None:
    def texts() -> Any:
        return {"list": _texts, "stream": Stream, "function": lambda: lambda: iter(_texts())}[kind]()

    field = "text" if kind == "stream" else None
    whole = PackedTexts(_tokenizer(), texts(), field=field, length=8, tokens=16)
    batches, states = [], []
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    for at in (0, 7, len(batches) - 2):
        given = texts()
        late = PackedTexts(_tokenizer(), given, field=field, length=8, tokens=16)
        late.load_state_dict(states[at])
        rest = list(late)
        assert _ids(rest) == _ids(batches[at + 1 :])
        assert [b.document.tolist() for b in rest] == [b.document.tolist() for b in batches[at + 1 :]]
        if kind == "stream":
            assert given.read == 60 - states[at]["documents"]


def test_conversations() -> None:
    tokenizer = _tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    chat = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    packed = PackedTexts(tokenizer, [{"messages": chat}] * 4, field="messages", length=3, tokens=6)
    words = [WORDS[i] for i in _ids(packed)]
    assert [word for word in words if word in "abc"][:6] == list("abcabc")
    with pytest.raises(DataError, match=r"document 0 has no field 'text' but messages; name it"):
        list(PackedTexts(tokenizer, [{"messages": chat}], field="text"))
    with pytest.raises(DataError, match="document 1 is no text"):
        list(PackedTexts(tokenizer, ["a", 5]))
    with pytest.raises(ArgumentError, match="length=1, tokens=4096"):
        PackedTexts(tokenizer, [], length=1)


def test_a_live_stream_of_packed_texts_goes_on_from_its_cursor(tmp_path: Any) -> None:
    """Rows after a kill are the same, and the texts before are not read again."""

    def live(texts: Stream, **more: Any) -> LiveSource:
        packed = PackedTexts(_tokenizer(), texts, field="text", length=8, tokens=16)
        return LiveSource(Tiny(), "layers.1:out", None, packed, buffer=48, normalise=False, **more)

    file = tmp_path / "cursor.json"
    first = live(Stream(), cursor=file)
    rows = torch.cat([first.take(torch.arange(start, start + 16))[0] for start in range(0, 1600, 16)])
    first.close()
    texts = Stream()
    late = live(texts, cursor=file)
    texts.read = 0
    assert torch.equal(late.take(torch.arange(1584, 1600))[0], rows[1584:])
    late.close()
    assert texts.read < 20  # 1,600 rows are some 110 texts


def test_the_first_rows_are_of_short_and_long_texts_alike() -> None:
    """1,000 texts of 3 to 199 words: the mean length of those that a tenth of the rows come from is that of all."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(3, 200, 1000)
    texts = ["a " * int(n) for n in lengths]
    order = sampled(len(texts))
    assert sorted(order) == list(range(1000))
    assert order != sampled(len(texts), seed=1)
    seen: list[int] = []
    rows = 0
    for batch in text_batches(_tokenizer(), (texts[i] for i in order), length=256, tokens=1024, together=64):
        if rows > int(lengths.sum()) // 10:
            break
        seen += [int(lengths[order[int(d)]]) for d in batch.document]
        rows += batch.tokens
    assert np.mean(seen) == pytest.approx(lengths.mean(), rel=0.15)  # the longest alone: 189
    assert min(seen) < 20 < 180 < max(seen)

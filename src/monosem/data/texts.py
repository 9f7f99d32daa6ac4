"""Texts as batches of tokens: documents from files, cut into windows, put together by length."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from monosem.base.errors import DataError, check, shortened
from monosem.base.registry import Registry
from monosem.base.seeds import torch_generator
from monosem.data.batches import Batch, TokenFilter
from monosem.data.table import read_array

Each = Literal["line", "paragraph", "file"]
"""What is one document of a .txt file."""


LONGEST = 1 << 26
"""Letters of a line, or of a document, that are read."""


@dataclass(frozen=True)
class Document:
    """A text and, if known, its class."""

    text: str
    label: str | None = None


ReadDocuments = Callable[[Path, Each, str, str | None], Iterator[Document]]
DOCUMENTS: Registry[ReadDocuments] = Registry("text file type")
"""By suffix: a function from (path, each, field, label field) to documents."""


def read_documents(
    paths: Iterable[str | Path], each: Each = "line", field: str = "text", label: str | None = None
) -> Iterator[Document]:
    """Documents of .txt, .jsonl and .parquet files, one after the other, read as they are asked for.

    `each` says what one document of a .txt file is; `field` and `label` name fields of .jsonl or columns of .parquet.
    Empty documents are left out. Raises: DataError that names the file, and the line where there is one.
    """
    check(each in ("line", "paragraph", "file"), f"each={each!r}; known: line, paragraph, file")
    for path in map(Path, paths):
        check(path.is_file(), f"{path} is no file; give texts as {', '.join(DOCUMENTS)}", DataError)
        check(path.suffix in DOCUMENTS, f"{path} is no {' or '.join(DOCUMENTS)} file; convert it to one", DataError)
        try:
            yield from (
                document for document in DOCUMENTS[path.suffix](path, each, field, label) if document.text.strip()
            )
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time; a line without an end is refused before it takes all memory."""
    number = 1
    with path.open(encoding="utf-8") as file:
        while line := file.readline(LONGEST + 1):
            check(len(line) <= LONGEST, f"{path}, line {number}, has over {LONGEST:,} letters; split it", DataError)
            yield line
            number += 1


@DOCUMENTS.register(".txt")
def _txt(path: Path, each: Each, field: str, label: str | None) -> Iterator[Document]:
    check(
        label is None, f"{path} is plain text and has no field {label!r}; give labels in .jsonl or .parquet", DataError
    )
    if each == "file":
        size = path.stat().st_size
        check(size <= LONGEST, f"{path} has {size:,} bytes, a document at most {LONGEST:,}; split it", DataError)
        yield Document(path.read_text(encoding="utf-8"))
        return
    paragraph: list[str] = []
    for line in _lines(path):
        if each == "line":
            yield Document(line.rstrip("\n"))
        elif line.strip():
            paragraph.append(line)
        elif paragraph:
            yield Document("".join(paragraph).rstrip("\n"))
            paragraph = []
    if paragraph:
        yield Document("".join(paragraph).rstrip("\n"))


@DOCUMENTS.register(".jsonl")
def _jsonl(path: Path, each: Each, field: str, label: str | None) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = shortened(str(error))
            raise DataError(f"{path}, line {number}, is not JSON ({why}); give one object a line") from None
        for wanted in (field, *([label] if label else [])):
            known = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            present = isinstance(entry, dict) and wanted in entry
            check(present, f"{path}, line {number}, has no field {wanted!r} but {known}; name the field", DataError)
        check(isinstance(entry[field], str), f"{path}, line {number}: {field!r} is no text", DataError)
        yield Document(entry[field], str(entry[label]) if label else None)


@DOCUMENTS.register(".parquet")
def _parquet(path: Path, each: Each, field: str, label: str | None) -> Iterator[Document]:
    texts = read_array(path, field)
    check(np.asarray(texts).dtype.kind in "UO", f"{path}: column {field!r} holds no text; name another", DataError)
    labels = read_array(path, label) if label else None
    for row, text in enumerate(texts.tolist()):
        yield Document(str(text), None if labels is None else str(labels[row]))


def text_batches(
    tokenizer: Any,
    texts: Iterable[str],
    *,
    length: int = 256,
    tokens: int = 4096,
    together: int = 1024,
    keep: TokenFilter | None = None,
    labels: Sequence[int] | None = None,
    long: Literal["split", "cut"] = "split",
) -> Iterator[Batch]:
    """Batches of about `tokens` places from texts, by a transformers tokenizer with its special tokens.

    Texts longer than `length` tokens become several windows ("split": each a context of its own, with special tokens)
    or are cut ("cut"). `together` windows at a time are sorted by length, so that a batch is padded little; their
    batches come in a keyed order, the same in every run, so that the first so many rows are of short and long texts
    alike (`sampled` does the same to the texts; the fewer `together`, the closer the sample). A row's document is the
    number of its text; its position counts over the windows before.
    `labels` holds one class number per text.
    """
    check(long in ("split", "cut"), f"long={long!r}; known: split, cut")
    check(length >= 2, f"length={length}; a window has at least two tokens")
    check(tokens >= 1, f"tokens={tokens}; a batch has at least one")
    return _sorted_batches(
        _windows(tokenizer, texts, length, long), tokenizer, tokens, together, keep or TokenFilter(), labels
    )


def _sorted_batches(
    stream: Iterator[Any], tokenizer: Any, tokens: int, together: int, keep: TokenFilter, labels: Sequence[int] | None
) -> Iterator[Batch]:
    """Batches of windows, each of those that are sorted together."""
    group = 0
    while windows := list(islice(stream, together)):
        windows.sort(key=lambda window: len(window[2]), reverse=True)
        parts, group = [], group + 1
        while windows:
            rows = max(1, tokens // len(windows[0][2]))
            parts.append(windows[:rows])
            del windows[:rows]
        for part in torch.randperm(len(parts), generator=torch_generator(0, "texts", group)).tolist():
            yield _batch(parts[part], tokenizer, keep, labels)


def sampled(number: int, seed: int = 0) -> list[int]:
    """Numbers of texts in a keyed order: whatever part of them is read, it is a sample of all."""
    order: list[int] = torch.randperm(number, generator=torch_generator(seed, "sampled")).tolist()
    return order


class PackedTexts:
    """Batches of full windows from texts that need not end: no padding, and a place to go on from.

    Documents follow each other, each with the tokenizer's special tokens, and are cut every `length` tokens; a batch
    has tokens // length windows. A row's document is that of its window's first token, its position the place in the
    window. `texts`: strings; conversations (lists of messages, put together by the tokenizer's chat template); or
    mappings with either in `field`, as `datasets` gives them, streaming or not. They are gone through anew each time;
    a function makes them anew. What is left over at the end is dropped.
    `state_dict` says where the next batch begins. Texts that have `state_dict` themselves go on from theirs; of others
    those before are read again, but not tokenized.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Iterable[Any] | Callable[[], Iterable[Any]],
        *,
        field: str | None = None,
        length: int = 256,
        tokens: int = 4096,
        keep: TokenFilter | None = None,
    ) -> None:
        check(2 <= length <= tokens, f"length={length}, tokens={tokens}; a window has two tokens, a batch one window")
        self.tokenizer, self.texts, self.field, self.length = tokenizer, texts, field, length
        self.windows, self.keep = tokens // length, keep or TokenFilter()
        self._state: dict[str, Any] = {"documents": 0, "carry": [], "source": None}

    def state_dict(self) -> dict[str, Any]:
        """Documents that are behind, what is left of them as (document, tokens), and the texts' own state."""
        return self._state | {"carry": [list(part) for part in self._state["carry"]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""
        self._state = dict(state)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the state says, to the end; the next time from the start."""
        number, need = self._state["documents"], self.windows * self.length
        carry: list[tuple[int, list[int]]] = [(document, list(ids)) for document, ids in self._state["carry"]]
        ready = sum(len(ids) for _, ids in carry)
        for text, source in self._texts():
            if text is not None:
                carry.append((number, self._ids(text, number)))
                number, ready = number + 1, ready + len(carry[-1][1])
            while ready >= need:
                batch = self._batch(carry)
                ready -= need
                self._state = {"documents": number, "carry": list(carry), "source": source}
                yield batch
        self._state = {"documents": 0, "carry": [], "source": None}

    def _texts(self) -> Iterator[tuple[Any, Any]]:
        """(None, its state), then (text, the state after it) from where the state says."""
        texts: Any = self.texts() if callable(self.texts) else self.texts
        source = self._state["source"]
        saves = hasattr(texts, "state_dict") and hasattr(texts, "load_state_dict")
        if saves and source is not None:
            texts.load_state_dict(source)
        yield None, source
        for text in texts if saves and source is not None else islice(texts, self._state["documents"], None):
            yield text, texts.state_dict() if saves else None

    def _ids(self, text: Any, number: int) -> list[int]:
        """The tokens of a text, a conversation, or a mapping that holds either."""
        if isinstance(text, Mapping):
            known = ", ".join(map(str, text))
            check(self.field in text, f"document {number} has no field {self.field!r} but {known}; name it", DataError)
            text = text[self.field]
        if isinstance(text, str):
            return list(self.tokenizer(text, verbose=False)["input_ids"])
        check(isinstance(text, (list, tuple)), f"document {number} is no text; give strings or messages", DataError)
        ids = self.tokenizer.apply_chat_template(list(text), tokenize=True)
        return list(ids["input_ids"] if isinstance(ids, Mapping) else ids)

    def _batch(self, carry: list[tuple[int, list[int]]]) -> Batch:
        """The first tokens of what is left, taken off it."""
        ids = torch.empty(self.windows, self.length, dtype=torch.int64)
        documents = torch.empty(self.windows, dtype=torch.int64)
        for row in range(self.windows):
            documents[row], filled = carry[0][0], 0
            while filled < self.length:
                number, part = carry.pop(0)
                used = part[: self.length - filled]
                ids[row, filled : filled + len(used)] = torch.tensor(used, dtype=torch.int64)
                filled += len(used)
                if len(used) < len(part):
                    carry.insert(0, (number, part[len(used) :]))
        mask = torch.ones_like(ids)
        place = torch.arange(self.length).expand_as(ids)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return Batch(inputs, documents, self.keep(ids, mask.bool()), ids, place)


_Window = tuple[int, int, list[int]]  # the text's number, the place of the window's first token, tokens


def _windows(tokenizer: Any, texts: Iterable[str], length: int, long: str) -> Iterator[_Window]:
    stream, first = iter(texts), 0
    split = long == "split" and bool(getattr(tokenizer, "is_fast", False))
    while some := list(islice(stream, 256)):
        wrong = [i for i, text in enumerate(some) if not isinstance(text, str)]
        check(not wrong, f"text {first + (wrong or [0])[0]} is no text; give strings", DataError)
        more = {"return_overflowing_tokens": True} if split else {}
        encoded = tokenizer(some, truncation=True, max_length=length, **more)
        numbers = encoded["overflow_to_sample_mapping"] if split else range(len(some))
        before: dict[int, int] = {}
        for number, tokens in zip(numbers, encoded["input_ids"], strict=True):
            place = before.get(number, 0)
            before[number] = place + len(tokens)
            if tokens:
                yield first + number, place, list(tokens)
        first += len(some)


def _batch(windows: list[_Window], tokenizer: Any, keep: TokenFilter, labels: Sequence[int] | None) -> Batch:
    width = max(len(tokens) for _, _, tokens in windows)
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    ids = torch.full((len(windows), width), pad)
    mask = torch.zeros(len(windows), width, dtype=torch.int64)
    for row, (_, _, tokens) in enumerate(windows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    documents = torch.tensor([document for document, _, _ in windows])
    position = torch.tensor([place for _, place, _ in windows])[:, None] + torch.arange(width)
    label = None if labels is None else torch.tensor([labels[document] for document, _, _ in windows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return Batch(inputs, documents, keep(ids, mask.bool()), ids, position, label)


def pieces(tokenizer: Any) -> list[str]:
    """The text of every token by its number, with the space that it begins with.

    Knows SentencePiece's ▁, byte-level BPE's printable bytes and WordPiece's ##; pieces of others stay as they are.
    """
    names: list[str] = [name or "" for name in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    special = set(tokenizer.all_special_tokens)
    marks = {mark: sum(name.startswith(mark) for name in names) for mark in ("▁", "Ġ", "##")}
    family = max(marks, key=lambda mark: marks[mark])  # a few tokens of any family begin with another's mark
    if family == "▁":
        return [name.replace("▁", " ") for name in names]
    written = _wordpiece if family == "##" else partial(_bytes, _byte_of_letter())
    return [name if name in special else written(name) for name in names]


def _wordpiece(name: str) -> str:
    return name[2:] if name.startswith("##") else f" {name}"


def _bytes(byte: dict[str, int], name: str) -> str:
    return name if any(c not in byte for c in name) else _decoded(name, byte)


def _decoded(name: str, byte: dict[str, int]) -> str:
    return bytes(byte[c] for c in name).decode("utf-8", "replace")


def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes a byte that cannot be printed as the next letter from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}

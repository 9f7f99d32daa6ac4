"""Texts as batches of tokens: documents from files, cut into windows, put together by length."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from monosem.base.errors import DataError, check
from monosem.base.registry import Registry
from monosem.data.batches import Batch, TokenFilter
from monosem.data.table import read_array

Each = Literal["line", "paragraph", "file"]
"""What is one document of a .txt file."""


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


@DOCUMENTS.register(".txt")
def _txt(path: Path, each: Each, field: str, label: str | None) -> Iterator[Document]:
    check(
        label is None, f"{path} is plain text and has no field {label!r}; give labels in .jsonl or .parquet", DataError
    )
    if each == "file":
        yield Document(path.read_text(encoding="utf-8"))
        return
    paragraph: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
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
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}, is not JSON ({error}); give one object a line") from None
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
    or are cut ("cut"). `together` windows at a time are sorted by length, so that a batch is padded little; the order
    is the same in every run. A row's document is the number of its text; its position counts over the windows before.
    `labels` holds one class number per text.
    """
    check(long in ("split", "cut"), f"long={long!r}; known: split, cut")
    check(length >= 2, f"length={length}; a window has at least two tokens")
    stream = _windows(tokenizer, texts, length, long)
    while windows := list(islice(stream, together)):
        windows.sort(key=lambda window: len(window[2]), reverse=True)
        while windows:
            rows = max(1, tokens // len(windows[0][2]))
            yield _batch(windows[:rows], tokenizer, keep or TokenFilter(), labels)
            del windows[:rows]


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

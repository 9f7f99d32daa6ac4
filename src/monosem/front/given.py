"""What a call is given, brought to what the library takes: a model, a network, texts or batches of tokens."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from monosem.base.errors import check
from monosem.base.guard import shown
from monosem.core.model import SDL
from monosem.data.batches import TokenFilter
from monosem.data.texts import pieces, read_documents, text_batches
from monosem.interop.api import load
from monosem.networks.models import open_network
from monosem.train.result import Result
from monosem.train.start import Start

Network = nn.Module | Mapping[str, nn.Module] | str | Path
"""A network in evaluation mode, several by name, or a transformers folder, or a name in the cache."""
_TEXTS = (".txt", ".jsonl", ".parquet")


def network_of(given: Any) -> tuple[Any, Any]:
    """(module or modules by name, tokenizer or None) of what stands for a network."""
    if isinstance(given, str | Path):
        return open_network(given)
    several = isinstance(given, Mapping) and bool(given) and all(isinstance(m, nn.Module) for m in given.values())
    right = isinstance(given, nn.Module) or several
    check(right, f"network={shown(given)}; give a module, a transformers folder, or a name in the cache")
    return given, getattr(given, "tokenizer", None)


def tokens_of(given: Any, tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    """Batches as they are; of texts or a file of them, their batches and what a store keeps with those."""
    texts = _texts(given)
    if texts is None:
        check(isinstance(given, Iterable), f"batches={shown(given)}; give texts, or batches of tokens, as a list")
        return given, {}
    remedy = "give the network by its folder, or batches of tokens: ms.text_batches(tokenizer, texts)"
    check(tokenizer is not None, f"texts need a tokenizer; {remedy}")
    special = tuple(sorted(set(tokenizer.all_special_ids)))
    return list(text_batches(tokenizer, texts, keep=TokenFilter(special))), {"vocabulary": pieces(tokenizer)}


def _texts(given: Any) -> list[str] | None:
    """Texts: themselves, one alone, or those of a file; None for anything else."""
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(_TEXTS)):
        return [document.text for document in read_documents([Path(given)])]
    if isinstance(given, str):
        return [given]
    texts = isinstance(given, Sequence) and len(given) > 0 and all(isinstance(text, str) for text in given)
    return list(given) if texts else None


def as_model(given: Any) -> SDL:
    """A model: itself, what `fit` returned, or a path of any known format."""
    if isinstance(given, SDL):
        return given
    if isinstance(given, Result):
        return given.model
    check(isinstance(given, str | Path), f"model={shown(given)}; give a model, what fit returned, or a path")
    return load(given)


def as_start(given: Any) -> Start:
    """A model to go on from, and its file where it is one."""
    return Start(as_model(given), str(given) if isinstance(given, str | Path) else "")

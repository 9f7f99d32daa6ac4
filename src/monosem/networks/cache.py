"""A network's cache of earlier tokens, known by what it can do: the keyword that carries it changes with versions."""

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor


def is_cache(value: Any) -> bool:
    """Whether a value tells how many tokens it keeps, as transformers' caches do."""
    return callable(getattr(value, "get_seq_length", None))


def tokens_before(arguments: Iterable[Any]) -> int | None:
    """Tokens of the sequence that went through a network before the pass with these arguments.

    0 without a cache. None when it cannot be known: a cache keeps states instead of tokens, two caches disagree, or an
    argument that does not count tokens (a list of tensors, say) may carry them.
    """
    arguments = list(arguments)
    try:
        counts = {int(value.get_seq_length()) for value in arguments if is_cache(value)}
    except (NotImplementedError, ValueError):
        return None
    if counts:
        return counts.pop() if len(counts) == 1 else None
    carried = (not isinstance(value, Tensor) and _holds_states(value) for value in arguments)
    return None if any(carried) else 0


def _holds_states(value: Any) -> bool:
    """Whether states [batch, ..., width] lie in a value; an encoder's output, a dataclass, is of no earlier pass."""
    if isinstance(value, Tensor):
        return value.ndim > 2 and value.is_floating_point()
    if isinstance(value, Mapping):
        return not is_dataclass(value) and any(map(_holds_states, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_states, value))
    return any(map(_holds_states, getattr(value, "__dict__", {}).values()))

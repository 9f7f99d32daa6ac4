"""Texts of one's own: which latents fire on each of their tokens, by the network that a dictionary reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monosem.base.errors import DataError, check
from monosem.core.model import SDL
from monosem.data.texts import pieces
from monosem.networks.devices import input_device, moved
from monosem.networks.splice import splice


@dataclass(frozen=True)
class OwnText:
    """A text's tokens, special ones left out, and on each the latents that fire most, the strongest first."""

    words: tuple[str, ...]
    latents: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]


@torch.no_grad()
def own_texts(
    model: SDL, network: nn.Module, tokenizer: Any, texts: Sequence[str], at: str, to: str | None = None, most: int = 16
) -> list[OwnText]:
    """What fires on texts that were typed by hand; `at` and `to` are sites as `splice` reads them.

    Raises: DataError for a text without tokens; RefusedError for a model that reads several sites.
    """
    words, special = pieces(tokenizer), set(tokenizer.all_special_ids)
    seen = []
    for text in texts:
        given = moved(dict(tokenizer(text, return_tensors="pt")), input_device(network))
        tokens = given["input_ids"][0].tolist()
        shown = [i for i, token in enumerate(tokens) if token not in special]
        check(bool(shown), f"the text {text!r} has no tokens but special ones; write some words", DataError)
        with splice(network, model, at, to, error=True) as spliced:
            network(**{name: given[name] for name in ("input_ids", "attention_mask") if name in given})
        assert spliced.code is not None
        values, latents = spliced.code.to_dense()[shown].float().cpu().topk(min(most, model.n_q), 1)
        kept = [int((row > 0).sum()) for row in values]
        seen.append(
            OwnText(
                tuple(words[tokens[i]] for i in shown),
                tuple(tuple(row[:count].tolist()) for row, count in zip(latents, kept, strict=True)),
                tuple(tuple(row[:count].tolist()) for row, count in zip(values, kept, strict=True)),
            )
        )
    return seen

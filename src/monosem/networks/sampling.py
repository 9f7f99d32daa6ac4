"""Texts drawn from a language model itself: for a small model, the only text that it knows well."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from monosem.base.errors import RefusedError, check
from monosem.base.seeds import torch_generator
from monosem.networks.devices import input_device
from monosem.networks.steer import is_cache


@torch.inference_mode()
def sample_texts(
    model: Any,
    tokenizer: Any,
    documents: int,
    tokens: int = 255,
    batch: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    *,
    first: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Iterator[str]:
    """Texts by ancestral sampling from nothing: each next token is drawn from softmax(logits / temperature).

    `model` and `tokenizer` are transformers' (a causal language model). A text ends where the model ends it, or after
    `tokens` tokens. Text i depends on the seed and on the batch that it stands in, not on how many are drawn: texts
    before `first` can be left out. `progress` gets the number of finished texts at every token, with fractions.
    Raises: ArgumentError when the tokenizer has no token to begin with; RefusedError when the model returns no cache.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    check(begin is not None, "the tokenizer has neither a beginning nor an end token; sampling cannot start")
    check(temperature > 0, f"temperature={temperature}; it must be positive")
    stops, device = {begin, tokenizer.eos_token_id} - {None}, input_device(model)
    for number in range(first // batch, -(-documents // batch)):
        generator = torch_generator(seed, "sample", number)
        newest, past = torch.full((batch, 1), begin), dict[str, Any]()
        drawn: list[torch.Tensor] = []
        open_ = torch.ones(batch, dtype=torch.bool)
        while len(drawn) < tokens and bool(open_.any()):
            out = model(input_ids=newest.to(device), use_cache=True, **past)
            past = {name: value for name, value in out.items() if is_cache(value)}  # taken back by the name it is given
            if not past:
                raise RefusedError(
                    f"{type(model).__name__} returns no cache of earlier tokens among {', '.join(out)}; sampling needs "
                    "a causal language model with one"
                )
            chances = torch.softmax(out.logits[:, -1].float().cpu() / temperature, -1)
            newest = torch.multinomial(chances, 1, generator=generator)
            drawn.append(newest[:, 0])
            open_ &= ~torch.isin(newest[:, 0], torch.tensor(sorted(stops)))
            if progress is not None:
                progress(min(documents, (number + len(drawn) / tokens) * batch))
        rows = torch.stack(drawn, 1).tolist()
        for row in rows[max(0, first - number * batch) : documents - number * batch]:
            end = next((i for i, token in enumerate(row) if token in stops), len(row))
            yield tokenizer.decode(row[:end], skip_special_tokens=True).strip()

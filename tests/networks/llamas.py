"""Tiny networks with random weights for tests of splicing and steering."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.core.model import SDL
from monosem.methods import method

WIDTH, VOCABULARY, LENGTH = 16, 40, 9
MLP = "model.layers.{}.mlp"


def llama(layers: int = 3, seed: int = 0) -> Any:
    """A LlamaForCausalLM with random weights, in evaluation mode; skips where transformers is not installed."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: monosem[real]")
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.4,
    )
    return transformers.LlamaForCausalLM(config).eval()


def save_llama(folder: Path) -> Any:
    """The same, in a folder, with the least that transformers reads as a tokenizer: of <0> <1> ..."""
    network = llama()
    network.save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"<{n}>": n for n in range(VOCABULARY)}, unk_token="<0>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return network


def ids(batch: int = 3, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Token ids, none of them special."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def trained(text: str, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...], seed: int = 0) -> SDL:
    """A model with random weights and biases, as if trained, in evaluation mode."""
    model, _ = method(text).build(n_q, p_widths, r_widths, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (model.b_E, model.b_D, *(model.parameters() if model.W_skip is not None else ())):
            if parameter.ndim == 1 or parameter is model.W_skip:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()

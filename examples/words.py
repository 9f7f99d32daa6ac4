"""A language of twenty words and a small network that has learned it: what the notebooks look into."""

from typing import Any

import torch

SUBJECTS, VERBS = ["cat", "dog", "bird", "child"], ["sees", "likes", "chases", "finds"]
ADJECTIVES, OBJECTS = ["red", "blue", "small", "old"], ["ball", "house", "tree", "river", "stone"]
WORDS = [".", "the", "a", *SUBJECTS, *VERBS, *ADJECTIVES, *OBJECTS]
"""The vocabulary, by token number."""


def sentences(number: int, seed: int = 0) -> torch.Tensor:
    """Sentences as token numbers [number, 8]: "the red cat sees a blue ball ."."""
    draw = torch.Generator().manual_seed(seed)
    slots = (["the", "a"], ADJECTIVES, SUBJECTS, VERBS, ["the", "a"], ADJECTIVES, OBJECTS, ["."])
    picked = [torch.randint(len(slot), (number,), generator=draw).tolist() for slot in slots]
    rows = [[WORDS.index(slot[i]) for slot, i in zip(slots, row, strict=True)] for row in zip(*picked, strict=True)]
    return torch.tensor(rows)


def network(steps: int = 60) -> Any:
    """A Llama of two layers, trained for a second on the language; in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, pad_token_id=0, **sizes))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        tokens = sentences(64, seed=step + 1)
        loss = model(input_ids=tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()

"""Small networks and batches that tests harvest, and the rows that they give, computed plainly."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Called by keyword, as transformers calls attention; gives a tuple, as transformers' layers did."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width))

    def forward(self, *, mask: Tensor | None, hidden_states: Tensor) -> tuple[Tensor, str]:
        return hidden_states + self.mlp(hidden_states), "more"


class Tiny(nn.Module):
    """Embedding, some layers, a head."""

    def __init__(self, width: int = 6, layers: int = 3, words: int = 40, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(words, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, words)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x, _ = layer(mask=attention_mask, hidden_states=x)
        logits: Tensor = self.head(x)
        return logits


def masked_batches(batches: int = 5, seed: int = 0) -> list[dict[str, Tensor]]:
    """Batches of token numbers with padding at the right, each of another size."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(batches):
        rows, time = 2 + number % 3, 5 + number
        mask = torch.ones(rows, time, dtype=torch.int64)
        mask[0, 3:] = 0
        made.append({"input_ids": torch.randint(0, 40, (rows, time), generator=generator), "attention_mask": mask})
    return made


@torch.no_grad()
def plain_rows(model: Tiny, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """[batch, time, width] of some sites, by calling the parts one after the other."""
    x = model.embed(batch["input_ids"])
    found = {}
    for number, layer in enumerate(model.layers):
        found[f"layers.{number}:in"] = found[f"layers.{number}.mlp:in"] = x
        found[f"layers.{number}.mlp:out"] = layer.mlp(x)  # type: ignore[operator, union-attr]
        x = found[f"layers.{number}:out"] = x + layer.mlp(x)  # type: ignore[operator, union-attr]
    return found | {"head:in": x, "head:out": model.head(x)}

"""What a latent does to a language model's next-token logits directly: unembedding rows times decoder columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.base.errors import RefusedError, ShapeError, check
from monosem.core.model import SDL

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What transformers' decoders call the norm before the unembedding."""

_CHUNK = 256
"""Latents whose logits over the whole vocabulary are in memory at once."""


@dataclass(frozen=True, eq=False)
class LogitEffect:
    """The tokens that each latent promotes and suppresses most, strongest first.

    `latents` are the latents' numbers; `norm` names the final norm whose gain was folded in ("" for none).
    """

    latents: Int[Tensor, " latents"]
    top: Int[Tensor, "latents k"]
    top_values: Float[Tensor, "latents k"]
    bottom: Int[Tensor, "latents k"]
    bottom_values: Float[Tensor, "latents k"]
    norm: str = ""

    def words(
        self, decode: Callable[[list[int]], str], row: int
    ) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """Promoted and suppressed tokens of one row as (text, logit); `decode` is a tokenizer's decode."""
        sides = ((self.top, self.top_values), (self.bottom, self.bottom_values))
        promoted, suppressed = (
            [(decode([token]), value) for token, value in zip(ids[row].tolist(), values[row].tolist(), strict=True)]
            for ids, values in sides
        )
        return promoted, suppressed


def unembedding(model: nn.Module) -> tuple[Float[Tensor, "vocabulary width"], str]:
    """The unembedding with the final norm's gain folded in, and that norm's name ("" when the model has none).

    Equation: U = W_U diag(g), and for a layer norm, which subtracts the mean, U (I - 1 1' / width). The division by
        the stream's own size is left out: it scales all tokens alike and depends on the input.
    Raises: RefusedError when the model has no output embedding.
    """
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    if head is None:
        raise RefusedError(f"{type(model).__name__} has no output embedding; logit effects need a language model")
    weight = head.weight.detach().float()
    base = getattr(model, "base_model", model)
    for name in FINAL_NORMS:
        norm = getattr(base, name, None)
        if isinstance(norm, nn.Module):
            gain, centred = _gain(norm, head.weight)
            folded = weight * gain
            return (folded - folded.mean(1, keepdim=True) if centred else folded), name
    return weight, ""


def logit_effect(
    sdl: SDL,
    model: nn.Module | Float[Tensor, "vocabulary width"],
    site: int | None = None,
    top: int = 10,
    latents: Sequence[int] | Tensor | None = None,
) -> LogitEffect:
    """Tokens whose logits each latent raises and lowers most, by the direct path from its site to the logits.

    Equation: effect[v, j] = U[v] . W_D[:, j], in logits per unit of latent j, up to the final norm's division.
        It is the whole direct effect when the site writes into the residual stream (the output of a layer, an MLP
        or an attention block); later layers, which also read it, are left out.
    `model`: a language model of transformers, or its unembedding [vocabulary, width]. `site`: the number of the
        target source; None is the only one, and for a cross-layer transcoder the sum of all, which write into one
        stream. `latents`: numbers of the latents wanted; None is all.
    Shapes: [latents, top] each.
    Raises: ShapeError when the decoder's columns have not the unembedding's width.

    Example:
        >>> from monosem.methods import method
        >>> sdl, _ = method("topk(k=2)").build(6, (4,), (4,))
        >>> words = logit_effect(sdl, torch.eye(4), top=1, latents=[3])
        >>> bool(words.top[0, 0] == sdl.W_D[:, 3].argmax())
        True
    """
    table, norm = unembedding(model) if isinstance(model, nn.Module) else (model.detach().float(), "")
    chosen = torch.arange(sdl.n_q) if latents is None else torch.as_tensor(latents, dtype=torch.int64).reshape(-1)
    wrong = chosen[(chosen < 0) | (chosen >= sdl.n_q)]
    check(wrong.numel() == 0, f"latents names {wrong[:4].tolist()}, n_q={sdl.n_q}; number them 0 to {sdl.n_q - 1}")
    check(top >= 1, f"top={top}; ask for at least one token")
    with torch.no_grad():
        columns = _columns(sdl, site).to(table)
        check(
            columns.shape[0] == table.shape[1],
            f"decoder columns have n_r={columns.shape[0]}, the unembedding {table.shape[1]} columns; "
            "logit effects need a site that writes into the residual stream",
            ShapeError,
        )
        k = min(top, table.shape[0])
        ids = torch.zeros(2, chosen.numel(), k, dtype=torch.int64)
        values = torch.zeros(2, chosen.numel(), k)
        for start in range(0, chosen.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            effect = columns[:, chosen[part].to(columns.device)].T @ table.T
            for side, largest in enumerate((True, False)):
                largest_effects = effect.topk(k, 1, largest=largest)
                ids[side, part], values[side, part] = largest_effects.indices.cpu(), largest_effects.values.cpu()
    return LogitEffect(chosen, ids[0], values[0], ids[1], values[1], norm)


def _columns(sdl: SDL, site: int | None) -> Tensor:
    """W_D's columns within one target source, or summed over all of a cross-layer transcoder's."""
    slices, W_D = sdl.layout.r_slices, sdl.W_D
    if site is None and len(slices) > 1:
        check(
            not sdl.layout.shared and len(set(sdl.layout.r_widths)) == 1,
            f"the model writes {len(slices)} sources of widths {sdl.layout.r_widths}; choose one by site=0 to "
            f"{len(slices) - 1}",
        )
        return torch.stack([W_D[columns] for columns in slices]).sum(0)
    number = 0 if site is None else site
    check(0 <= number < len(slices), f"site={number}, the model writes {len(slices)} sources; count from 0")
    return W_D[slices[number]]


def _gain(norm: nn.Module, like: Tensor) -> tuple[Tensor, bool]:
    """A norm's gain per column and whether it subtracts the mean, found by asking the norm itself."""
    weight = next(norm.parameters(), like)  # it may lie on another device than the head
    probe = torch.ones(like.shape[1], dtype=torch.float32, device=weight.device)
    probe[1::2] = -1
    with torch.no_grad():
        up, down, moved = (norm(x.to(like.dtype)).float() for x in (probe, -probe, probe + 3))
        odd = (up - down) / 2
        centred = bool(torch.allclose(moved, up, rtol=0.02, atol=1e-3 * float(up.abs().max())))
        x = probe - probe.mean() if centred else probe
        return (odd * x.square().mean().sqrt() / x).to(like.device), centred

"""From the tensors of a foreign file to an SDL."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from monosem.core.activations import Activation
from monosem.core.io import cast_parameters, set_model_tensors
from monosem.core.model import SDL, PreBias
from monosem.core.pairs import SAE, Layout, Transcoder
from monosem.core.rownorm import RowNorm, RowNormSDL
from monosem.kernels.blocks import Block


def assemble(
    layout: Layout,
    activation: Activation,
    encoder: Sequence[Tensor],
    decoder: Sequence[Tensor],
    b_E: Tensor,
    b_D: Tensor,
    *,
    where: str,
    pre_bias: PreBias = "none",
    W_skip: Tensor | None = None,
    act: dict[str, Tensor] | None = None,
    state: dict[str, Tensor] | None = None,
    norm: RowNorm | None = None,
) -> SDL:
    """A model of these tensors, latent-major, in evaluation mode.

    Shapes: encoder[i] and decoder[i] as the layout's blocks; b_E [n_q], b_D [n_r], W_skip [n_r, n_p].
    Raises: CheckpointError where a shape disagrees.
    """
    layout = replace(layout, skip=W_skip is not None)
    model = SDL(layout, activation, pre_bias) if norm is None else RowNormSDL(layout, activation, pre_bias, norm)
    tensors = {f"encoder.{i}": w for i, w in enumerate(encoder)} | {f"decoder.{i}": w for i, w in enumerate(decoder)}
    tensors |= {"b_E": b_E, "b_D": b_D} | ({} if W_skip is None else {"W_skip": W_skip})
    tensors |= {f"act.{name}": t for name, t in (act or {}).items()}
    tensors |= {f"state.{name}": t for name, t in (state or {}).items()}
    cast_parameters(model, encoder[0].dtype)
    set_model_tensors(model, tensors, where)
    return model.eval()


def sae(W_E: Tensor, W_D: Tensor) -> Layout:
    """The layout of an SAE with these latent-major weights."""
    return SAE().layout(W_E.shape[0], (W_E.shape[1],), (W_D.shape[1],))


def transcoder(W_E: Tensor, W_D: Tensor) -> Layout:
    """The layout of a transcoder with these latent-major weights."""
    return Transcoder().layout(W_E.shape[0], (W_E.shape[1],), (W_D.shape[1],))


def layered(layers: int, latents: int, n_p: int, n_r: int) -> Layout:
    """One transcoder per layer, side by side: block-diagonal encoder and decoder, every layer of these sizes."""

    def diagonal(width: int) -> tuple[Block, ...]:
        return tuple(Block(i * latents, (i + 1) * latents, i * width, (i + 1) * width) for i in range(layers))

    return Layout(layers * latents, (n_p,) * layers, (n_r,) * layers, diagonal(n_p), diagonal(n_r))


def block_diagonal(parts: Sequence[Tensor]) -> Tensor:
    """Matrices along a diagonal, zero elsewhere."""
    whole = parts[0].new_zeros(sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts))
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole

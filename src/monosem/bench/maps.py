"""The similarity heat map: true features against the latents that match them best."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHOWN = 40
"""How many features a heat map shows."""


def similarity_map(
    W_D: Float[Tensor, "n_r n_q"], W_r: Float[Tensor, "n_r n"], features: Int[Tensor, " scored"]
) -> dict[str, Any]:
    """Signed decoder cosines of the first scored features with their best latents, ready for JSON.

    Equation: cosine[a][b] = cos(w_r^feature[a], w_D^latent[b]), latent[b] = argmax_j |cos(w_r^feature[b], w_D^j)|,
        rounded to three decimals. A recovered dictionary shows a diagonal of ones.
    """
    shown = features[:SHOWN]
    true = torch.nn.functional.normalize(W_r[:, shown], dim=0)
    cosine = true.T @ torch.nn.functional.normalize(W_D, dim=0)
    latents = cosine.abs().argmax(1)
    rows = [[round(float(value), 3) for value in row] for row in cosine[:, latents]]
    return {"feature": shown.tolist(), "latent": latents.tolist(), "cosine": rows}

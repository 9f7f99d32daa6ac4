"""Names of shapes, once. Axes: batch, n (features), n_p, n_r (representations), n_q (latents), nnz."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Counts",
    "Decoder",
    "Encoder",
    "Index",
    "Inputs",
    "Latents",
    "Mask",
    "PerLatent",
    "PerRow",
    "Scalar",
    "Targets",
]

Inputs = Float[Tensor, "batch n_p"]
Targets = Float[Tensor, "batch n_r"]
Latents = Float[Tensor, "batch n_q"]
Mask = Bool[Tensor, "batch n_q"]
Encoder = Float[Tensor, "n_q n_p"]
Decoder = Float[Tensor, "n_r n_q"]
PerLatent = Float[Tensor, " n_q"]
PerRow = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
Index = Int[Tensor, " nnz"]
Counts = Int[Tensor, " n_q"]

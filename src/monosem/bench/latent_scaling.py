"""Latent scaling: does a crosscoder's latent belong to one model, or did sparsity only take it from the other?"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.core.model import SDL


@dataclass(frozen=True)
class LatentScaling:
    """Least-squares factors of every latent in every source, along the latent's column in the reference source.

    `error`: how much of the latent is in what a source leaves over without it; `reconstruction`: in what the other
    latents write to the source. Both are 0 for a latent that never fires. In the reference source `error` is near 1.
    """

    error: Float[Tensor, "m n_q"]
    reconstruction: Float[Tensor, "m n_q"]
    reference: int

    def share(self, source: int, of: str = "error") -> Float[Tensor, " n_q"]:
        """nu = beta of a source over beta of the reference.

        Of the error, near 1: complete shrinkage, the source has what the latent stands for and its column does not say
        so; near 0: the latent is the reference's own. Of the reconstruction, near 1: other latents write it there.
        """
        beta: Tensor = getattr(self, of)
        whole = beta[self.reference]
        return torch.where(whole != 0, beta[source] / torch.where(whole != 0, whole, 1.0), 0.0)


@torch.no_grad()
def latent_scaling(model: SDL, rows: Iterable[Tensor], reference: int = -1) -> LatentScaling:
    """Latent scaling of a crosscoder, whose x_r is x_p, over batches of rows.

    Equation: with d_j the column of latent j in the reference source and d_j^s that in source s,
        beta_j^s = sum over rows of f_j <d_j, y_j^s> / (||d_j||^2 sum over rows of f_j^2),
        y = x^s - x_hat^s + f_j d_j^s (error) or x_hat^s - b_D^s - f_j d_j^s (reconstruction).
    Source: Minder et al. 2025. Difference: the latent's own part is taken out of every source, the reference too.
    Raises: RefusedError where the sources have several widths or there is one.
    """
    layout = model.layout
    same = len(set(layout.r_widths)) == 1 and len(layout.r_widths) > 1 and layout.shared
    check(
        same, f"latent scaling compares sources of one width, here {layout.r_widths}; give a crosscoder", RefusedError
    )
    columns = [model.W_D[part].double() for part in layout.r_slices]
    own = columns[reference]
    inner = torch.stack([(own * other).sum(0) for other in columns])
    energy = own.new_zeros(layout.n_q)
    error, written = own.new_zeros(len(columns), layout.n_q), own.new_zeros(len(columns), layout.n_q)
    for x in rows:
        out = model(x)
        code = out.code.to_dense().double()
        energy += code.square().sum(0)
        left, wrote = x.double() - out.x_r_hat.double(), out.x_r_hat.double() - model.b_D.double()
        for source, part in enumerate(layout.r_slices):
            error[source] += (code * (left[:, part] @ own)).sum(0)
            written[source] += (code * (wrote[:, part] @ own)).sum(0)
    whole = energy * own.square().sum(0)
    fires = whole > 0
    divide = torch.where(fires, whole, 1.0)
    left_over = torch.where(fires, (error + energy * inner) / divide, 0.0)
    elsewhere = torch.where(fires, (written - energy * inner) / divide, 0.0)
    return LatentScaling(left_over, elsewhere, range(len(columns))[reference])

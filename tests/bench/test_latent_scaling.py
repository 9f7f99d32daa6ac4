"""Latent scaling against a solver, latent by latent, and on a crosscoder whose latents are known."""

import pytest
import torch
from torch import Tensor

from monosem.base.errors import RefusedError
from monosem.bench.latent_scaling import latent_scaling
from monosem.core.activations import ReLU, TopK
from monosem.core.model import SDL
from monosem.core.pairs import Crosscoder, Transcoder

N, N_Q = 5, 6


def crosscoder(seed: int = 0) -> tuple[SDL, Tensor]:
    g = torch.Generator().manual_seed(seed)
    model = SDL(Crosscoder().layout(N_Q, (N, N), (N, N)), TopK(2)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return model, torch.randn(40, 2 * N, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("reference", [0, -1])
def test_factors_are_those_of_least_squares(reference: int) -> None:
    model, x = crosscoder()
    made = latent_scaling(model, x.split(16), reference)
    with torch.no_grad():
        out = model(x)
        f, W_D = out.code.to_dense(), model.W_D
    chosen = made.reference * N
    for source in range(2):
        part = slice(source * N, (source + 1) * N)
        for j in range(N_Q):
            design = (f[:, j, None] * W_D[chosen : chosen + N, j]).reshape(-1, 1)
            own = f[:, j, None] * W_D[part, j]
            left = (x[:, part] - out.x_r_hat[:, part] + own).reshape(-1, 1)
            wrote = (out.x_r_hat[:, part] - model.b_D[part] - own).detach().reshape(-1, 1)
            for beta, wanted in ((made.error, left), (made.reconstruction, wrote)):
                torch.testing.assert_close(beta[source, j], torch.linalg.lstsq(design, wanted).solution[0, 0])
    torch.testing.assert_close(made.share(0), made.error[0] / made.error[made.reference])


def test_shrinkage_and_a_latent_of_ones_own_are_told_apart() -> None:
    """Three features: shared with a column of zero in the first model, in the second alone, and silent."""
    model = SDL(Crosscoder().layout(3, (3, 3), (3, 3)), ReLU()).double().eval()
    eye = torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.weights[0].copy_(torch.cat([0 * eye, eye], 1))
        model.decoder.weights[0].copy_(torch.cat([0 * eye, eye], 1))
    code = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    second = torch.cat([code, torch.zeros(50, 1)], 1)
    first = second * torch.tensor([0.8, 0.0, 0.0])
    made = latent_scaling(model, [torch.cat([first, second], 1)])
    torch.testing.assert_close(made.share(0), torch.tensor([0.8, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(made.error[1], torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    assert not made.share(0, "reconstruction").any()


def test_what_has_no_sources_to_compare_is_refused() -> None:
    for layout in (Transcoder().layout(4, (3,), (3,)), Crosscoder().layout(4, (3, 2), (3, 2))):
        with pytest.raises(RefusedError, match="sources of one width"):
            latent_scaling(SDL(layout, ReLU()), [])

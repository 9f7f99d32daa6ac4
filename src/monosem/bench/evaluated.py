"""A trained model scored on a task: recovery of features, codes on held-out rows, absorption; its heat map."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.bench.absorption import Families, absorption
from monosem.bench.folds import Coded, evaluate
from monosem.bench.laws import Hierarchy
from monosem.bench.metrics import score
from monosem.bench.tasks import TaskSource
from monosem.bench.world import Truth
from monosem.core.model import SDL, Forward

EVAL_ROWS = 8192
"""Rows of the held-out stream that FVU, L0 and dead latents are measured on."""
SHOWN = 40
"""How many features a heat map shows."""


def evaluate_model(model: SDL, source: TaskSource, features: torch.Tensor, rows: int = EVAL_ROWS) -> dict[str, Any]:
    """Every metric of a trained model on a task: recovery of `features`, codes on held-out rows.

    In a hierarchy also absorption: of the families that are scored, and of those that are not.
    """

    def outputs() -> Iterable[tuple[Truth, Tensor, Forward]]:
        for start in range(0, rows, 1024):
            truth = source.held_out(min(1024, rows - start), start=start)
            x_p, x_r = source.pair(truth)
            with torch.no_grad():
                out = model(x_p)
            yield truth, x_r, out

    W_E, W_D = model.W_E.detach(), model.W_D.detach()
    p_widths, r_widths = source.p_widths, source.r_widths
    found = score(W_E, W_D, source.W_p, source.W_r, p_widths=p_widths, r_widths=r_widths, features=features)
    found |= evaluate(Coded(x_r, out.x_r_hat, out.code, truth.features.l0) for truth, x_r, out in outputs())
    law = source.task.world.law
    if isinstance(law, Hierarchy):
        codes = ((out.code, truth.features) for truth, _, out in outputs())
        found |= absorption(Families.of(W_D, source.W_r, law), codes, features)
    return found


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

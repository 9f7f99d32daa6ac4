"""Scores on a task: of a trained model, and beside them chance, the oracle and the anchors alone."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.base.seeds import philox
from monosem.base.sparse import Positions, SparseCode
from monosem.bench.absorption import Families, absorption
from monosem.bench.code_truth import CodeTruth, Matching, hedging, uniqueness
from monosem.bench.folds import Coded, evaluate
from monosem.bench.laws import Hierarchy
from monosem.bench.metrics import score
from monosem.bench.tasks import TaskSource
from monosem.bench.world import Truth
from monosem.core.activations import Context
from monosem.core.model import SDL, Forward
from monosem.dictionary.coding import nonnegative_omp
from monosem.dictionary.sparse_model import SparseModel

EVAL_ROWS = 8192
"""Rows of the held-out stream that FVU, L0 and dead latents are measured on."""
INFERENCE, BATCH_RULE = Context(), Context(training=True, step=1, steps=1)
"""A pass by inference's rule, and one by the rule of a batch at the end of training."""
SHOWN = 40
"""How many features a heat map shows."""


def evaluate_model(model: SDL, source: TaskSource, features: torch.Tensor, rows: int | None = None) -> dict[str, Any]:
    """Every metric of a trained model on a task: recovery of `features`, codes on held-out rows and against the truth.

    In a hierarchy also absorption: of the families that are scored, and of those that are not. `rows`: how many are
    held out, EVAL_ROWS unless given.
    `batch_rule`: FVU and L0 of the same rows where batches share k latents a row as in training, for activations whose
    inference has another rule. `training_rows`: FVU and L0 of as many rows of a fixed training set by inference's
    rule; `memorised`: by how much FVU is larger on held-out rows, which those rows' own structure must explain.
    """
    rows = EVAL_ROWS if rows is None else rows

    def outputs(context: Context = INFERENCE, trained: int | None = None) -> Iterable[tuple[Truth, Tensor, Forward]]:
        for start in range(0, trained or rows, 1024):
            size = min(1024, (trained or rows) - start)
            seen = torch.arange(start, start + size)
            truth = source.held_out(size, start=start) if trained is None else source.trained(seen)
            x_p, x_r = source.pair(truth)
            with torch.no_grad():
                out = model(x_p, context=context)
            if trained is None and context is INFERENCE:
                truths.add(out.code, truth.features)
            yield truth, x_r, out

    def codes(context: Context = INFERENCE, trained: int | None = None) -> dict[str, float]:
        parts = outputs(context, trained)
        return evaluate(Coded(x_r, out.x_r_hat, out.code, truth.features.l0) for truth, x_r, out in parts)

    W_E, W_D = model.W_E.detach(), model.W_D.detach()
    truths = CodeTruth(Matching.of(W_D, source.W_r))
    p_widths, r_widths = source.p_widths, source.r_widths
    metrics = score(W_E, W_D, source.W_p, source.W_r, p_widths=p_widths, r_widths=r_widths, features=features)
    metrics |= codes()
    metrics |= {"codes": truths.metrics(features)}
    metrics |= {"uniqueness": uniqueness(W_D, source.W_r), "hedging": hedging(W_D, source.W_r)}
    if model.activation.pattern_kind == "cross-sample":
        metrics["batch_rule"] = _brief(codes(BATCH_RULE))
    if source.rows is not None:
        metrics["training_rows"] = _brief(codes(trained=min(rows, source.rows)))
        metrics["memorised"] = metrics["fvu"] - metrics["training_rows"]["fvu"]
    law = source.task.world.law
    if isinstance(law, Hierarchy):
        present = ((out.code, truth.features) for truth, _, out in outputs())
        metrics |= absorption(Families.of(W_D, source.W_r, law), present, features)
    return metrics


def _brief(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in ("fvu", "l0")}


def chance(source: TaskSource, *, features: Int[Tensor, " scored"] | None = None, seed: int = 0) -> dict[str, Any]:
    """The score of n_q random unit directions: encoder rows and decoder columns drawn apart, from keyed streams.

    Every untrained dictionary of the same size scores about this, so a method must beat it to have found anything.
    """
    n_q = source.task.n_q
    W_E = random_rows(n_q, sum(source.p_widths), seed, "chance/encoder")
    W_D = random_rows(n_q, sum(source.r_widths), seed, "chance/decoder").T
    return _score(source, W_E, W_D, features)


def oracle(source: TaskSource, *, rows: int = 2048, k: int | None = None, tol: float = 1e-4) -> dict[str, Any]:
    """The true dictionary coded by a named solver on held-out rows: what coding alone leaves to be explained.

    x_p is coded with W_p by nonnegative OMP, at most k atoms (None: twice the largest true L0), and x_r = W_r z.
    Sources lie side by side. Gives the solver, FVU, L0, true L0, the share of dead latents, and precision, recall and
    F1 of the support over all rows and features.
    """
    truth = source.held_out(rows)
    x_p, x_r = source.pair(truth)
    k = k or max(1, 2 * int(truth.features.l0.max()))
    z, solver = _true_codes(source, x_p, k, tol)
    at = Positions.from_mask(z != 0)
    coded = Coded(x_r, z @ source.W_r.T + source.offset_r, SparseCode(at, z[z != 0]), truth.features.l0)
    present = truth.features.dense() != 0
    hits, active, there = int((present & (z != 0)).sum()), at.nnz, int(present.sum())
    return {
        "solver": solver,
        **evaluate([coded]),
        "precision": hits / max(active, 1),
        "recall": hits / max(there, 1),
        "f1": 2 * hits / max(active + there, 1),
    }


def _true_codes(source: TaskSource, x_p: Tensor, k: int, tol: float) -> tuple[Tensor, str]:
    """Codes on the true directions, and by which solver: in noise one that knows it, and the features' rates and sizes.

    A feature that takes both signs is two atoms.
    """
    world, n = source.world, source.task.world.n
    signed = source.task.world.law.has_signs(n)
    W = torch.cat([source.W_p, -source.W_p], 1) if signed else source.W_p
    if not source.task.world.background or len(source.task.reads) > 1:
        z, solver = nonnegative_omp(x_p - source.offset_p, W, k, tol), f"nonnegative_omp(k={k}, tol={tol})"
    else:
        sd, factors = world.noise(source.task.reads[0])
        features = world.take(torch.arange(min(1024, source.rows or 1024)), ()).features
        size = float(features.value.abs().mean())
        rate = float(features.l0.float().mean()) / W.shape[1]
        least = max(sd, 1e-3 * float(x_p.square().mean().sqrt()))
        rates, sizes = torch.full((W.shape[1],), rate), torch.full((W.shape[1],), size)
        model = SparseModel(W, source.offset_p, least, factors, rates, sizes)
        z, solver = model.code(x_p).dense(W.shape[1]), "priced_pursuit in the true noise"
    return (z[:, :n] - z[:, n:] if signed else z), solver


def anchors_alone(
    source: TaskSource, A_p: Float[Tensor, "n_p k"], A_r: Float[Tensor, "n_r k"], *, features: Int[Tensor, " scored"]
) -> Mapping[str, dict[str, Any]]:
    """The untrained anchors as the whole dictionary: scored on `features` (the held-out ones), and on all.

    What anchored runs reach beyond the first is learned; the second is what the anchors were given.
    """
    wanted = (sum(source.p_widths), sum(source.r_widths))
    have = (A_p.shape[0], A_r.shape[0])
    check(
        have == wanted, f"anchors have (n_p, n_r) = {have}, the task {wanted}; give one column per anchor", ShapeError
    )
    return {"held_out": _score(source, A_p.T, A_r, features), "all": _score(source, A_p.T, A_r, None)}


def _score(source: TaskSource, W_E: Tensor, W_D: Tensor, features: Tensor | None) -> dict[str, Any]:
    p_widths, r_widths = source.p_widths, source.r_widths
    return score(W_E, W_D, source.W_p, source.W_r, p_widths=p_widths, r_widths=r_widths, features=features)


def random_rows(count: int, width: int, seed: int, stream: str) -> Float[Tensor, "count width"]:
    """Unit directions at random, from a keyed stream."""
    rows = torch.from_numpy(philox(seed, stream).standard_normal((count, width)))
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


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

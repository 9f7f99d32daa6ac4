"""What an encoder loses against a solver on its own dictionary, and what the dictionary loses against the true one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.core.model import SDL
from monosem.dictionary.atoms import gram_omp
from monosem.dictionary.coding import nonnegative_lasso

MATCHED = 0.95
"""|cos| above which an atom stands for a feature."""


def amortisation(
    x: Float[Tensor, "_ _"],
    z: Float[Tensor, "_ _"],
    W_D: Float[Tensor, "_ _"],
    W_r: Float[Tensor, "_ _"],
    present: Bool[Tensor, "_ _"],
) -> dict[str, Any]:
    """The same rows coded by an encoder (z, with x ~ W_D z) and by two solvers, on W_D and on the true W_r.

    The solvers are nonnegative OMP stopped by its error and the nonnegative lasso; the one number that each has is set
    so that its mean L0 is the encoder's (`at_encoder_l0`) or the features' (`at_true_l0`, and on W_r `ceiling`), as
    near as it comes. Every code has its L0, its FVU on x (the lasso's with its shrinkage) and `support_scores`.

    Shapes: x [rows, n_r], z [rows, n_q], W_D [n_r, n_q], W_r [n_r, n], present [rows, n].
    Equation:
        amortisation_gap = max over solvers F1(W_D) - F1(encoder), all at the encoder's L0
        dictionary_gap = max over solvers F1(W_r) - max over solvers F1(W_D), all at the true L0; each with both F1
    Source:
        O'Neill et al. (2025), Compute optimal inference and provable amortisation gap in sparse autoencoders (arXiv
        2411.13117).
    Raises:
        ShapeError: rows, widths or numbers of latents or features disagree.
        DataError: no feature is present, no latent fires, or a latent is negative.
    """
    sizes = [
        ("rows", x.shape[0], "x", z.shape[0], "z"),
        ("rows", x.shape[0], "x", present.shape[0], "present"),
        ("n_r", x.shape[1], "x", W_D.shape[0], "W_D"),
        ("n_r", x.shape[1], "x", W_r.shape[0], "W_r"),
        ("n_q", z.shape[1], "z", W_D.shape[1], "W_D"),
        ("n", present.shape[1], "present", W_r.shape[1], "W_r"),
    ]
    for axis, left, here, right, there in sizes:
        check(left == right, f"{axis} = {left} in {here} but {right} in {there}; make them agree", ShapeError)
    check(bool(present.any()), "no feature is present in any row; give rows that hold some", DataError)
    check(bool((z > 0).any()), "no latent fires on any row; there is no code to compare with", DataError)
    check(float(z.min()) >= 0.0, f"z holds {float(z.min()):.3g}; latents must not be negative here", DataError)
    x, z, W_D, W_r = (part.detach().cpu().float() for part in (x, z, W_D, W_r))
    truth = float(present.sum(1).double().mean())

    def scored(code: Tensor, D: Tensor) -> dict[str, Any]:
        fvu = float((x - code @ D.T).square().sum() / (x - x.mean(0)).square().sum())
        return {"l0": float((code > 0).sum(1).double().mean()), "fvu": fvu, **support_scores(code > 0, D, W_r, present)}

    def solved(D: Tensor, l0: float) -> dict[str, dict[str, Any]]:
        return {name: scored(_at_l0(solver, x, D, l0), D) for name, solver in _SOLVERS.items()}

    encoder = scored(z, W_D)
    own, sparse, ceiling = solved(W_D, encoder["l0"]), solved(W_D, truth), solved(W_r, truth)
    return {
        "true_l0": truth,
        "encoder": encoder,
        "at_encoder_l0": own,
        "at_true_l0": sparse,
        "ceiling": ceiling,
        "amortisation_gap": {way: _most(own, way) - encoder[way]["f1"] for way in ("matched", "best")},
        "dictionary_gap": {way: _most(ceiling, way) - _most(sparse, way) for way in ("matched", "best")},
    }


def model_amortisation(
    model: SDL,
    x_p: Float[Tensor, "rows n_p"],
    x_r: Float[Tensor, "rows n_r"],
    W_r: Float[Tensor, "n_r n"],
    present: Bool[Tensor, "rows n"],
) -> dict[str, Any]:
    """`amortisation` of a model on rows it was not trained on: solvers code x_r less the model's bias and skip.

    A solver reads x_r itself, an encoder x_p; they are the same for an SAE only.
    """
    with torch.no_grad():
        out = model(x_p)
        z = out.code.to_dense()
        return amortisation(x_r - (out.x_r_hat - z @ model.W_D.T), z, model.W_D, W_r, present)


def support_scores(
    active: Bool[Tensor, "rows n_q"],
    D: Float[Tensor, "d n_q"],
    W: Float[Tensor, "d n"],
    present: Bool[Tensor, "rows n"],
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of which features are present, over all rows and features at once, counted in two ways.

    matched: latents and features are paired one to one at |cos| > MATCHED; a latent without a feature is wrong whenever
    it fires, a feature without a latent is missed. best: each feature is read off its nearest latent, other latents
    cost nothing.
    """
    from scipy.optimize import linear_sum_assignment

    unit = [torch.nn.functional.normalize(part.double(), dim=0) for part in (W, D)]
    cosines = (unit[0].T @ unit[1]).abs()
    near = torch.where(cosines > MATCHED, cosines, 0.0)
    feature, latent = (torch.from_numpy(part) for part in linear_sum_assignment(near.numpy(), maximize=True))
    real = near[feature, latent] > 0
    feature, latent = feature[real], latent[real]
    hits = int((active[:, latent] & present[:, feature]).sum())
    nearest = active[:, cosines.argmax(1)]
    there = int(present.sum())
    return {
        "matched": _f1(hits, int(active.sum()), there),
        "best": _f1(int((nearest & present).sum()), int(nearest.sum()), there),
    }


def _f1(hits: int, active: int, there: int) -> dict[str, float]:
    return {
        "precision": hits / max(active, 1),
        "recall": hits / max(there, 1),
        "f1": 2 * hits / max(active + there, 1),
    }


def _at_l0(
    solver: Callable[[Tensor, Tensor, float, float], Tensor],
    x: Float[Tensor, "rows d"],
    D: Float[Tensor, "d n"],
    l0: float,
    halvings: int = 10,
) -> Float[Tensor, "rows n"]:
    """The codes of a solver whose mean L0 comes nearest to `l0`, by halving the range of its strictness in logarithms.

    `solver(x, D, strictness, l0)`: a strictness in (0, 1), the larger the sparser.
    """
    low, high = math.log(1e-3), 0.0
    best: tuple[float, Tensor] | None = None
    for _ in range(halvings):
        middle = (low + high) / 2
        code = solver(x, D, math.exp(middle), l0)
        reached = float((code > 0).sum(1).double().mean())
        if best is None or abs(reached - l0) < best[0]:
            best = abs(reached - l0), code
        if best[0] <= 0.01 * l0:
            break
        low, high = (middle, high) if reached > l0 else (low, middle)
    assert best is not None
    return best[1]


def _omp(x: Tensor, D: Tensor, strictness: float, l0: float) -> Tensor:
    return gram_omp(x, D, max(8, math.ceil(3 * l0)), strictness)


def _lasso(x: Tensor, D: Tensor, strictness: float, l0: float) -> Tensor:
    return nonnegative_lasso(x, D, strictness * float((x @ D).amax()), 300)


_SOLVERS = {"omp": _omp, "lasso": _lasso}


def _most(solvers: dict[str, dict[str, Any]], way: str) -> float:
    return max(float(one[way]["f1"]) for one in solvers.values())

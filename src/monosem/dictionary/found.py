"""How many true directions a set of atoms holds, and how many of the atoms are one."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ShapeError, check


def recall_precision(D: Float[Tensor, "_ m"], W: Float[Tensor, "_ n"], tau: float = 0.95) -> dict[str, Any]:
    """Atoms against true directions, each direction counted once: a second atom on it is wrong.

    Equation:
        found = directions i that are the nearest of some atom j with |cos(d_j, w_i)| > tau
        recall = found / n,  precision = found / m,  M_IP = mean over i of max_j |cos(d_j, w_i)|

    Example:
        >>> recall_precision(torch.eye(3)[:, [0, 0, 1]], torch.eye(3)[:, :2])
        {'atoms': 3, 'found': 2, 'recall': 1.0, 'precision': 0.6666666666666666, 'M_IP': 1.0}
    """
    check(D.shape[0] == W.shape[0], f"d = {D.shape[0]} in D but {W.shape[0]} in W; make them agree", ShapeError)
    cosine = (torch.nn.functional.normalize(D, dim=0).T @ torch.nn.functional.normalize(W, dim=0)).abs()
    if cosine.shape[0] == 0:
        return {"atoms": 0, "found": 0, "recall": 0.0, "precision": 0.0, "M_IP": 0.0}
    best, nearest = cosine.max(1)
    found = len(set(nearest[best > tau].tolist()))
    shares = {"recall": found / W.shape[1], "precision": found / D.shape[1]}
    return {"atoms": D.shape[1], "found": found} | shares | {"M_IP": float(cosine.amax(0).mean())}

"""Directions in which rows stand out: many starts climb at once to a fixed point of thresholded means."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def climb(
    x: Float[Tensor, "rows d"], starts: Float[Tensor, "d s"], *, kappa: float = 2.5, steps: int = 6, block: int = 512
) -> tuple[Float[Tensor, "d s"], Float[Tensor, " s"]]:
    """Unit fixed points u, and the contrast at each: mean activation above the threshold, over the threshold.

    A feature that fires seldom stands far above the spread of everything else along its own direction, so the mean
    of the rows beyond a threshold points to it. The threshold scales with the spread: no rate of firing is assumed.

    Equation:
        u <- mean of (<u, x> - b)_+ x, normalised;  b = min(kappa sqrt(mean of <u, x>^2), max of <u, x> / 2)
    """
    fixed_points, contrast = [], []
    for start in range(0, starts.shape[1], block):
        u = torch.nn.functional.normalize(starts[:, start : start + block], dim=0)
        above = torch.zeros(u.shape[1])
        for _ in range(steps):
            activation = x @ u
            b = torch.minimum(kappa * activation.square().mean(0).sqrt(), activation.amax(0) / 2)
            over = (activation - b).clamp_(min=0.0)
            above = over.sum(0) / (over > 0).sum(0).clamp(min=1) / b.clamp(min=1e-12)
            u = torch.nn.functional.normalize(x.T @ over, dim=0)
        fixed_points.append(u)
        contrast.append(above)
    return torch.cat(fixed_points, 1), torch.cat(contrast)


def distinct(
    candidates: Float[Tensor, "d s"], worth: Float[Tensor, " s"], known: Float[Tensor, "d m"], cosine: float
) -> Float[Tensor, "d kept"]:
    """Candidates in falling worth, without those within `cosine` of a known direction or of a better candidate."""
    keep = candidates.isfinite().all(0) & (candidates.norm(dim=0) > 0.5)
    if known.shape[1]:
        keep &= (known.T @ candidates).amax(0) < cosine
    candidates, worth = candidates[:, keep], worth[keep]
    candidates = candidates[:, worth.argsort(descending=True)]
    close = (candidates.T @ candidates) >= cosine
    alive = torch.ones(candidates.shape[1], dtype=torch.bool)
    for i in range(candidates.shape[1]):
        if alive[i]:
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return candidates[:, alive]


def explained(D: Float[Tensor, "d m"], by: int = 3) -> Float[Tensor, " m"]:
    """How much of every unit atom up to `by` others explain, greedily, with positive weights: a share in [0, 1].

    A mixture of features is explained by them; a feature is not explained by mixtures, which would need differences.
    """
    m = D.shape[1]
    gram = D.T @ D
    share, weights = torch.zeros(m), torch.zeros(m, m)
    support = torch.zeros(m, 0, dtype=torch.int64)
    for size in range(1, min(by, m - 1) + 1):
        left = (gram - weights @ gram).scatter_(1, support, -1.0).fill_diagonal_(-1.0)
        support = torch.cat([support, left.argmax(1, keepdim=True)], 1)
        inner = gram[support[:, :, None], support[:, None, :]] + 1e-6 * torch.eye(size)
        right = gram.gather(1, support)
        z = torch.linalg.solve_ex(inner, right[:, :, None])[0][:, :, 0].clamp_(min=0.0)
        weights = torch.zeros(m, m).scatter_(1, support, z)
        fitted = 2 * (z * right).sum(1) - torch.einsum("ms,mst,mt->m", z, inner, z)
        share = torch.maximum(share, fitted)
    return share.clamp(0.0, 1.0)


def unexplained(D: Float[Tensor, "d m"], most: float, near: float = 0.8) -> Bool[Tensor, " m"]:
    """Which atoms stay when those that others explain beyond `most` leave, the most explained first.

    Of two atoms within cosine `near` one leaves at a time, since each may be what explains the other.
    """
    keep = torch.ones(D.shape[1], dtype=torch.bool)
    while int(keep.sum()) > 1:
        left = D[:, keep]
        share = explained(left)
        wrong = share > most
        if not bool(wrong.any()):
            break
        close = left.T @ left > near
        leave = torch.zeros_like(wrong)
        for j in share.argsort(descending=True)[: (int(wrong.sum()) + 1) // 2].tolist():
            leave[j] = not bool((leave & close[j]).any())
        keep[keep.clone()] = ~leave
    return keep

"""Every term's formula written out once more: dense, float64, plain torch, nothing of the library's but its weights."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.core.model import SDL


@dataclass
class Plain:
    """A batch through the model, by the equation of the model alone."""

    model: SDL
    x_p: Tensor
    x_r: Tensor
    dead: Tensor
    code_of: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        model = self.model
        self.W_D = model.W_D
        self.z = (self.x_p - model.b_in) @ model.W_E.T + model.b_E
        self.f = self.code_of(self.z)
        self.offset = model.b_D + (0 if model.W_skip is None else self.x_p @ model.W_skip.T)
        self.x_r_hat = self.offset + self.f @ self.W_D.T
        self.e = self.x_r - self.x_r_hat

    @property
    def norms(self) -> Tensor:
        return (self.W_D**2).sum(0).sqrt()

    @property
    def source_norms(self) -> Tensor:
        """Sum over sources of the norm within each, by splitting the rows of W_D."""
        parts = torch.split(self.W_D, self.model.layout.r_widths)
        return torch.stack([((part**2).sum(0) + 1e-30).sqrt() for part in parts]).sum(0)

    def prefixes(self, fractions: tuple[float, ...]) -> list[Tensor]:
        """Masks of the nested prefixes: the same share of each run of latents that has its own block."""
        masks = []
        for fraction in fractions:
            mask = torch.zeros(self.model.n_q, dtype=torch.bool)
            for first, last in {(b.first, b.last) for b in self.model.layout.decoder}:
                mask[first : first + max(1, round(fraction * (last - first)))] = True
            masks.append(mask)
        return masks


def ranked(z: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    """z on the k largest of each row (among some latents), 0 elsewhere, by sorting in numpy."""
    order = z.detach().numpy().copy()
    if among is not None:
        order[:, ~among.numpy()] = -np.inf
        k = min(k, int(among.sum()))
    keep = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(keep, np.argsort(-order, axis=1)[:, :k], True, axis=1)
    return z * torch.from_numpy(keep)


def spread(y: Tensor) -> Tensor:
    """Sum of squared deviations from the mean row."""
    return ((y - y.mean(dim=0, keepdim=True)) ** 2).sum()


def _per_row(e: Tensor) -> Tensor:
    return (e**2).sum() / len(e)


def _matryoshka(p: Plain, detach: bool = False) -> Tensor:
    total, fractions, earlier = torch.zeros(()), (0.25, 0.5, 1.0), torch.zeros(p.model.n_q, dtype=torch.bool)
    for weight, mask in zip((1.0, 0.5, 0.25), p.prefixes(fractions), strict=True):
        new = (p.f * (mask & ~earlier)) @ p.W_D.T
        old = (p.f * earlier) @ p.W_D.T
        total = total + weight * _per_row(p.x_r - p.offset - new - (old.detach() if detach else old))
        earlier = mask
    return total


def _aux(p: Plain, k: int, relu: bool = True, detach: bool = True) -> tuple[Tensor, Tensor]:
    """(e, e - e_hat)."""
    e = p.e.detach() if detach else p.e
    a = ranked(p.z, k, p.dead)
    return e, e - (a * (a > 0) if relu else a) @ p.W_D.T


def _aux_half(p: Plain) -> int:
    return p.x_r.shape[1] // 2


def _gao(p: Plain, k: int | None = None) -> Tensor:
    e, rest = _aux(p, k or _aux_half(p))
    return (rest**2).sum() / spread(e)


def _saelens(p: Plain) -> Tensor:
    _, rest = _aux(p, _aux_half(p), relu=False)
    return min(int(p.dead.sum()) / _aux_half(p), 1.0) * _per_row(rest)


def _sparsify(p: Plain) -> Tensor:
    _, rest = _aux(p, _aux_half(p))
    return min(int(p.dead.sum()) / _aux_half(p), 1.0) * (rest**2).sum() / spread(p.x_r)


def _ghost(p: Plain) -> Tensor:
    """Jermyn and Templeton 2024, row by row."""
    e = p.e.detach()
    ghost = (p.z[:, p.dead].exp()) @ p.W_D[:, p.dead].T
    total = torch.zeros(())
    for row in range(len(e)):
        scale = float(e[row].norm()) / (2 * float(ghost[row].detach().norm()))
        total = total + ((e[row] - scale * ghost[row]) ** 2).sum() / len(e)
    return total * float(_per_row(e)) / float(total.detach())


FORMULAS: dict[str, Callable[[Plain], Tensor]] = {
    "reconstruction": lambda p: _per_row(p.e),
    "reconstruction: mean": lambda p: (p.e**2).mean(),
    "reconstruction: fvu": lambda p: (p.e**2).sum() / spread(p.x_r),
    "matryoshka": _matryoshka,
    "matryoshka: detached": lambda p: _matryoshka(p, detach=True),
    "multi_k": lambda p: sum(
        (w * _per_row(p.x_r - p.offset - ranked(p.z, k).clamp(min=0) @ p.W_D.T) for k, w in ((2, 0.5), (9, 0.25))),
        torch.zeros(()),
    ),
    "l1": lambda p: (p.f * p.norms).sum() / len(p.f),
    "l1: no norm": lambda p: p.f.sum() / len(p.f),
    "l1: source norms": lambda p: (p.f * p.source_norms).sum() / len(p.f),
    "tanh": lambda p: torch.tanh(4.0 * p.f * p.norms).sum() / len(p.f),
    "tanh: source norms": lambda p: torch.tanh(0.7 * p.f * p.source_norms).sum() / len(p.f),
    "lp": lambda p: ((p.f * p.norms + 1e-2) ** 0.6 - 1e-2**0.6).sum() / len(p.f),
    "pre_activation": lambda p: ((-p.z).clamp(min=0) * p.norms)[:, p.dead].sum() / len(p.z),
    "pre_activation: all": lambda p: ((-p.z).clamp(min=0) * p.norms).sum() / len(p.z),
    "ghost_grads": _ghost,
    "auxk: gao": _gao,
    "auxk: dictionary_learning": _gao,
    "auxk: openai": lambda p: _gao(p, 256),
    "auxk: saelens": _saelens,
    "auxk: sparsify": _sparsify,
    "auxk: llamascopium": lambda p: _per_row(_aux(p, 512, detach=False)[1]),
    "auxk: batchtopk": lambda p: (_aux(p, 512, detach=False)[1] ** 2).mean(),
}

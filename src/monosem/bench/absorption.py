"""Absorption against ground truth: a parent's latent stays silent while a child's latent carries its direction."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.base.sparse import Code
from monosem.bench.laws import Hierarchy
from monosem.bench.metrics import TAUS
from monosem.bench.world import SparseFeatures

CARRIES = 0.3
"""A unit decoder column carries a direction if its coordinate along it exceeds this; an even mix of two has 0.7."""


@dataclass(frozen=True, eq=False)
class Families:
    """A decoder beside a hierarchy: which latent stands for what, and which latents hold a parent within a child.

    Equation:
        latent(f) = argmax_j cos(w_D^j, w_r^f)
        (a, b) = argmin |w_D^j / |w_D^j| - a w_r^p - b w_r^c|,  carried[j, c] = min(a, b)  for c a child of p,
        or -1 where w_D^j lies nearer to a feature outside the family than to c: it is not a latent of c then

    Shapes: W_D [n_r, n_q], W_r [n_r, n].
    """

    parent: Int[Tensor, " parents"]
    child: Int[Tensor, " children"]
    parent_cosine: Float[Tensor, " parents"]
    child_cosine: Float[Tensor, " children"]
    carried: Float[Tensor, "n_q children"]
    parent_of: Int[Tensor, " children"]

    @staticmethod
    def of(W_D: Float[Tensor, "n_r n_q"], W_r: Float[Tensor, "n_r n"], law: Hierarchy) -> "Families":
        """Measured in float64 on unit columns; a zero column stands for nothing."""
        columns, true = (torch.nn.functional.normalize(W.detach().double(), dim=0) for W in (W_D, W_r))
        parent_of = torch.from_numpy(law.parent_of)
        cosine = columns.T @ true
        above, below = cosine[:, : law.parents], cosine[:, law.parents : law.related]
        family = torch.cat([torch.arange(law.parents), parent_of, torch.full((true.shape[1] - law.related,), -1)])
        nearest = torch.stack([cosine.masked_fill(family == p, -1.0).amax(1) for p in range(law.parents)], 1)
        between = (true[:, : law.parents][:, parent_of] * true[:, law.parents : law.related]).sum(0)
        along_parent = (above[:, parent_of] - between * below) / (1 - between**2)
        along_child = (below - between * above[:, parent_of]) / (1 - between**2)
        parent, child = above.max(0), below.max(0)
        carried = torch.minimum(along_parent, along_child).where(below >= nearest[:, parent_of], -1.0)
        return Families(parent.indices, child.indices, parent.values, child.values, carried, parent_of)


def absorption(
    families: Families, rows: Iterable[tuple[Code, SparseFeatures]], features: Int[Tensor, " scored"]
) -> dict[str, dict[str, Any]]:
    """How the parents' latents behave on rows whose features are known; means over parents.

    Equation: of the rows where parent p is present, with j = latent(p):
        recall    z_j > 0
        absorbed  z_j = 0, and a latent i fires that carries p and a child c that is present: carried[i, c] > CARRIES
        missed    z_j = 0 for any other reason;  recall + absorbed + missed = 1
        precision the share of the rows with z_j > 0 in which p is present, over parents with such a row
        merged    the share of p's children c whose own latent carries p: carried[latent(c), c] > CARRIES
        parent_cosine, child_cosine    cos(w_D^latent(f), w_r^f)
    The curve is `absorbed` with 0, 0.01 .. 1 in place of CARRIES. "hierarchy" holds the families whose parents are
    scored, "hierarchy_set_aside" the others; a group without families is left out.
    Source: Tang et al. (arXiv 2512.05534), definition 3.2 and theorem 3.8.
    Raises: DataError: a parent is present in no row.
    """
    count = families.parent.numel()
    taus = torch.tensor(TAUS, dtype=torch.float64)
    totals = torch.zeros(4, count, dtype=torch.float64)  # present, present and fires, fires, absorbed
    above = torch.zeros(len(TAUS), count, dtype=torch.float64)
    for code, truth in rows:
        z, x = code.to_dense() > 0, truth.dense() > 0
        present, fires = x[:, :count], z[:, families.parent]
        strength = _strength(families, z, x[:, count : count + families.child.numel()])
        strength = torch.where(present & ~fires, strength, -1.0)
        totals += torch.stack([present, present & fires, fires, strength > CARRIES]).double().sum(1)
        above += (strength > taus[:, None, None]).double().sum(1)
    absent = int((totals[0] == 0).sum())
    check(absent == 0, f"{absent} of {count} parents are present in no row; give more rows", DataError)
    scored = torch.isin(torch.arange(count), features)
    groups = {"hierarchy": scored, "hierarchy_set_aside": ~scored}
    return {name: _summary(families, totals, above, chosen) for name, chosen in groups.items() if bool(chosen.any())}


def _summary(families: Families, totals: Tensor, above: Tensor, chosen: Tensor) -> dict[str, Any]:
    """The means over the chosen parents [parents], and over their children."""
    present, hits, fired, absorbed = totals[:, chosen]
    children = chosen[families.parent_of]
    own = families.carried[families.child, torch.arange(children.numel())] > CARRIES
    recall, lost = hits / present, absorbed / present
    return {
        "recall": float(recall.mean()),
        "absorbed": float(lost.mean()),
        "missed": float(((present - hits - absorbed) / present).mean()),
        "precision": float((hits / fired)[fired > 0].mean()),
        "merged": float(own[children].double().mean()),
        "parent_cosine": float(families.parent_cosine[chosen].mean()),
        "child_cosine": float(families.child_cosine[children].mean()),
        "curve": (above[:, chosen] / present).mean(1).tolist(),
    }


def _strength(families: Families, z: Tensor, children: Tensor) -> Float[Tensor, "rows parents"]:
    """For each row and parent: how strongly the best latent that fires carries the parent within a present child."""
    found = torch.full((z.shape[0], families.parent.numel()), -1.0, dtype=torch.float64)
    for c, p in enumerate(families.parent_of.tolist()):
        at = children[:, c].nonzero().flatten()
        if at.numel():
            best = torch.where(z[at], families.carried[:, c], -1.0).amax(1)
            found[at, p] = torch.maximum(found[at, p], best)
    return found

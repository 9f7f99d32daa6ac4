"""Absorption: a parent's latent stays silent where a child's fires, by ground truth and on labelled rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.sparse import Code
from monosem.bench.laws import Hierarchy
from monosem.bench.metrics import TAUS
from monosem.bench.world import SparseFeatures

CARRIES = 0.3
"""A unit decoder column carries a direction if its coordinate along it exceeds this; an even mix of two has 0.7."""


@dataclass(frozen=True, eq=False)
class Families:
    """A decoder and a hierarchy: which latent stands for what, and which latents hold a parent within a child.

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
    strength = torch.full((z.shape[0], families.parent.numel()), -1.0, dtype=torch.float64)
    for c, p in enumerate(families.parent_of.tolist()):
        at = children[:, c].nonzero().flatten()
        if at.numel():
            best = torch.where(z[at], families.carried[:, c], -1.0).amax(1)
            strength[at, p] = torch.maximum(strength[at, p], best)
    return strength


@dataclass(frozen=True)
class Family:
    """A label and the labels below it."""

    parent: str
    children: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Fired:
    """The latents of some rows, dense, and which labels these rows carry; a latent fires where it is not 0."""

    latents: Float[Tensor, "rows n_q"]
    labels: Mapping[str, Bool[Tensor, " rows"]]

    def __post_init__(self) -> None:
        rows = self.latents.shape[0]
        for name, label in self.labels.items():
            if label.shape[0] != rows:
                raise ShapeError(f"{rows} rows, but {label.shape[0]} of label {name}; give one per row")

    @cached_property
    def fires(self) -> Bool[Tensor, "rows n_q"]:
        """Where each latent is not 0."""
        return self.latents != 0

    def strongest(self, latent: int, count: int) -> Bool[Tensor, " rows"]:
        """The rows with the `count` largest values of a latent, among those on which it fires."""
        chosen = torch.zeros(self.latents.shape[0], dtype=torch.bool)
        chosen[self.latents[:, latent].topk(min(count, chosen.numel())).indices] = True
        return chosen & self.fires[:, latent]

    def label(self, name: str) -> Bool[Tensor, " rows"]:
        """The rows that carry a label. Raises: DataError for a label that no row carries."""
        carries = self.labels.get(name)
        if carries is None or not bool(carries.any()):
            raise DataError(f"no row carries {name!r}; choose another label, or give more rows")
        return carries


def best_latent(fired: Fired, label: str) -> tuple[int, float]:
    """The latent that predicts a label best, and its F1 = 2 hits / (rows where it fires + rows of the label)."""
    wanted = fired.label(label)
    hits = fired.fires[wanted].sum(0).double()
    f1 = 2 * hits / (fired.fires.sum(0) + wanted.sum())
    return int(f1.argmax()), float(f1.max())


def label_absorption(
    choose: Fired, test: Fired, family: Family, parent_latent: int | None = None
) -> dict[str, dict[str, float]]:
    """How a parent's latent behaves on the rows of its children.

    Latents are chosen by F1 on `choose` (the parent's, unless `parent_latent` names it, as an anchored one) and read
    on `test`. By label:

    Equation:
        of the parent: f1, recall, precision of its latent; rate = share of all rows on which it fires;
            silent_alone = share of the parent's rows without any of the children on which it is silent (absent where
            there is no such row)
        of a child c, on rows that carry both: silent = share where the parent's latent is silent; absorbed = share
            where besides the child's latent, another one, fires; merged = 1 where the two latents are the same;
            rows = their number; f1 of the child's latent
        at_size: the same if the parent's latent counted only on as many rows, its strongest, as carry the parent's
            label, so that a latent gains nothing by firing often
    Chance: a latent that fires on rows at random is silent on 1 - rate of any rows.
    Source: Tang et al. 2025, definition 3.2 and example 3.7; labels in place of features.
    Raises: DataError for a label that no row carries.
    """
    check(bool(family.children), f"the family of {family.parent} has no children; name some", DataError)
    parent = best_latent(choose, family.parent)[0] if parent_latent is None else parent_latent
    here, fires = test.label(family.parent), test.fires[:, parent]
    hits, given = int((here & fires).sum()), int(fires.sum())
    strongest = test.strongest(parent, int(here.sum()))
    scores: dict[str, dict[str, float]] = {
        family.parent: {
            "f1": 2 * hits / (given + int(here.sum())),
            "recall": hits / int(here.sum()),
            "precision": hits / max(given, 1),
            "rate": given / fires.numel(),
            "recall_at_size": _share(strongest, here),
        }
    }
    alone = here.clone()
    for child in family.children:
        alone &= ~test.label(child)
    if bool(alone.any()):
        scores[family.parent] |= {"silent_alone": _share(~fires, alone), "rows_alone": float(alone.sum())}
    for child in family.children:
        latent, f1 = best_latent(choose, child)
        both = here & test.label(child)
        check(bool(both.any()), f"no row carries both {family.parent} and {child}; leave {child} out", DataError)
        absorbed = ~fires & test.fires[:, latent] if latent != parent else torch.zeros_like(fires)
        scores[child] = {
            "rows": float(both.sum()),
            "silent": _share(~fires, both),
            "silent_at_size": _share(~strongest, both),
            "absorbed": _share(absorbed, both),
            "merged": float(latent == parent),
            "f1": f1,
        }
    return scores


def _share(which: Bool[Tensor, " rows"], among: Bool[Tensor, " rows"]) -> float:
    return float(which[among].double().mean())

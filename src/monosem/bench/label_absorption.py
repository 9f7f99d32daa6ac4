"""Absorption on labelled rows: is the parent's latent silent where a child's latent fires?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check


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
        found = torch.zeros(self.latents.shape[0], dtype=torch.bool)
        found[self.latents[:, latent].topk(min(count, found.numel())).indices] = True
        return found & self.fires[:, latent]

    def label(self, name: str) -> Bool[Tensor, " rows"]:
        """The rows that carry a label. Raises: DataError for a label that no row carries."""
        found = self.labels.get(name)
        if found is None or not bool(found.any()):
            raise DataError(f"no row carries {name!r}; choose another label, or give more rows")
        return found


def best_latent(fired: Fired, label: str) -> tuple[int, float]:
    """The latent that tells a label best, and its F1 = 2 hits / (rows where it fires + rows of the label)."""
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
    found: dict[str, dict[str, float]] = {
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
        found[family.parent] |= {"silent_alone": _share(~fires, alone), "rows_alone": float(alone.sum())}
    for child in family.children:
        latent, f1 = best_latent(choose, child)
        both = here & test.label(child)
        check(bool(both.any()), f"no row carries both {family.parent} and {child}; leave {child} out", DataError)
        absorbed = ~fires & test.fires[:, latent] if latent != parent else torch.zeros_like(fires)
        found[child] = {
            "rows": float(both.sum()),
            "silent": _share(~fires, both),
            "silent_at_size": _share(~strongest, both),
            "absorbed": _share(absorbed, both),
            "merged": float(latent == parent),
            "f1": f1,
        }
    return found


def _share(which: Bool[Tensor, " rows"], among: Bool[Tensor, " rows"]) -> float:
    return float(which[among].double().mean())

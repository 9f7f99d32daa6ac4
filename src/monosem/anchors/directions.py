"""Anchors: directions that some latents are tied to, from true features, class means or a file."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, CheckpointError, DataError, ShapeError, check
from monosem.base.files import write_atomic
from monosem.base.guard import guard_fields
from monosem.base.tensors import read_tensors, tensor_writer

COINCIDENT = 0.95
"""Anchors whose cosine exceeds this are reported: two latents would be asked to be the same feature."""


class AnchorWarning(UserWarning):
    """Anchors that are probably a mistake."""


def _unit(columns: Tensor) -> Tensor:
    norms: Tensor = columns.norm(dim=0, keepdim=True)
    return columns / norms.clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class Anchors:
    """k pairs of directions, unit columns, for the first k latents.

    Shapes: p [n_p, k] for encoder rows, r [n_r, k] for decoder columns.
    Warns: AnchorWarning when two decoder anchors nearly coincide.
    """

    p: Float[Tensor, "n_p k"]
    r: Float[Tensor, "n_r k"]
    kind: str = "given"

    def __post_init__(self) -> None:
        guard_fields(self)
        check(
            self.p.shape[1] == self.r.shape[1],
            f"p holds {self.p.shape[1]} anchors and r holds {self.r.shape[1]}; they come in pairs",
            ShapeError,
        )
        finite = bool(torch.isfinite(self.p).all() and torch.isfinite(self.r).all())
        check(finite, "anchors hold NaN or infinity; remove those columns", DataError)
        for side, columns in (("p", self.p), ("r", self.r)):
            zero = (columns == 0).all(0).nonzero().flatten().tolist()
            check(not zero, f"columns {zero} of the anchors {side} are zero: no direction; drop them", DataError)
        object.__setattr__(self, "p", _unit(self.p.detach().float()))
        object.__setattr__(self, "r", _unit(self.r.detach().float()))
        self._warn()

    def _warn(self) -> None:
        cosine = (self.r.T @ self.r).fill_diagonal_(0.0)  # w and -w are two features of a code that is not negative
        if self.k > 1 and float(cosine.max()) > COINCIDENT:
            i, j = divmod(int(cosine.argmax()), self.k)
            pairs = int((cosine > COINCIDENT).sum()) // 2
            warnings.warn(
                f"anchors {i} and {j} have cosine {float(cosine[i, j]):.3f}, and {pairs} pairs exceed {COINCIDENT}: "
                "latents would share one direction; centre the representations before taking means, or drop one",
                AnchorWarning,
                stacklevel=4,
            )

    @property
    def k(self) -> int:
        """Number of anchors."""
        return self.p.shape[1]

    def some(self, columns: Bool[Tensor, " k"]) -> "Anchors":
        """Some of the anchors, to the bit."""
        part = copy.copy(self)
        object.__setattr__(part, "p", self.p[:, columns])
        object.__setattr__(part, "r", self.r[:, columns])
        return part

    def save(self, path: str | Path) -> Path:
        """Write to a safetensors file, atomically, with a checksum."""
        about = {"format": _FORMAT, "kind": self.kind}
        return write_atomic(path, tensor_writer({"p": self.p, "r": self.r}, about))


_FORMAT, _GIVE = "monosem.anchors/1", "give what Anchors.save wrote"


def load_anchors(path: str | Path) -> Anchors:
    """Read anchors from a file that `Anchors.save` wrote. Raises: CheckpointError for any other, or a damaged one."""
    about, tensors = read_tensors(Path(path), _FORMAT, frozenset(["kind"]), _GIVE)
    sides = [tensors.get(name) for name in ("p", "r")]
    fine = all(side is not None and side.ndim == 2 and side.is_floating_point() for side in sides)
    check(fine and len(tensors) == 2, f"{path} does not hold two tables p and r of numbers; {_GIVE}", CheckpointError)
    try:
        return Anchors(tensors["p"], tensors["r"], about.get("kind", "file"))
    except ArgumentError as error:
        raise CheckpointError(f"{path} cannot be read as anchors ({error}); {_GIVE}") from None


def true_features(W_p: Float[Tensor, "n_p n"], W_r: Float[Tensor, "n_r n"], features: Int[Tensor, " k"]) -> Anchors:
    """Anchors at chosen true features. Source: Tang et al. 2025, section 4, kind (a)."""
    return Anchors(W_p[:, features], W_r[:, features], "true_features")


def class_means(
    x_p: Float[Tensor, "rows n_p"],
    labels: Int[Tensor, " rows"],
    x_r: Float[Tensor, "rows n_r"] | None = None,
    centre: bool = True,
    classes: Int[Tensor, " k"] | None = None,
) -> Anchors:
    """Anchors at normalised class means.

    Equation: a_c = mean of x over rows of class c (minus the mean of all class means with `centre`), over its norm;
        for x_p and x_r alike. In order of `classes`, by default every label that occurs, ascending.
    Source: Tang et al. 2025, eq 23-24, which do not centre: raw means of a space that is not centred nearly
        coincide (a warning says so), so that centring is the default here.
    Raises: DataError when labels and rows differ in number or a class has no row.
    """
    check(
        labels.shape[0] == x_p.shape[0],
        f"{labels.shape[0]} labels for {x_p.shape[0]} rows; give one per row",
        DataError,
    )
    names, index = torch.unique(labels, return_inverse=True)
    means = []
    for x in (x_p, x_p if x_r is None else x_r):
        check(x.shape[0] == x_p.shape[0], f"x_r has {x.shape[0]} rows, x_p {x_p.shape[0]}", DataError)
        total = torch.zeros(names.numel(), x.shape[1], dtype=torch.float64).index_add(0, index, x.double())
        mean = total / torch.bincount(index, minlength=names.numel())[:, None]
        means.append((mean - mean.mean(0) if centre else mean).float())
    if classes is not None:
        where = torch.searchsorted(names, classes).clamp(max=names.numel() - 1)
        missing = classes[names[where] != classes]
        check(missing.numel() == 0, f"classes {missing.tolist()} have no row among the labels", DataError)
        means = [mean[where] for mean in means]
    return Anchors(means[0].T, means[1].T, "class_means")

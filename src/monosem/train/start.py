"""A warm start: a fresh model takes over the function of a trained one, in the units and the form of its own run."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import RefusedError, ShapeError, check
from monosem.core.constraints import Constraint, UnitNorm
from monosem.core.folding import encoder_bias, scale_latents
from monosem.core.io import model_tensors, set_model_tensors
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL
from monosem.core.units import Units

ALIKE = 1.1
"""How far norms of decoder columns may lie apart where a ranking does not look at them."""


@dataclass(frozen=True, eq=False)
class Start:
    """A trained model to go on from, and the file that it came from, if any."""

    model: SDL
    file: str = ""

    def about(self) -> dict[str, str]:
        """What is written down of it: the file, and a sha256 over all its numbers."""
        total = hashlib.sha256()
        for name, tensor in sorted(model_tensors(self.model).items()):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return {"file": self.file, "sha256": total.hexdigest()}

    @torch.no_grad()
    def put_into(self, model: SDL, constraints: Sequence[Constraint], units: Units | None) -> None:
        """Give a fresh model this one's codes and reconstructions of raw rows, though it reads rows in `units`.

        Equation: W_E / p_scale, W_D r_scale, and biases so that f'(p_scale (x - p_mean)) = r_scale (f(x) - r_mean).
            b_in becomes what the run subtracts, by b_E. Where columns are kept at norm 1, latents are multiplied by
            theirs.
        Raises: ShapeError for other sizes; RefusedError for another pairing, kind of encoder or dictionary, or
            activation, and where norms of columns that a ranking does not look at are unlike.
        """
        self._fits(model)
        start = self.model if units is None else units.inverse.fold(self.model)
        start = _at_unit_norm(start, constraints)
        tensors = model_tensors(start)
        subtracted = {"none": None, "free": start.b_in, "tied": start.b_D}[model.pre_bias]
        if start.encoder_kind.affine:
            tensors["b_E"] = encoder_bias(start, subtracted)
        if "act.b_mag" in tensors:  # it stands against z - b_E
            tensors["act.b_mag"] = tensors["act.b_mag"] + (tensors["b_E"] - start.b_E) * tensors["act.r_mag"].exp()
        if model.pre_bias == "free":
            tensors["b_in"] = start.b_in
        else:
            tensors.pop("b_in", None)
        set_model_tensors(model, {name: t.to(model.b_E.device) for name, t in tensors.items()}, "start")
        for constraint in constraints:
            constraint.after_step(model)

    def _fits(self, model: SDL) -> None:
        start, sizes = self.model, (("n_q", "n_q"), ("p_widths", "widths of x_p"), ("r_widths", "widths of x_r"))
        check(start.group.size == 1, "start has the latents of one process; load the whole model")
        for name, words in sizes:
            have, want = getattr(start.layout, name), getattr(model.layout, name)
            remedy = "give the same n_q" if name == "n_q" else "give the rows that it was trained on"
            check(have == want, f"{words} of start: {have}, of this run: {want}; {remedy}", ShapeError)
        for what, have, want in self._kinds(model):
            check(have == want, f"start has {what} {have}, the method {want}; take its method", RefusedError)

    def _kinds(self, model: SDL) -> list[tuple[str, Any, Any]]:
        """(what, of this model, of the run's), for what no weights can make up for."""
        pairs, start = [], self.model
        for one in (start, model):
            plain = asdict(one.layout) | {"activation": type(one.activation).__name__}
            plain |= {"encoder kind": one.encoder_kind, "dictionary": one.dictionary}
            pairs.append(plain | {"rows normalised one by one": isinstance(one, RowNormSDL)})
        names = {"shared": "x_r = x_p:", "skip": "W_skip:", "encoder": "encoder blocks", "decoder": "decoder blocks"}
        kinds = [(names.get(name, name), pairs[0][name], value) for name, value in pairs[1].items()]
        if not start.encoder_kind.affine:
            kinds.append(("pre_bias", start.pre_bias, model.pre_bias))
        return kinds


def _at_unit_norm(start: SDL, constraints: Sequence[Constraint]) -> SDL:
    """The same function with decoder columns of norm 1, where a constraint keeps them so."""
    kept = next((each for each in constraints if isinstance(each, UnitNorm)), None)
    if kept is None:
        return start
    norms = start.decoder_norm() if kept.per == "latent" else start.source_norms()
    low, high = float(norms.min()), float(norms.max())
    ranked = getattr(start.activation, "k", None) is not None and not getattr(start.activation, "rank_by_norm", False)
    unlike = kept.per == "source" or ranked
    why = f"start has decoder columns of norm {low:.3g} to {high:.3g}, which unit_norm would bring to 1"
    check(high <= ALIKE * low or not unlike, f"{why}; add '| - unit_norm' to the method", RefusedError)
    factors: Tensor = norms if kept.per == "latent" else norms.mean(0)
    return scale_latents(start, factors)

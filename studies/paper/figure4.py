"""Figure 4: loss zero, and no feature recovered (theorem 3.4 in four arrows)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig
from monosem.theory import loss, recovery
from studies.engine.cells import Results
from studies.engine.computed import Computed, checked, checks_table, said_of_checks
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study
from studies.theory.claims import zero_loss_figure, zero_loss_instance


def compute(folder: Path, config: FitConfig) -> dict[str, Any]:
    """Four features in the plane, loss zero, none recovered: the very instance of the theory's figure."""
    problem, W_D, W_E = zero_loss_instance()
    value, got = float(loss(problem, W_D, W_E)), recovery(problem, W_D, W_E)
    checks = checked("zero_loss", "zero_without_recovery")
    return {
        "n": 4,
        "n_p": 2,
        "n_q": 4,
        "W_p": problem.W_p.tolist(),
        "W_D": W_D.tolist(),
        "W_E": W_E.tolist(),
        "loss": value,
        "recovered": {"decoder": got.decoder, "encoder": got.encoder},
        "checks": checks,
        "shows": f"n = n_q = 4 in 2 dimensions: L~ = {value:.1e}, recovered at .95: {got.decoder:.0%} by decoder "
        f"columns, {got.encoder:.0%} by encoder rows. {said_of_checks(checks)}",
    }


def _runs(scale: Scale) -> Iterator[Entry]:
    yield Entry("figure4", "", Computed("figure4", compute))


def _figure(results: Results) -> Figure | None:
    for record in results.records:
        W, W_D, W_E = (torch.tensor(record[name], dtype=torch.float64) for name in ("W_p", "W_D", "W_E"))
        return zero_loss_figure(W, W_D, W_E, record["loss"], max(record["recovered"].values()))
    return None


STUDY = Study(
    "figure4",
    "Figure 4: loss zero, and no feature recovered",
    _runs,
    about=lambda: "Theorem 3.4 in four arrows; the whole story is in [zero loss](../theory/zero-loss.md).",
    says=lambda results: "".join(record["shows"] for record in results.records),
    tables=checks_table,
    figure=_figure,
    seeds=(0,),
    packed="other",
)

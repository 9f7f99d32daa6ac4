"""The world in three dimensions that a report shows: `python -m studies world3d` trains it and stores the numbers.

Eight features and as many latents, TopK with k = 1; two features are anchored in the second arm. One seed: an
illustration (the paper's figure 9), not evidence.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import monosem.report
from monosem import SDL, FitConfig, WorldSpec, true_features
from monosem.base import write_atomic
from monosem.bench import Independent, Task, TaskSource, recovery
from monosem.methods import method
from monosem.train import fit

OUT = Path(monosem.report.__path__[0]) / "world.json"
WORLD = Task("world3d", 1, WorldSpec(8, (3,), 0.45, Independent(0.9), rows=4096), n_q=8, anchors=2)
METHOD, POINTS = "topk(k=1)", 500
CONFIG = FitConfig(steps=300, batch_size=256, lr=3e-3, threads=1)


def small_world(steps: int = CONFIG.steps) -> dict[str, Any]:
    """True directions, rows, and the living decoder columns of a plain and an anchored TopK.

    Each arm holds its columns [x, y, z], for each the best cosine with a feature, and how many of the eight features
    are recovered at |cos| > 0.95.
    """
    source = TaskSource(WORLD)
    anchored = WORLD.anchor_order()[: WORLD.anchors]
    anchors = true_features(source.W_p, source.W_r, anchored)
    rows = source.world.rows(0, 4 * POINTS).sources[0]
    rows = rows[rows.norm(dim=1) > 0][:POINTS]
    config = replace(CONFIG, steps=steps)
    arms = {
        name: _arm(fit(method(METHOD), source, WORLD.n_q, config, given).model, source)
        for name, given in (("plain", None), ("anchored", anchors))
    }
    return {
        "features": _rounded(source.W_r.T),
        "anchored": anchored.tolist(),
        "points": _rounded(rows),
        "arms": arms,
        "caption": f"{WORLD.world.n} features in three dimensions, M = {WORLD.world.max_interference}, "
        f"{METHOD} with n_q = {WORLD.n_q}",
    }


def _arm(model: SDL, source: TaskSource) -> dict[str, Any]:
    with torch.no_grad():
        code = model(source.take(torch.arange(2048))[0]).code
        alive = code.latent_sum((code.values != 0).double()) > 0
    columns = torch.nn.functional.normalize(model.W_D.detach(), dim=0)[:, alive]
    cosine = (source.W_r.T @ columns).abs()
    return {
        "columns": _rounded(columns.T),
        "cosine": [round(float(value), 3) for value in cosine.amax(0)],
        "recovered": round(recovery(cosine.amax(1))["M_GT"]["0.95"] * WORLD.world.n),
        "dead": int((~alive).sum()),
    }


def _rounded(rows: Tensor) -> list[list[float]]:
    return [[round(float(value), 3) for value in row] for row in rows]


def main(words: Sequence[str] = ()) -> None:
    """Train both arms and store them beside the report's page."""
    write_atomic(OUT, json.dumps(small_world(), sort_keys=True, separators=(",", ":")).encode() + b"\n")

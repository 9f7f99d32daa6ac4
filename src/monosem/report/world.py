"""A world that can be looked at: features in three dimensions and what TopK learns of them (the paper's figure 9)."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from monosem.anchors.directions import true_features
from monosem.bench.tasks import Task, TaskSource
from monosem.bench.world import Independent, WorldSpec
from monosem.core.model import SDL
from monosem.methods import method
from monosem.train.config import FitConfig
from monosem.train.loop import fit

WORLD = Task("world3d", 1, WorldSpec(8, (3,), 0.45, Independent(0.9), rows=4096), n_q=8, anchors=2)
"""Eight features in three dimensions, as many latents; two features are anchored."""
METHOD = "topk(k=1)"
_CONFIG = FitConfig(steps=300, batch_size=256, lr=3e-3, threads=1)
_POINTS = 500


@lru_cache(maxsize=1)
def small_world() -> dict[str, Any]:
    """True directions, rows, and the living decoder columns of a plain and an anchored TopK, ready for JSON.

    Each arm holds its columns [x, y, z], for each the best cosine with a feature, and how many features are recovered
    at |cos| > 0.95 (all eight count here). Trains both, about a second each; the same numbers on every call.
    """
    source = TaskSource(WORLD)
    anchored = WORLD.anchor_order()[: WORLD.anchors]
    anchors = true_features(source.W_p, source.W_r, anchored)
    rows = source.world.rows(0, 4 * _POINTS).sources[0]
    rows = rows[rows.norm(dim=1) > 0][:_POINTS]
    threads, arms = torch.get_num_threads(), {}
    try:
        for name, given in (("plain", None), ("anchored", anchors)):
            arms[name] = _arm(fit(method(METHOD), source, WORLD.n_q, _CONFIG, given).model, source)
    finally:
        torch.set_num_threads(threads)
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
    found = int((cosine.amax(1) > 0.95).sum())
    best = [round(float(value), 3) for value in cosine.amax(0)]
    return {"columns": _rounded(columns.T), "cosine": best, "recovered": found, "dead": int((~alive).sum())}


def _rounded(rows: Tensor) -> list[list[float]]:
    return [[round(float(value), 3) for value in row] for row in rows]

"""Where discovery ends: too few rows, noise, too many active features; one run beside what three agree on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import DataError
from monosem.base.files import write_json
from monosem.base.spec import to_plain
from monosem.bench.records import environment
from monosem.bench.world import Independent, World, WorldSpec
from monosem.dictionary.consensus import LEVELS, consensus, levelled
from monosem.dictionary.discover import Discovery, Settings, discover
from monosem.dictionary.found import recall_precision

LIMITS = Path("records/discovery/limits")
SEEDS = range(201, 204)
"""Worlds on which nothing was chosen: shares and levels of the consensus were tried on worlds 11 to 13."""


@dataclass(frozen=True)
class Cell:
    """A small world: how often a feature fires, in how many rows altogether, and the noise's share of the energy."""

    rate: float = 0.04
    events: int = 40
    noise: float = 0.0
    n: int = 60
    n_p: int = 32
    interference: float = 0.4

    @property
    def rows(self) -> int:
        """Rows in which a feature fires `events` times on average."""
        return round(self.events / self.rate)


CELLS: Mapping[str, Cell] = {
    **{f"events/{e}": Cell(events=e) for e in (5, 10, 20, 40, 80)},
    **{f"noise/{p}": Cell(noise=p / 100) for p in (10, 30, 50)},
    **{f"active/{a}": Cell(rate=a / 60, events=20 * a) for a in (3, 5, 8)},
    **{f"features/{n}": Cell(1.6 / n, 1600 // n, n=n, n_p=2 * n, interference=0.35) for n in (8, 16, 32)},
    **{f"ratio/{n // 32}": Cell(1.6 / n, 80, n=n, interference=M) for n, M in ((64, 0.4), (128, 0.4), (256, 0.5))},
}
"""By what grows: events per feature, per cent of noise, active features per row (always 1200 rows), features at all,
features per dimension (1.6 active, as near to orthogonal as the generator finds them)."""


def run_limits(names: list[str]) -> None:
    """Measure what is named, or what has no record yet."""
    LIMITS.mkdir(parents=True, exist_ok=True)
    for name in names or list(CELLS):
        path = LIMITS / (name.replace("/", "-") + ".json")
        if names or not path.exists():
            record = _measured(name, CELLS[name])
            write_json(path, record)
            print(name, [w["one"]["recall"] for w in record["worlds"]], f"{record['cpu_s']:.0f} s of CPU", flush=True)


def _measured(name: str, cell: Cell) -> dict[str, Any]:
    cpu = time.process_time()
    return {
        "name": name,
        "cell": to_plain(cell),
        "rows": cell.rows,
        "worlds": [_world(cell, seed) for seed in SEEDS],
        "cpu_s": time.process_time() - cpu,
        "settings": to_plain(Settings()),
        "command": f"python -m studies.discovery limits {name}",
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _world(cell: Cell, seed: int) -> dict[str, Any]:
    """Recall and precision of the default run, of what two of three runs found, and of what any found."""
    spec = WorldSpec(cell.n, (cell.n_p,), cell.interference, Independent(1.0 - cell.rate), rows=cell.rows, seed=seed)
    world = World(spec)
    truth = world.rows(0, cell.rows)
    x = _noisy(truth.sources[0], cell.noise, seed)
    tried = [_found(x, i) for i in range(len(LEVELS))]
    runs = [run for run in tried if run is not None]
    return {
        "seed": seed,
        "interference": world.realised_interference[0],
        "true_l0": float(truth.features.l0.float().mean()),
        "one": _scores(tried[0], world.W[0]),
        "two_of_three": _scores(_agreed(runs, 2), world.W[0]),
        "any_of_three": _scores(_agreed(runs, 1), world.W[0]),
    }


def _noisy(x: Tensor, share: float, seed: int) -> Tensor:
    """Rows with Gaussian noise that makes up a share of their energy."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + noise * (share / (1.0 - share) * x.square().mean()).sqrt()


def _found(x: Tensor, i: int) -> Discovery | None:
    try:
        return discover(x, seed=i, settings=levelled(Settings(), LEVELS[i]))
    except DataError:
        return None


def _agreed(runs: list[Discovery], least: int) -> Discovery | None:
    try:
        return consensus(runs, share=min(1.0, least / max(len(runs), 1)))
    except DataError:
        return None


def _scores(found: Discovery | None, W: Tensor) -> dict[str, float]:
    if found is None:
        return {"atoms": 0, "recall": 0.0, "precision": 0.0, "l0": 0.0}
    scores = recall_precision(found.anchors.p, W)
    return {key: float(scores[key]) for key in ("atoms", "recall", "precision")} | {"l0": found.l0}

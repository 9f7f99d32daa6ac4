"""Discovery measured against known truth: python -m studies.discovery run [WORLD ...] | limits [CELL ...] | page.

Settings were frozen on worlds with (n, n_p, S) = (300, 200, .98), (125, 96, .98), (500, 128, .99), (600, 96, .99),
(200, 150, .9), (250, 90, .98), (900, 700, .988), (2400, 600, .99), and Zipf worlds (300, 200, .98, exponent 1.2) and
(800, 640, .989, exponent .9), world seeds 3 to 12. None is reported. The three worlds `fresh/...` were written down
here before anything was run on them.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.files import read_json, write_json
from monosem.base.spec import to_plain
from monosem.bench.records import environment
from monosem.bench.world import Independent, World, WorldSpec
from monosem.bench.zipf import Zipf
from monosem.dictionary.discover import Settings, discover
from monosem.dictionary.found import recall_precision
from studies.discovery_limits import LIMITS, run_limits
from studies.discovery_page import write_page

FOLDER = Path("records/discovery")

WORLDS: Mapping[str, WorldSpec] = {
    "fresh/crowded": WorldSpec(420, (160,), 0.25, Independent(0.985), rows=40_000, seed=101),
    "fresh/shifted": WorldSpec(350, (256,), 0.12, Independent(0.97, c_min=0.3, beta=0.7), rows=30_000, seed=102),
    "fresh/zipf": WorldSpec(400, (280,), 0.15, Zipf(1.3, mean_rate=0.012), rows=60_000, seed=103),
    **{f"paper/{w}": WorldSpec(1000, (768,), 0.1, Independent(0.99), rows=100_000, seed=w) for w in range(3)},
    "crosscoder/200": WorldSpec(200, (768, 768), 0.15, Independent(0.98), rows=8_000, seed=104),
    "zipf/0": WorldSpec(1000, (768,), 0.1, Zipf(1.0), rows=100_000),
    **{
        f"ratio/{n}": WorldSpec(n, (768,), 0.1, Independent(0.99), rows=100_000)
        for n in (1400, 800, 1200, 1100, 1300, 900)
    },
    **{
        f"ratio/{n}": WorldSpec(n, (768,), cap, Independent(0.99), rows=100_000)
        for n, cap in ((2000, 0.15), (3000, 0.15), (4000, 0.35))
    },
}
"""What is reported, in the order in which it is run."""


def measure(name: str, spec: WorldSpec) -> dict[str, Any]:
    """One run: what was found, beside the truth; the sources of a crosscoder lie side by side."""
    world = World(spec)
    truth = world.rows(0, spec.rows or 0)
    wall, cpu = time.monotonic(), time.process_time()
    found = discover(torch.cat(truth.sources, 1), seed=spec.seed)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    W = torch.nn.functional.normalize(torch.cat(world.W), dim=0)
    best, nearest = (found.anchors.p.T @ W).abs().max(1)
    right = best > 0.95
    fired = torch.bincount(truth.features.col, minlength=spec.n) / len(truth.features)
    error = (found.rates[right] / fired[nearest[right]] - 1.0).abs()
    reached = torch.zeros(spec.n, dtype=torch.bool)
    reached[nearest[right]] = True
    ranked = reached[fired.argsort(descending=True)].float()
    return {
        "name": name,
        "world": to_plain(spec),
        "n": spec.n,
        "n_p": sum(spec.widths),
        "interference": world.realised_interference[0],
        "seed": spec.seed,
        "settings": to_plain(Settings()),
        "result": recall_precision(found.anchors.p, W)
        | {
            "l0": found.l0,
            "true_l0": float(truth.features.l0.float().mean()),
            "rate_error": float(error.median()) if error.numel() else None,
            "recall_by_frequency": [float(part.mean()) for part in ranked.chunk(5)],
            "least_cosine_of_a_source": _halves(found.anchors.p[:, right], world.W, nearest[right]),
            "confidence_right": float(found.confidence[right].median()) if bool(right.any()) else None,
            "confidence_wrong": float(found.confidence[~right].median()) if bool((~right).any()) else None,
        },
        "log": found.log,
        "cpu_s": cpu,
        "wall_s": wall,
        "command": f"python -m studies.discovery run {name}",
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _halves(p: Tensor, W: Sequence[Tensor], feature: Tensor) -> list[float] | None:
    """For each source, the smallest |cos| between its part of a right atom and the feature there."""
    if not feature.numel():
        return None
    pieces: Sequence[Tensor] = torch.split(p, [w.shape[0] for w in W])
    parts = zip(pieces, W, strict=True)
    return [float(torch.nn.functional.cosine_similarity(part, w[:, feature], dim=0).abs().min()) for part, w in parts]


def main(arguments: list[str]) -> None:
    """Run what has no record yet (or what is named), or write the page from the records."""
    if arguments[:1] == ["page"]:
        records, limits = ([read_json(path) for path in sorted(at.glob("*.json"))] for at in (FOLDER, LIMITS))
        write_page(records, list(WORLDS), limits)
        return
    torch.set_num_threads(1)
    if arguments[:1] == ["limits"]:
        run_limits(arguments[1:])
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or list(WORLDS):
        path = FOLDER / (name.replace("/", "-") + ".json")
        if arguments[1:] or not path.exists():
            record = measure(name, WORLDS[name])
            write_json(path, record)
            print(name, record["result"], f"{record['cpu_s']:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

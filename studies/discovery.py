"""Discovery beside the truth, and where it ends: runs, the tables of docs/discovery.md, and its figures.

python -m studies discovery [WORLD ...]         the worlds without a record, or those named
python -m studies discovery limits [CELL ...]   the small worlds with few rows, noise, or many active features

Settings were frozen on worlds with (n, n_p, S) = (300, 200, .98), (125, 96, .98), (500, 128, .99), (600, 96, .99),
(200, 150, .9), (250, 90, .98), (900, 700, .988), (2400, 600, .99), and Zipf worlds (300, 200, .98, exponent 1.2) and
(800, 640, .989, exponent .9), world seeds 3 to 12. None is reported. The three worlds `fresh/...` were written down
here before anything was run on them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import World, WorldSpec
from monosem.base import DataError, to_plain
from monosem.bench import DUPLICATE_COSINE, Independent, Zipf, environment, recall_precision
from monosem.dictionary import LEVELS, Discovery, Settings, consensus, discover, levelled
from monosem.report import GREY, PALETTE, fill, plain_axes, table, write_figure
from studies.page import provenance
from studies.stored import store, stored, stored_below

PAGE, FIGURES = Path("docs/discovery.md"), Path("docs/figures")
Record = dict[str, Any]

WORLDS: Mapping[str, WorldSpec] = {
    "fresh/crowded": WorldSpec(420, (160,), 0.25, Independent(0.985), rows=40_000, seed=101),
    "fresh/shifted": WorldSpec(350, (256,), 0.12, Independent(0.97, c_min=0.3, beta=0.7), rows=30_000, seed=102),
    "fresh/zipf": WorldSpec(400, (280,), 0.15, Zipf(1.3, mean_rate=0.012), rows=60_000, seed=103),
    **{f"paper/{w}": WorldSpec(1000, (768,), 0.1, Independent(0.99), rows=100_000, seed=w) for w in range(3)},
    "crosscoder/200": WorldSpec(200, (768, 768), 0.15, Independent(0.98), rows=8_000, seed=104),
    "zipf/0": WorldSpec(1000, (768,), 0.1, Zipf(1.0), rows=100_000),
    **{
        f"ratio/{n}": WorldSpec(n, (768,), cap, Independent(0.99), rows=100_000)
        for n, cap in (
            *((n, 0.1) for n in (1400, 800, 1200, 1100, 1300, 900)),
            (2000, 0.15),
            (3000, 0.15),
            (4000, 0.35),
        )
    },
}
"""What is reported, in the order in which it is run."""


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


def main(words: Sequence[str] = ()) -> None:
    """Run what has no record yet, or what is named."""
    torch.set_num_threads(1)
    limits = words[:1] == ["limits"]
    names = words[1:] if limits else words
    for name in names or (CELLS if limits else WORLDS):
        at = f"discovery/{'limits/' * limits}{name.replace('/', '-')}"
        if names or stored(at) is None:
            begin = time.monotonic(), time.process_time()
            made = _limit(CELLS[name]) if limits else _world(WORLDS[name])
            record = made | {
                "name": name,
                "settings": to_plain(Settings()),
                "command": f"python -m studies discovery {'limits ' * limits}{name}",
                "env": environment(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            record = {"wall_s": time.monotonic() - begin[0], "cpu_s": time.process_time() - begin[1]} | record
            store(at, record)
            print(name, f"{record['cpu_s']:.0f} s of CPU", flush=True)


def _world(spec: WorldSpec) -> Record:
    """One run: what was discovered, beside the truth; the sources of a crosscoder lie side by side."""
    world = World(spec)
    truth = world.rows(0, spec.rows or 0)
    wall, cpu = time.monotonic(), time.process_time()
    result = discover(torch.cat(truth.sources, 1), seed=spec.seed)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    W, atoms = torch.nn.functional.normalize(torch.cat(world.W), dim=0), result.anchors.p
    best, nearest = (atoms.T @ W).abs().max(1)
    right = best > DUPLICATE_COSINE
    fired = torch.bincount(truth.features.col, minlength=spec.n) / len(truth.features)
    error = (result.rates[right] / fired[nearest[right]] - 1.0).abs()
    reached = torch.zeros(spec.n, dtype=torch.bool)
    reached[nearest[right]] = True
    ranked = reached[fired.argsort(descending=True)].float()
    return {
        "world": to_plain(spec),
        "n": spec.n,
        "n_p": sum(spec.widths),
        "interference": world.realised_interference[0],
        "seed": spec.seed,
        "result": recall_precision(atoms, W)
        | {
            "l0": result.l0,
            "true_l0": float(truth.features.l0.float().mean()),
            "rate_error": _median(error),
            "recall_by_frequency": [float(part.mean()) for part in ranked.chunk(5)],
            "least_cosine_of_a_source": _halves(atoms[:, right], world.W, nearest[right]),
            "confidence_right": _median(result.confidence[right]),
            "confidence_wrong": _median(result.confidence[~right]),
        },
        "log": result.log,
        "cpu_s": cpu,
        "wall_s": wall,
    }


def _median(values: Tensor) -> float | None:
    return float(values.median()) if values.numel() else None


def _halves(p: Tensor, W: Sequence[Tensor], feature: Tensor) -> list[float] | None:
    """For each source, the smallest |cos| between its part of a right atom and the feature there."""
    if not feature.numel():
        return None
    pieces: Sequence[Tensor] = torch.split(p, [w.shape[0] for w in W])
    parts = zip(pieces, W, strict=True)
    return [float(torch.nn.functional.cosine_similarity(part, w[:, feature], dim=0).abs().min()) for part, w in parts]


def _limit(cell: Cell) -> Record:
    return {"cell": to_plain(cell), "rows": cell.rows, "worlds": [_limit_world(cell, seed) for seed in SEEDS]}


def _limit_world(cell: Cell, seed: int) -> dict[str, Any]:
    """Recall and precision of the default run, of what two of three runs found, and of what any found."""
    spec = WorldSpec(cell.n, (cell.n_p,), cell.interference, Independent(1.0 - cell.rate), rows=cell.rows, seed=seed)
    world = World(spec)
    truth = world.rows(0, cell.rows)
    x = _noisy(truth.sources[0], cell.noise, seed)
    settings = [levelled(Settings(), level) for level in LEVELS]
    tried = [_unless_none(partial(discover, x, seed=i, settings=chosen)) for i, chosen in enumerate(settings)]
    runs = [run for run in tried if run is not None]
    agreed = [_unless_none(partial(consensus, runs, share=min(1.0, least / max(len(runs), 1)))) for least in (2, 1)]
    return {
        "seed": seed,
        "interference": world.realised_interference[0],
        "true_l0": float(truth.features.l0.float().mean()),
        "one": _scores(tried[0], world.W[0]),
        "two_of_three": _scores(agreed[0], world.W[0]),
        "any_of_three": _scores(agreed[1], world.W[0]),
    }


def _noisy(x: Tensor, share: float, seed: int) -> Tensor:
    """Rows with Gaussian noise that makes up a share of their energy."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + noise * (share / (1.0 - share) * x.square().mean()).sqrt()


def _unless_none(find: Callable[[], Discovery]) -> Discovery | None:
    """What was discovered; None where nothing was."""
    try:
        return find()
    except DataError:
        return None


def _scores(result: Discovery | None, W: Tensor) -> dict[str, float]:
    if result is None:
        return {"atoms": 0, "recall": 0.0, "precision": 0.0, "l0": 0.0}
    scores = recall_precision(result.anchors.p, W)
    return {key: float(scores[key]) for key in ("atoms", "recall", "precision")} | {"l0": result.l0}


def page() -> None:
    """Fill the page and draw its figures."""
    records = sorted(stored_below("discovery"), key=lambda record: list(WORLDS).index(record["name"]))
    limits = stored_below("discovery/limits")
    fill(PAGE, {"records": _table(records), "limits": _limits_table(limits)})
    label = "Recall and precision of discovered atoms after every round"
    write_figure(FIGURES / "discovery.svg", _figure(records), label)
    label = "Recall and precision of discovery against events, noise and active features"
    write_figure(FIGURES / "discovery-limits.svg", _limits_figure(limits), label)


def _after(rows: Sequence[Sequence[object]], records: list[Record], order: Mapping[str, Any]) -> str:
    """A table, what was not run, and on what the records were made."""
    missing = [name for name in order if name not in {record["name"] for record in records}]
    parts = [table(rows, numbers=True), *([f"Not run: {', '.join(missing)}."] if missing else [])]
    return "\n\n".join([*parts, f"One thread; {provenance(records)}."])


def _table(records: list[Record]) -> str:
    head = ("world", "n", "n_p", "atoms", "recall", "precision", "M_IP", "L0, true", "rarest fifth", "CPU s")
    rows: list[Sequence[object]] = [head]
    for record in records:
        r = record["result"]
        numbers = (f"{r['recall']:.3f}", f"{r['precision']:.3f}", f"{r['M_IP']:.4f}")
        more = (f"{r['l0']:.2f}, {r['true_l0']:.2f}", f"{r['recall_by_frequency'][-1]:.3f}", f"{record['cpu_s']:.0f}")
        rows.append((record["name"], record["n"], record["n_p"], r["atoms"], *numbers, *more))
    return _after(rows, records, WORLDS)


_DASHES = ("-", "--", ":")
"""How worlds beyond the palette's colours are told apart."""


def _figure(records: list[Record]) -> Figure:
    """What is left over after every round, one line per world: how a search goes, and where it breaks."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, record in enumerate(records):
        colour, dashes, log = PALETTE[i % len(PALETTE)], _DASHES[i // len(PALETTE) % len(_DASHES)], record["log"]
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.4}
        turns = range(1, len(log) + 1)
        left.plot(turns, [entry["atoms"] / record["n"] for entry in log], **style)
        right.plot(turns, [max(entry["fvu"], 1e-5) for entry in log], label=record["name"], **style)
    left.axhline(1.0, color=GREY, linewidth=0.8, linestyle="--")
    left.set(xlabel="round", ylabel="atoms / true features", ylim=(0, None))
    right.set(xlabel="round", ylabel="energy left over (FVU)", yscale="log")
    for axes in (left, right):
        plain_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=2.6)
    return figure


AXES = (
    ("events", "events per feature"),
    ("noise", "noise, % of the energy"),
    ("active", "active features per row"),
    ("features", "features, 1.6 active"),
    ("ratio", "features per dimension"),
)
WAYS = (("one", "one run"), ("two_of_three", "two of three runs"), ("any_of_three", "any of three runs"))


def _limits_table(records: list[Record]) -> str:
    """One line per cell: recall and precision, the mean over its worlds."""
    head = ["", "worlds", "rows", "one run: recall", "precision", "L0 found, true", "two of three: recall", "precision"]
    rows: list[Sequence[object]] = [[*head, "any of three: recall", "precision"]]
    for axis, what in AXES:
        for place, record in _along(records, axis):
            one, *more = (_mean(record, way) for way, _ in WAYS)
            true = mean(world["true_l0"] for world in record["worlds"])
            cells = [f"{what}: {place:g}", str(len(record["worlds"])), str(record["rows"])]
            cells += [f"{one[0]:.2f}", f"{one[1]:.2f}", f"{one[2]:.2f}, {true:.2f}"]
            rows.append([*cells, *(f"{value:.2f}" for scores in more for value in scores[:2])])
    return _after(rows, records, CELLS)


def _limits_figure(records: list[Record]) -> Figure:
    """Recall (full) and precision (dashed) against what grows, one run beside what several agree on."""
    drawn = [(axis, what) for axis, what in AXES[:3] if len(_along(records, axis)) > 1]
    figure = Figure(figsize=(2.8 * len(drawn), 3.0), layout="constrained")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, (axis, what) in zip(panels, drawn, strict=True):
        along = _along(records, axis)
        for colour, (way, label) in zip(PALETTE, WAYS, strict=False):
            places = [place for place, _ in along]
            for kind, line in ((0, "-"), (1, "--")):
                heights = [_mean(record, way)[kind] for _, record in along]
                axes.plot(places, heights, line, color=colour, linewidth=1.4, label=None if kind else label)
        axes.set(xlabel=what, ylim=(0, 1.03))
        if axis == "events":
            axes.set(xscale="log", ylabel="recall (full), precision (dashed)")
            axes.set_xticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
            axes.minorticks_off()
        plain_axes(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _along(records: list[Record], axis: str) -> list[tuple[float, Record]]:
    """The cells of one axis in order; noise begins at the cell without it."""
    cells = [(float(r["name"].partition("/")[2]), r) for r in records if r["name"].startswith(axis + "/")]
    if axis == "noise":
        cells += [(0.0, r) for r in records if r["name"] == "events/40"]
    return sorted(cells, key=lambda pair: pair[0])


def _mean(record: Record, way: str) -> tuple[float, float, float]:
    worlds = [world[way] for world in record["worlds"]]
    return mean(w["recall"] for w in worlds), mean(w["precision"] for w in worlds), mean(w["l0"] for w in worlds)

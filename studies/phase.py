"""Where can any method work? Small worlds over two planes: coherence by dependence, and rows by noise.

python -m studies phase        what the record lacks, seed by seed

Every learner is scored on the features that were not given to the anchored one: the share of them that an atom meets
at |cos| > .95. Beside the learners stand two that know the directions, by F1 of codes on other rows (the bench's
oracle, and the lasso at its best penalty), and chance. One thread.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from monosem import Anchors, task
from monosem.base import DataError, format_call, torch_generator
from monosem.bench import TaskSource, environment, fit_config, oracle, recall_precision
from monosem.dictionary import CLASSICAL, discover, nonnegative_lasso
from monosem.methods import method
from monosem.report import fill, table, write_figure
from monosem.train import fit
from studies.page import provenance
from studies.recovery import CENTRE
from studies.stored import run_missing, stored

PAGE, FIGURE, NAME = Path("docs/recovery.md"), Path("docs/figures/phase.svg"), "recovery/phase"
SEEDS, GIVEN, ROWS = range(3000, 3003), 8, 512
"""`GIVEN`: anchors of 24 features. `ROWS`: held out, for codes."""
Axis = tuple[str, str, tuple[Any, ...]]
PLANES: tuple[tuple[Axis, Axis], ...] = (
    (
        ("coherence", "cosine within clusters", (0.0, 0.3, 0.5, 0.7, 0.85)),
        ("given", "member given its block", (0.0, 0.2, 0.4, 0.6, 0.8)),
    ),
    (("rows", "rows", (125, 250, 500, 1000, 2000)), ("db", "noise, dB below", (None, 20, 10, 5, 0))),
)
LEARNERS = {
    "topk": "TopK, plain",
    "anchored": "TopK, a third given",
    "ksvd": "K-SVD, told n and k",
    "discover": "discovery",
    "oracle": "oracle: F1 of codes",
    "lasso": "lasso on the truth: F1",
    "chance": "chance",
}
RECALLED = ("topk", "anchored", "ksvd", "discover")
"""The learners; all others know the truth, or nothing."""
PENALTIES = (0.01, 0.03, 0.1, 0.3)
"""Of the lasso, over the largest inner product of a row and a direction."""
FEASIBLE = 0.9


def main(_: object = ()) -> None:
    """Run what the record lacks."""
    torch.set_num_threads(1)
    run_missing(NAME, {"command": "python -m studies phase", "env": environment()}, _runs())


def cell(plane: int, x: Any, y: Any) -> str:
    """The world at a place of a plane."""
    ((first, _, _), (second, _, _)) = PLANES[plane]
    changed = {name: value for name, value in ((first, x), (second, y)) if value is not None}
    return format_call("lrb_grid", dict(CENTRE) | changed).replace("_", "/", 1)


def _runs() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    once = cache(_world)
    for seed in SEEDS:
        for plane, ((_, _, across), (_, _, up)) in enumerate(PLANES):
            for x, y in product(across, up):
                yield f"{plane}/{x}/{y}/{seed}", partial(once, cell(plane, x, y), seed)


def _world(text: str, seed: int) -> dict[str, float]:
    """Every learner on one world."""
    source = TaskSource(task(text, seed=seed))
    x, W = source.take(torch.arange(source.rows or 0))[0], source.W_p
    k = max(2, round(float(source.world.take(torch.arange(len(x)), ()).features.l0.float().mean())))
    known = Anchors(W[:, :GIVEN], W[:, :GIVEN])
    learners: Mapping[str, Callable[[], Tensor]] = {
        "topk": partial(_topk, source, k, seed, None),
        "anchored": partial(_topk, source, k, seed, known),
        "ksvd": partial(CLASSICAL["ksvd"], x, W.shape[1], k=k, iterations=30, seed=seed),
        "chance": lambda: torch.randn(W.shape, generator=torch_generator(seed, "phase/chance")),
    }
    scores = {name: float(recall_precision(learner(), W[:, GIVEN:])["recall"]) for name, learner in learners.items()}
    scores |= _discovered(x, W[:, GIVEN:], seed)
    return scores | {"oracle": float(oracle(source, rows=ROWS)["f1"]), "lasso": _lasso(source)}


def _discovered(x: Tensor, W: Tensor, seed: int) -> dict[str, float]:
    """Recall, and whether discovery itself says that there is nothing to be known: by an error, or by its gain."""
    try:
        result = discover(x, seed=seed)
    except DataError:
        return {"discover": 0.0, "refused": 1.0}
    return {"discover": float(recall_precision(result.anchors.p, W)["recall"]), "refused": float(not result.sparse)}


def _topk(source: TaskSource, k: int, seed: int, anchors: Anchors | None) -> Tensor:
    config = fit_config(source.task.name, seed, 500)
    return fit(method(f"topk(k={k + 1})"), source, source.task.n_q, config, anchors).model.W_D.detach()


def _lasso(source: TaskSource) -> float:
    """F1 of the support of nonnegative lasso codes on the true directions, at the penalty where it is largest."""
    truth = source.held_out(ROWS)
    x, there = truth.sources[0], truth.features.dense() != 0
    scale = float((x @ source.W_p).amax())
    codes = [nonnegative_lasso(x, source.W_p, share * scale) > 0 for share in PENALTIES]
    return max(2 * int((z & there).sum()) / max(int(z.sum() + there.sum()), 1) for z in codes)


def page() -> None:
    """Fill the part of docs/recovery.md and draw the figure."""
    record = stored(NAME)
    if record is None:
        fill(PAGE, {"phase": "Not run yet."})
        return
    seeds = [seed for seed in SEEDS if all(f"{place}/{seed}" in record["runs"] for place in _places())]
    values = {place: [record["runs"][f"{place}/{seed}"] for seed in seeds] for place in _places()}
    write_figure(
        FIGURE, _figure(values), "Recall of every learner over coherence and dependence, and over rows and noise"
    )
    words = f"{len(values)} worlds of each of {len(seeds)} seeds; one thread; {provenance([record])}."
    shown = "![Recall over coherence, dependence, rows and noise](figures/phase.svg)"
    fill(PAGE, {"phase": f"{shown}\n\n{_counts(values)}\n\n{_refused(values)}\n\n{words}"})


Values = Mapping[str, list[dict[str, float]]]


def _places() -> list[str]:
    return [f"{number}/{x}/{y}" for number, (across, up) in enumerate(PLANES) for x in across[2] for y in up[2]]


def _counts(values: Values) -> str:
    """In how many cells a learner reaches nine tenths, and which cells only one of them reaches."""
    reached = {name: _reached(values, name) for name in LEARNERS}
    rows: list[tuple[object, ...]] = [("learner", ".9 or more", "in no other learner's", "mean")]
    for name, label in LEARNERS.items():
        others = set[str]().union(*(reached[one] for one in RECALLED if one != name))
        alone = len(reached[name] - others) if name in RECALLED else "-"
        average = mean(run[name] for runs in values.values() for run in runs)
        rows.append((label, f"{len(reached[name])} of {len(values)}", alone, f"{average:.2f}"))
    return table(rows, numbers=True)


def _reached(values: Values, name: str) -> set[str]:
    return {place for place, runs in values.items() if mean(run[name] for run in runs) >= FEASIBLE}


def _refused(values: Values) -> str:
    """Does discovery say so where it fails?"""
    runs = [run for some in values.values() for run in some]
    few, many = ([run["refused"] for run in runs if (run["discover"] < 0.5) == low] for low in (True, False))
    return (
        f"Discovery says that there is nothing to be known in {sum(few):.0f} of the {len(few)} worlds where it holds "
        f"less than half, and in {sum(many):.0f} of the other {len(many)}."
    )


def _figure(values: Values) -> Figure:
    """Two rows of heat maps, one column a learner."""
    names = [name for name in LEARNERS if name != "chance"]
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    grid = figure.subplots(len(PLANES), len(names), squeeze=False)
    for (number, (across, up)), (column, name) in product(enumerate(PLANES), enumerate(names)):
        axes = grid[number][column]
        shades = [[mean(run[name] for run in values[f"{number}/{x}/{y}"]) for x in across[2]] for y in up[2]]
        picture = _map(axes, shades)
        axes.set_xticks(range(len(across[2])), [_short(v) for v in across[2]], fontsize=6)
        axes.set_yticks(range(len(up[2])), [_short(v) for v in up[2]], fontsize=6)
        axes.set_xlabel(across[1], fontsize=7)
        axes.set_title(LEARNERS[name] if number == 0 else "", fontsize=8)
        axes.set_ylabel(up[1] if column == 0 else "", fontsize=7)
    figure.colorbar(picture, ax=grid, shrink=0.6).ax.tick_params(labelsize=6)
    return figure


def _map(axes: Axes, shades: list[list[float]]) -> AxesImage:
    """Shades from 0 to 1 with their numbers, two decimals without the 0."""
    picture = axes.imshow(shades, cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="equal")
    axes.tick_params(length=0)
    for j, line in enumerate(shades):
        for i, value in enumerate(line):
            text = f"{value:.2f}"[-3:] if value < 0.995 else "1"
            colour = "black" if value > 0.6 else "white"
            axes.text(i, j, text, ha="center", va="center", color=colour, fontsize=6)
    return picture


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}"

"""Every method like for like: the same worlds, the same L0, the same trials, one scorer.

    python -m studies board                      every cell that the record lacks
    python -m studies board cone blocks          some tasks
    python -m studies board cost                 the price of a step, in products of the encoder with a batch

A method is asked for the L0 of the world: k-methods get it as k, penalties by the target-L0 controller. Five learning
rates are tried on two worlds, the one of least held-out FVU is taken (no truth is looked at), and three other worlds
are reported. One thread; goes on where it stopped.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig, MonosemError, TensorSource, fit, method, task
from monosem.base import ArgumentError, check, torch_generator
from monosem.bench import TaskSource, environment, evaluate_model, fit_config, flatten
from monosem.report import fill, table, write_figure
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE, FIGURE = Path("docs/board.md"), Path("docs/figures/board.svg")
TASKS = ("mini", "cone", "clusters", "blocks", "zipf-hierarchy", "noise", "hierarchy")
METHODS: Mapping[str, str] = {
    "ReLU, L1": "relu_l1(l1=to_l0({l0}))",
    "ReLU, January 2025": "anthropic_jan25(sparsity=to_l0({l0}), active=0.01)",
    "p-annealing": "p_anneal(lp=to_l0({l0}))",
    "ghost gradients": "relu_l1(l1=to_l0({l0})) + ghost_grads",
    "resampling": "relu_l1(l1=to_l0({l0})) | resample(every=150)",
    "Gated": "gated(l1=to_l0({l0}))",
    "JumpReLU": "jumprelu(l0=to_l0({l0}))",
    "JumpReLU, quadratic": "jumprelu + l0(1.0, target={l0})",
    "Gemma Scope 2": "gemma_scope_2(l0={l0})",
    "LISTA": "lista(l1=to_l0({l0}))",
    "TopK": "topk(k={k})",
    "TopK without AuxK": "topk(k={k}, aux=0.0)",
    "Multi-TopK": "multi_topk(k={k})",
    "HierarchicalTopK": "hier_topk(k={k})",
    "GroupMax": "group_max(k={k})",
    "AbsTopK": "abs_topk(k={k})",
    "aligned": "aligned(k={k})",
    "subspace start": "subspace(k={k})",
    "archetypal": "archetypal(k={k})",
    "matching pursuit": "mp(k={k})",
    "BatchTopK": "batch_topk(k={l0})",
    "OrtSAE": "ortsae(k={l0})",
    "Matryoshka": "matryoshka(k={l0})",
    "ordered Matryoshka": "ordered_matryoshka(k={l0})",
}
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
TUNING, REPORTED, STEPS, ROWS = (100, 101), (1000, 1001, 1002), 400, 2048
KEPT = ("fvu", "l0", "dead", "uniqueness", "codes.f1", "decoder_cosine.M_GT@0.95", "decoder_cosine.M_IP")
ABSORBED = "hierarchy.absorbed"
"""The share of rows with a parent in which its latent is silent and a child's carries it; where there are families."""
CLAIMS = (
    ("aligned training leaves fewer latents dead", "aligned", "TopK", "dead", TASKS),
    ("AuxK leaves fewer latents dead", "TopK", "TopK without AuxK", "dead", TASKS),
    ("resampling leaves fewer latents dead", "resampling", "ReLU, L1", "dead", TASKS),
    ("OrtSAE absorbs less", "OrtSAE", "BatchTopK", ABSORBED, ("hierarchy",)),
    ("Matryoshka absorbs less", "Matryoshka", "BatchTopK", ABSORBED, ("hierarchy",)),
    ("matching pursuit explains more at equal L0", "matching pursuit", "TopK", "fvu", TASKS),
    ("BatchTopK explains more than TopK", "BatchTopK", "TopK", "fvu", TASKS),
)
"""What is claimed: less of a metric for one method than for another."""


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks."""
    torch.set_num_threads(1)
    unknown = sorted(set(words) - {*TASKS, "cost"})
    check(not unknown, f"no task {', '.join(unknown)}; known: {', '.join((*TASKS, 'cost'))}", ArgumentError)
    about = {"command": " ".join(("python -m studies board", *words)), "env": environment()}
    for name in words or (*TASKS, "cost"):
        run_missing(f"board/{name}", about, _costs() if name == "cost" else _cells(name))


def _cells(name: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A cell per method, keyed by its text, so that another text is another run."""
    sources = {seed: TaskSource(task(f"lrb/{name}", seed=seed)) for seed in (*TUNING, *REPORTED)}
    rows = torch.arange(min(4096, sources[TUNING[0]].rows or 4096))
    l0 = mean(float(sources[s].world.take(rows, ()).features.l0.float().mean()) for s in TUNING)
    for label, text in METHODS.items():
        spec = text.format(l0=round(l0, 2), k=max(1, round(l0)))
        yield f"{label}/{spec}", lambda spec=spec: _cell(spec, sources, name)  # type: ignore[misc]


def _cell(spec: str, sources: Mapping[int, TaskSource], name: str) -> dict[str, Any]:
    """Trials on the worlds of tuning, then the reported worlds at the learning rate of least FVU."""
    began = time.process_time()
    base = replace(fit_config(f"lrb/{name}", 0, STEPS), log_every=STEPS)
    trials = {}
    for factor in FACTORS:
        config = replace(base, lr=factor * base.lr)
        trials[factor] = [_tried(spec, sources[seed], replace(config, seed=seed)) for seed in TUNING]
    best = min(trials, key=lambda factor: mean(trials[factor]))
    config = replace(base, lr=best * base.lr)
    runs = [_run(spec, sources[seed], replace(config, seed=seed)) for seed in REPORTED]
    return {
        "lr": config.lr,
        "trials": {f"{factor:.3g}": fvu for factor, fvu in trials.items()},
        "runs": runs,
        "cpu_s": time.process_time() - began,
    }


def _tried(spec: str, source: TaskSource, config: FitConfig) -> float:
    """Held-out FVU; infinite where the rate is so large that training ends in an error."""
    try:
        return _run(spec, source, config)["fvu"]
    except MonosemError:
        return math.inf


def _run(spec: str, source: TaskSource, config: FitConfig) -> dict[str, float]:
    result = fit(method(spec), source, source.task.n_q, config)
    features = torch.arange(source.task.world.n)
    scores, _ = flatten(evaluate_model(result.model, source, features, ROWS))
    return {name: value for name, value in scores.items() if name in (*KEPT, ABSORBED)}


def _costs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A cell per method at one size of its own."""
    x = torch.randn(4096, 384, generator=torch.Generator().manual_seed(0))
    for label, text in METHODS.items():
        spec = text.format(l0=16, k=16)
        yield f"{label}/{spec}", lambda spec=spec: _cost(spec, x)  # type: ignore[misc]


def _cost(spec: str, x: torch.Tensor, n_q: int = 4096, batch: int = 512) -> dict[str, Any]:
    """Processor time of a step, from runs of two lengths, over that of the product x W_E^T; the median of three."""
    W, ratios = torch.randn(n_q, x.shape[1], generator=torch_generator(0, "cost")), []

    def spent(steps: int) -> float:
        began = time.process_time()
        fit(method(spec), TensorSource(x), n_q, FitConfig(steps=steps, batch_size=batch, log_every=steps))
        return time.process_time() - began

    for _ in range(3):
        step = (spent(24) - spent(8)) / 16
        began = time.process_time()
        for _ in range(8):
            torch.mm(x[:batch], W.T)
        ratios.append(step / ((time.process_time() - began) / 8))
    return {"products": median(ratios), "n_p": x.shape[1], "n_q": n_q, "batch": batch}


def page() -> None:
    """Fill docs/board.md and draw its figure."""
    records = {name: record for name in TASKS if (record := stored(f"board/{name}")) is not None}
    costs = stored("board/cost")
    parts = dict.fromkeys(("board", "codes", "claims"), "Not run yet.")
    if records:
        cells = {name: _by_method(record) for name, record in records.items()}
        absent = [name for name in TASKS if name not in cells] + ["the cost of a step"] * (costs is None)
        left = f"Not run yet: {', '.join(absent)}. " if absent else ""
        made = f"{left}{sum(map(len, cells.values()))} cells; one thread; {provenance(records.values())}. LISTA ran "
        made += "before its steps were parameters beside W_E."
        price = {} if costs is None else {key.split("/")[0]: run["products"] for key, run in costs["runs"].items()}
        write_figure(FIGURE, _figure(cells), "Share of true features that each method holds, world by world")
        shown = "![Share of features held, by method and world](figures/board.svg)"
        parts["board"] = f"{shown}\n\n{_means(cells, 'decoder_cosine.M_GT@0.95', price)}\n\n{made}"
        parts["codes"] = f"{_means(cells, 'codes.f1')}\n\nFVU:\n\n{_means(cells, 'fvu')}\n\n{_reached(cells)}"
        parts["claims"] = _claims(cells)
    fill(PAGE, parts)


Cells = Mapping[str, Mapping[str, dict[str, Any]]]


def _by_method(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: run | {"spec": spec} for key, run in record["runs"].items() for label, spec in [key.split("/", 1)]}


def _values(cells: Cells, name: str, label: str, metric: str) -> list[float]:
    """A metric in the reported worlds; none where the cell was not run."""
    runs = cells[name].get(label, {"runs": []})["runs"]
    return [run[metric] for run in runs]


def _means(cells: Cells, metric: str, price: Mapping[str, float] | None = None) -> str:
    rows: list[Sequence[str]] = [("method", *cells, *(("products a step",) if price else ()))]
    for label in METHODS:
        values = [_values(cells, name, label, metric) for name in cells]
        last = (f"{price[label]:.1f}" if label in price else "",) if price else ()
        rows.append((label, *(f"{mean(v):.2f}" if v else "not run" for v in values), *last))
    return table(rows, numbers=True)


def _reached(cells: Cells) -> str:
    """How far L0 on held-out rows lies from what was asked for: the mean number of features of a row."""
    off = []
    for name, some in cells.items():
        asked = next(float(at[1]) for run in some.values() if (at := re.search(r"to_l0\(([\d.]+)\)", run["spec"])))
        off += [(mean(_values(cells, name, label, "l0")) / asked - 1, label, name) for label in some]
    off.sort(key=lambda one: -abs(one[0]))
    far = [f"{label} on {name} ({share:+.0%})" for share, label, name in off[:6]]
    within = sum(abs(share) <= 0.25 for share, *_ in off)
    return f"L0 lies within 25 % of what was asked for in {within} of {len(off)} cells; farthest: {', '.join(far)}."


def _claims(cells: Cells) -> str:
    """Differences world by world: mean, and in how many worlds they have the claimed sign."""
    rows: list[Sequence[str]] = [("claim", "worlds", "mean difference", "as claimed in")]
    for text, less, more, metric, tasks in CLAIMS:
        pairs = [
            a - b
            for name in tasks
            if {less, more} <= set(cells.get(name, ()))
            for a, b in zip(_values(cells, name, less, metric), _values(cells, name, more, metric), strict=True)
        ]
        if pairs:
            rows.append((text, str(len(pairs)), f"{mean(pairs):+.3f}", f"{sum(d < 0 for d in pairs)}"))
    return table(rows)


def _figure(cells: Cells) -> Figure:
    """M_GT as a grid of shades with its number, methods down, worlds across."""
    figure = Figure(figsize=(7.2, 6.6), layout="constrained")
    axes = figure.subplots()
    values = [
        [mean(v) if (v := _values(cells, name, label, KEPT[5])) else float("nan") for name in cells]
        for label in METHODS
    ]
    axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value == value:
                colour = "black" if value > 0.6 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(cells)), list(cells), fontsize=8)
    axes.set_yticks(range(len(METHODS)), list(METHODS), fontsize=8)
    axes.set_title("How many true features does each method hold at the world's own L0?", fontsize=9, loc="left")
    axes.tick_params(length=0)
    return figure

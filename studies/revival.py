"""Figure 7 for methods with thresholds, where the truth is known: what resampling does about latents that die.

python -m studies revival     every run that the record lacks, five worlds like lrb/nano

The page of the paper's figure is docs/real/resampling.md (TopK on a network). Here ReLU, JumpReLU and Gated too: their
dead latents have a threshold or a gate that holds them down, and a revival that leaves it revives nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import SDL, FitConfig, task
from monosem.base import to_plain
from monosem.bench import TaskSource, environment, evaluate_model
from monosem.methods import method, with_resampling
from monosem.report import PALETTE, fill, interval, panels, plain_axes, table, write_figure
from monosem.train import Resample, Run, fit
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE, FIGURE = Path("docs/real/resampling.md"), Path("docs/figures/revival.svg")
METHODS = ("topk(k=3, aux=0.0)", "relu_l1(l1=1.0)", "jumprelu(l0=3.0)", "gated(l1=2.0)")
ARMS = ("no remedy", "resampling")
SEEDS = range(5)
SOON = 100
"""Steps within which a latent that was drawn anew should fire."""
PLAN = {"every": SOON + 10, "begin": 0.1, "end": 0.8, "rows": 2048}
CONFIG = FitConfig(steps=990, batch_size=512, lr=1e-2, log_every=10, dead_window=5120, threads=1)
N_Q = 192
"""Latents, 8 times the features: with fewer hardly one dies."""


class Watched(Resample):
    """Resampling that keeps which latents it drew last."""

    drawn: Tensor | None = None

    def apply(self, model: SDL, x_p: Tensor, x_r: Tensor, dead: Tensor, generator: torch.Generator) -> None:
        """Overwrite the dead latents' weights in place."""
        Watched.drawn = dead.clone()
        super().apply(model, x_p, x_r, dead, generator)


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks."""
    about = {"command": "python -m studies revival", "env": environment(), "config": to_plain(CONFIG), "plan": PLAN}
    run_missing("revival/nano", about | {"n_q": N_Q}, _runs())


def _runs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for seed in SEEDS:
        for text in METHODS:
            for arm in ARMS:
                yield f"{text}/{arm}/{seed}", partial(measure, text, arm, seed)


def measure(text: str, arm: str, seed: int, config: FitConfig = CONFIG) -> dict[str, Any]:
    """One run: the share of dead latents over training; of the latents drawn anew how many fired soon; the scores."""
    source, dead, fired = TaskSource(task("lrb/nano", seed=seed)), list[float](), list[list[int]]()

    def look(run: Run, entry: Mapping[str, float]) -> None:
        dead.append(float(run.tracker.dead.float().mean()))
        if Watched.drawn is not None and run.step % PLAN["every"] == SOON:  # as many steps after the draw
            soon = run.tracker.since[Watched.drawn] < SOON * config.batch_size
            fired.append([int(soon.sum()), soon.numel()])
            Watched.drawn = None

    made = replace(method(text), init=replace(method(text).init, encoder="random"))
    made = with_resampling(made, Watched(**PLAN)) if arm == ARMS[1] else made  # type: ignore[arg-type]
    Watched.drawn = None
    model = fit(made, source, N_Q, replace(config, seed=seed), callbacks=[look]).model
    scores = evaluate_model(model, source, source.task.scored(0))
    recovered = scores["M_GT"]["0.95"] if "M_GT" in scores else scores["decoder_cosine"]["M_GT"]["0.95"]
    numbers = {name: float(scores[name]) for name in ("fvu", "l0", "dead")} | {"recovered": float(recovered)}
    return {"dead": dead, "fired": fired, "scores": numbers}


def page() -> None:
    """Fill the part of the page and draw its figure."""
    record = stored("revival/nano")
    text = "Not run yet."
    if record:
        write_figure(FIGURE, _figure(record), "Share of dead latents over training, with and without resampling")
        text = f"![Dead latents over training](../figures/{FIGURE.name})\n\n{_table(record)}"
    fill(PAGE, {"revival": text})


def _of(record: Mapping[str, Any], text: str, arm: str) -> list[dict[str, Any]]:
    return [run for key, run in record["runs"].items() if key.startswith(f"{text}/{arm}/")]


def _table(record: Mapping[str, Any]) -> str:
    numbers = ("dead at the end", "silent", "FVU", "against none", "M_GT")
    rows: list[Sequence[object]] = [("method", "arm", "drawn anew", f"fire within {SOON} steps", *numbers)]
    for text in METHODS:
        for arm in ARMS:
            runs = _of(record, text, arm)
            if runs:
                rows.append((f"`{text}`", arm, *_events(runs), *_numbers(runs, _of(record, text, ARMS[0]))))
    worlds = len(_of(record, METHODS[0], ARMS[0]))
    return f"{table(rows, numbers=True)}\n\n{worlds} worlds; ± is half a 95 % t interval; {provenance([record])}."


def _events(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How many latents were drawn anew in a run, and which share of all these fired soon."""
    soon, drawn = np.array([event for run in runs for event in run["fired"]] or [[0, 0]]).sum(0)
    return (f"{drawn / len(runs):.0f}", f"{soon / drawn:.3f}") if drawn else ("-", "-")


def _numbers(runs: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> list[str]:
    """Shares, FVU, what it is less that without a remedy in the same world, and the share of features recovered."""
    dead = interval(run["dead"][-1] for run in runs).text()
    silent, fvu, recovered = (interval(run["scores"][n] for run in runs).text() for n in ("dead", "fvu", "recovered"))
    less = interval(run["scores"]["fvu"] - other["scores"]["fvu"] for run, other in zip(runs, plain, strict=True))
    return [dead, silent, fvu, "-" if runs == plain else less.text(sign=True), recovered]


def _figure(record: Mapping[str, Any]) -> Figure:
    """One panel for each method, one line for each arm."""
    figure, axes = panels(len(METHODS), 2.6)
    for axis, text in zip(axes, METHODS, strict=True):
        for arm, colour in zip(ARMS, PALETTE, strict=False):
            series = np.array([run["dead"] for run in _of(record, text, arm)])
            steps = np.linspace(0, CONFIG.steps, series.shape[1])
            axis.plot(steps, series.mean(0), color=colour, linewidth=1.2, label=arm)
            axis.fill_between(steps, series.min(0), series.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.set(xlabel="step", title=text.partition("(")[0], ylim=(0, 1))
        plain_axes(axis)
    axes[0].set_ylabel("share of latents that are dead")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure

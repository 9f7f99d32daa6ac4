"""Discovered anchors as a model before any training, against the trained runs of table 1.

Where anchors alone hold every feature, no dictionary can be better; what training adds is an encoder. The record
says how much: what a model of the anchors alone leaves of held-out rows, with the encoder that training starts from
and with a solver in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem import FitConfig
from monosem.bench import EVAL_ROWS, TaskSource, discovered_anchors, evaluate_model
from monosem.dictionary import reconstruct, stagewise_pursuit
from monosem.report import interval, table
from monosem.train import fit
from studies.engine.bench import BenchRun
from studies.engine.cells import Results
from studies.engine.computed import Computed
from studies.engine.records import Record
from studies.engine.scale import SCALES, Scale
from studies.engine.study import Entry, Study
from studies.paper import table1

_ARM = "ours+discovered"
_STILL = 1e-30
"""A learning rate at which float32 weights keep their bits; only BatchTopK's threshold, which is counted, moves."""
_STEPS = 20


def compute(folder: Path, config: FitConfig) -> dict[str, Any]:
    """Every method in every world of table 1 at the paper's size; the folder keeps the anchors."""
    torch.set_num_threads(1)
    runs = [entry.run for entry in table1.STUDY.entries(SCALES["paper"]) if entry.arm == _ARM]
    return {"rows": EVAL_ROWS, "runs": [measure(run, folder) for run in runs if isinstance(run, BenchRun)]}


def measure(run: BenchRun, folder: Path) -> dict[str, Any]:
    """FVU and L0, over rows no run trained on, of a model that holds the discovered anchors and nothing else.

    `start`: encoder rows p, decoder columns r, the method's own activation, as training starts. `solver`: x_p coded
    on p by stagewise pursuit to a relative residual of .1, x_r from the same codes on r.
    """
    source = TaskSource(run.task_value)
    anchors = discovered_anchors(source, folder)
    config = replace(run.config, steps=_STEPS, lr=_STILL)
    model = fit(run.built, source, anchors.k, config, anchors).model
    moved = float((model.W_D.detach() - anchors.r).abs().max())
    assert moved < 1e-6, f"an untrained decoder moved by {moved}"
    scores = evaluate_model(model, source, source.task.scored(run.held_out))
    return {
        "method": run.method,
        "world": run.seed,
        "anchors": anchors.k,
        "start": {name: scores[name] for name in ("fvu", "l0")},
        "solver": _solved(source, anchors.p, anchors.r),
    }


def _solved(source: TaskSource, p: Tensor, r: Tensor) -> dict[str, float]:
    x_p, x_r = source.pair(source.held_out(EVAL_ROWS))
    norms = p.norm(dim=0)
    code, _ = stagewise_pursuit(x_p, p / norms, tol=0.1)
    left = x_r - reconstruct(code, r / norms)
    return {"fvu": float(left.square().sum() / (x_r - x_r.mean(0)).square().sum()), "l0": code.at.nnz / code.batch}


def section(untrained: Record, trained: Results) -> str:
    """The table for the page of table 1: the anchors alone against table 1's runs, paired by world."""
    runs = {(row["method"], row["world"]): row for row in untrained["runs"]}
    lines, better = [_HEAD], 0
    for name, scores in _trained(trained).items():
        both = [(runs[key], value) for key, value in scores.items() if key in runs]
        if not both:
            continue
        before, solved = ([run[part] for run, _ in both] for part in ("start", "solver"))
        after = [value for _, value in both]
        change = interval(late["fvu"] - early["fvu"] for early, late in zip(before, after, strict=True))
        better += change.half is not None and change.mean + change.half < 0
        cells = (*_pair(before), *_pair(after), change.text(sign=True), *_pair(solved))
        lines.append((name, *cells))
    return (
        "## What training adds to discovered anchors\n\n"
        "Where the anchors alone hold every feature, nothing can be better in M_GT. What they lack is an encoder. "
        "*Anchors alone* is a model of the anchors and no other latent, as training starts: encoder rows p, decoder "
        "columns r, biases as they start, the method's own activation. *A solver* codes the same rows on the same "
        "anchors by pursuit to a tenth of a row. FVU over held-out rows, paired by world; the trained models have "
        f"{trained.scale.base.n_q} latents. Training lowers FVU in {better} of {len(lines) - 1} rows (interval below "
        f"0).\n\n{table(lines)}\n\n    python -m studies untrained --scale paper --fresh"
    )


_HEAD: tuple[str, ...] = (
    "method",
    "anchors alone: FVU",
    "L0",
    "after training: FVU",
    "L0",
    "FVU, change",
    "a solver: FVU",
    "L0",
)


def _pair(scores: Sequence[Mapping[str, float]]) -> tuple[str, str]:
    """FVU and L0 over the worlds."""
    return interval(one["fvu"] for one in scores).text(), interval(one["l0"] for one in scores).text(1)


def _trained(results: Results) -> Mapping[str, Mapping[tuple[str, int], Mapping[str, float]]]:
    """FVU and L0 of table 1's runs with discovered anchors, by row, method and world."""
    scores: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for entry, record in results.outcomes:
        if entry.arm == _ARM and record is not None:
            values = {name: record["metrics"][name]["value"] for name in ("fvu", "l0")}
            scores.setdefault(entry.row, {})[entry.run.method, entry.run.seed] = values
    return scores


def _runs(scale: Scale) -> Iterator[Entry]:
    yield Entry("untrained", "", Computed("untrained", compute, below="."))


STUDY = Study(
    "untrained",
    "What training adds to discovered anchors",
    _runs,
    says=lambda results: f"{sum(len(record['runs']) for record in results.records)} models measured.",
    tables=lambda results: (),
    refused=dict.fromkeys(("nano", "mini", "mini-hard"), "it measures table 1's models of the paper's size; use paper"),
    seeds=(0,),
    packed="other",
)

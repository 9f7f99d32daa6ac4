"""Discovered anchors as a model before any training, beside the runs of table 1: python -m studies.untrained [FOLDER].

Where anchors alone hold every feature, no dictionary can be better; what training adds is an encoder. The record
says how much: what a model of the anchors alone leaves of held-out rows, with the encoder that training starts from
and with a solver in its place. FOLDER keeps the anchors (default runs/untrained).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.bench.anchor_sets import discovered_anchors
from monosem.bench.records import environment
from monosem.bench.run import Job
from monosem.bench.task_scores import EVAL_ROWS, evaluate_model
from monosem.bench.tasks import TaskSource
from monosem.dictionary.coded import reconstruct
from monosem.dictionary.coding import stagewise_pursuit
from monosem.report.interval import interval
from monosem.train.loop import fit
from studies.bench.base import SCALES, jobs_of
from studies.bench.catalog import STUDIES
from studies.bench.queue import outcomes
from studies.stored import packed, store, stored

NAME = "untrained"
ARM = "ours+discovered"
_STILL = 1e-30
"""A learning rate at which float32 weights keep their bits; only BatchTopK's threshold, which is counted, moves."""
_STEPS = 20


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """FVU and L0, over rows no run trained on, of a model that holds the discovered anchors and nothing else.

    `start`: encoder rows p, decoder columns r, the method's own activation, as training starts. `solver`: x_p coded
    on p by stagewise pursuit to a relative residual of .1, x_r from the same codes on r.
    """
    source = TaskSource(job.task_value)
    anchors = discovered_anchors(source, folder)
    config = replace(job.config, steps=_STEPS, lr=_STILL)
    model = fit(job.built, source, anchors.k, config, anchors).model
    moved = float((model.W_D.detach() - anchors.r).abs().max())
    assert moved < 1e-6, f"an untrained decoder moved by {moved}"
    found = evaluate_model(model, source, source.task.scored(job.held_out))
    return {
        "method": job.method,
        "world": job.seed,
        "anchors": anchors.k,
        "start": {name: found[name] for name in ("fvu", "l0")},
        "solver": _solved(source, anchors.p, anchors.r),
    }


def _solved(source: TaskSource, p: Tensor, r: Tensor) -> dict[str, float]:
    x_p, x_r = source.pair(source.held_out(EVAL_ROWS))
    norms = p.norm(dim=0)
    code, _ = stagewise_pursuit(x_p, p / norms, tol=0.1)
    left = x_r - reconstruct(code, r / norms)
    return {
        "fvu": float(left.square().sum() / (x_r - x_r.mean(0)).square().sum()),
        "l0": code.at.nnz / code.batch,
    }


def section(scale: str = "paper") -> str:
    """The table for the page of table 1; empty where there is no record."""
    record = stored(NAME)
    if record is None:
        return ""
    untrained = {(row["method"], row["world"]): row for row in record["runs"]}
    lines = [
        "| method | anchors alone: FVU | L0 | after training: FVU | L0 | FVU, change | a solver: FVU | L0 |",
        "|" + "---|" * 8,
    ]
    better, rows = 0, 0
    for name, runs in _trained(scale).items():
        both = [(untrained[key], value) for key, value in runs.items() if key in untrained]
        if not both:
            continue
        change = interval(after["fvu"] - before["start"]["fvu"] for before, after in both)
        better, rows = better + (change.half is not None and change.mean + change.half < 0), rows + 1
        cells = [
            interval(before["start"]["fvu"] for before, _ in both).text(),
            interval(before["start"]["l0"] for before, _ in both).text(1),
            interval(after["fvu"] for _, after in both).text(),
            interval(after["l0"] for _, after in both).text(1),
            change.text(sign=True),
            interval(before["solver"]["fvu"] for before, _ in both).text(),
            interval(before["solver"]["l0"] for before, _ in both).text(1),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return (
        "## What training adds to discovered anchors\n\n"
        "Where the anchors alone hold every feature, nothing can be better in M_GT. What they lack is an encoder. "
        "*Anchors alone* is a model of the anchors and no other latent, as training starts: encoder rows p, decoder "
        "columns r, biases as they start, the method's own activation. *A solver* codes the same rows on the same "
        "anchors by pursuit to a tenth of a row. FVU over held-out rows, paired by world; the trained models have "
        f"{SCALES[scale].base.n_q} latents. Training lowers FVU in {better} of {rows} rows (interval below 0).\n\n"
        + "\n".join(lines)
        + "\n\n`python -m studies.untrained`"
    )


def _trained(scale: str) -> Mapping[str, Mapping[tuple[str, int], Mapping[str, float]]]:
    """FVU and L0 of table 1's runs with discovered anchors, by row, method and world."""
    found: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for entry, world, record in outcomes(STUDIES["table1"], SCALES[scale], packed(f"study-{scale}")):
        if entry.arm == ARM and record is not None:
            values = {name: record["metrics"][name]["value"] for name in ("fvu", "l0")}
            found.setdefault(entry.row, {})[entry.job.method, world] = values
    return found


def main(arguments: Sequence[str] = ()) -> None:
    """Measure every method in every world of table 1 at the paper's size."""
    torch.set_num_threads(1)
    folder = Path(arguments[0]) if arguments else Path("runs/untrained")
    scale = SCALES["paper"]
    runs = []
    for entry, job in jobs_of(STUDIES["table1"], scale):
        if entry.arm == ARM:
            runs.append(measure(job, folder))
            print(runs[-1], flush=True)
    record = {
        "command": "python -m studies.untrained",
        "rows": EVAL_ROWS,
        "runs": runs,
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store(NAME, record)


if __name__ == "__main__":
    main(sys.argv[1:])

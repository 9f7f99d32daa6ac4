"""Every method like for like on rows of a network, where no truth is known: the board's methods, trials and seeds.

    monosem harvest --network DIR --read model.layers.3:out --text TEXTS --out ACTS
    python -m studies board_rows stories15m ACTS [METHOD ...]

Rows without outliers, centred, of mean norm sqrt(n). Five learning rates are tried from two seeds, the one of least FVU
on rows of validation is taken, and three other seeds are scored on rows of test. One thread; goes on where it stopped.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monosem import FitConfig, MonosemError, TensorSource, fit, method
from monosem.base import ArgumentError, check
from monosem.bench import Coded, environment, evaluate
from monosem.data import open_rows
from monosem.report import fill, table
from studies.board import FACTORS, METHODS, PAGE, REPORTED, TUNING
from studies.page import provenance
from studies.stored import run_missing, stored

NETWORKS: Mapping[str, str] = {
    "stories15m": "what leaves layer 3 of stories15M",
    "smollm2": "what leaves layer 15 of SmolLM2-135M",
}
L0, N_Q, STEPS, BATCH, LR = 32, 768, 300, 256, 1e-3
ASIDE = 4096
"""Rows of validation, and as many of test."""
DEAR = {"matching pursuit": "32 products with every latent a step: some ten minutes a cell"}
"""Not run, and why."""
OFTEN = 0.1
"""A latent that is active on more than this share of rows is dense."""


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks."""
    check(
        len(words) >= 2, "give a name and a store of rows: python -m studies board_rows stories15m ACTS", ArgumentError
    )
    name, store, *only = words
    check(name in NETWORKS, f"no network {name!r}; known: {', '.join(NETWORKS)}", ArgumentError)
    torch.set_num_threads(1)
    rows = _rows(Path(store))
    about = {"command": f"python -m studies board_rows {name} ACTS", "env": environment(), "shape": list(rows[0].shape)}
    run_missing(f"board/rows-{name}", about, _cells(rows, only or [label for label in METHODS if label not in DEAR]))


def _rows(store: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of training, of validation and of test."""
    source = open_rows(store)
    source.ordinary()
    check(source.set_aside(2 * ASIDE) >= 2, f"{store} has {source.rows} rows; at least 20 are needed", ArgumentError)
    source.normalised()
    most = min(source.rows, STEPS * BATCH)
    order = torch.randperm(source.rows, generator=torch.Generator().manual_seed(0))[:most]
    apart = torch.cat([source.units.both(x, x)[0] for x, _ in source.batches(source.held_out) if source.units])
    return source.take(order)[0], apart[0::2], apart[1::2]


def _cells(
    rows: tuple[Tensor, Tensor, Tensor], labels: Sequence[str]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for label in labels:
        spec = METHODS[label].format(l0=L0, k=L0)
        yield f"{label}/{spec}", partial(_cell, spec, rows)


def _cell(spec: str, rows: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """Trials on rows of validation, then the reported seeds at the best rate on rows of test."""
    began = time.process_time()
    train, validation, test = rows
    trials = {f: [_tried(spec, train, validation, f, seed) for seed in TUNING] for f in FACTORS}
    best = min(trials, key=lambda factor: mean(trials[factor]))
    done = [_run(spec, train, test, best, seed) for seed in REPORTED]
    agreed = mean(_agreement(one[1], other[1]) for one, other in pairwise(done))
    return {
        "lr": best * LR,
        "trials": {f"{factor:.3g}": fvu for factor, fvu in trials.items()},
        "runs": [scores for scores, _ in done],
        "agreement": agreed,
        "cpu_s": time.process_time() - began,
    }


def _tried(spec: str, train: Tensor, rows: Tensor, factor: float, seed: int) -> float:
    """FVU; infinite where the rate is so large that training ends in an error."""
    try:
        return _run(spec, train, rows, factor, seed)[0]["fvu"]
    except MonosemError:
        return math.inf


def _run(spec: str, train: Tensor, rows: Tensor, factor: float, seed: int) -> tuple[dict[str, float], Tensor]:
    """Scores on rows, and the unit columns of the latents that fire on them."""
    config = FitConfig(steps=STEPS, batch_size=BATCH, lr=factor * LR, log_every=STEPS, seed=seed)
    model = fit(method(spec), TensorSource(train), N_Q, config).model
    coded, active = list[Coded](), torch.zeros(N_Q)
    with torch.no_grad():
        for x in torch.split(rows, 1024):
            out = model(x)
            coded.append(Coded(x, out.x_r_hat, out.code))
            active += (out.code.to_dense() != 0).sum(0)
    rates = active / len(rows)
    columns = torch.nn.functional.normalize(model.W_D.detach(), dim=0)[:, rates > 0]
    return evaluate(coded) | {"often": float((rates > OFTEN).float().mean())}, columns


def _agreement(one: Float[Tensor, "d m"], other: Float[Tensor, "d k"]) -> float:
    """Mean cosine of the columns of two dictionaries, one to one; 0 where one is empty."""
    cosine = (one.T @ other).numpy()
    if not cosine.size:
        return 0.0
    return float(cosine[linear_sum_assignment(cosine, maximize=True)].mean())


def page() -> None:
    """Fill the part of docs/board.md."""
    records = {name: record for name in NETWORKS if (record := stored(f"board/rows-{name}")) is not None}
    if not records:
        fill(PAGE, {"rows": "Not run yet."})
        return
    heads = ("FVU", "L0", "dead", "dense", "agreement")
    rows: list[Sequence[object]] = [("method", *(f"{name}: {head}" for name in records for head in heads))]
    rows += [(label, *(cell for record in records.values() for cell in _line(record, label))) for label in METHODS]
    shapes = "; ".join(f"{NETWORKS[n]}, {r['shape'][1]} numbers" for n, r in records.items())
    left = "".join(f" {label} was not run: {why}." for label, why in DEAR.items())
    about = f"{shapes}. {N_Q} latents, {STEPS} steps of {BATCH} rows; one thread; {provenance(records.values())}.{left}"
    fill(PAGE, {"rows": f"{table(rows, numbers=True)}\n\n{about}"})


def _line(record: Mapping[str, Any], label: str) -> list[str]:
    """Means over the reported seeds."""
    run = next((run for key, run in record["runs"].items() if key.startswith(f"{label}/")), None)
    if run is None:
        return ["not run", "", "", "", ""]
    fvu, l0, dead, often = (mean(one[name] for one in run["runs"]) for name in ("fvu", "l0", "dead", "often"))
    return [f"{fvu:.3f}", f"{l0:.1f}", f"{dead:.2f}", f"{often:.3f}", f"{run['agreement']:.2f}"]

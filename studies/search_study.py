"""Alternating search against Adam and anchored Adam, and the certified optima: resumable, one record per part.

python -m studies.search_study certified | small | nano | mini      writes records/search/<part>.json

One thread, float64. Seconds are processor time; the methods take turns in one process, start by start. A run already
in the record is kept. Loss is over the zero dictionary's; recovery is the share of features, without the first
`anchors`, that a live decoder column has at cosine .95.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.base.files import write_json
from monosem.base.seeds import philox
from monosem.bench.records import environment
from monosem.bench.tasks import TASKS, TaskSource, task
from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.basins import matched
from monosem.theory.descent import Descended, Plan, descend, starts
from monosem.theory.instances import draw_problem
from monosem.theory.loss import best_decoder, loss
from monosem.theory.problem import Atoms, Problem
from monosem.theory.search.acs import acs, sampled_acs
from monosem.theory.search.certified import certified_optimum

OUT = Path("records/search")
WORLDS = 1
"""Worlds per size; a larger number adds to the record."""
SIZES: tuple[tuple[int, int, int], ...] = (
    (2, 2, 1),
    (3, 2, 1),
    (3, 2, 2),
    (3, 3, 1),
    (3, 3, 2),
    (4, 2, 1),
    (4, 2, 2),
    (4, 2, 3),
    (4, 2, 4),
)
SIZES += ((4, 3, 1), (4, 3, 3), (4, 3, 4), (4, 3, 2))
SMALL: tuple[tuple[str, Activation, int, int, int], ...] = (
    ("ReLU, n=4 in 2, n_q=2", ReLU(), 4, 2, 2),
    ("ReLU, n=6 in 4, n_q=4", ReLU(), 6, 4, 4),
    ("top-1, n=6 in 4, n_q=4", TopK(1), 6, 4, 4),
    ("top-2, n=6 in 4, n_q=5", TopK(2), 6, 4, 5),
)
Row = dict[str, Any]


def certified() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every size, SAE and transcoder (n_r = 3), ReLU and a threshold; beside it the best of 32 starts of Adam."""

    def one(problem: Problem) -> Row:
        begin = time.process_time()
        found = certified_optimum(problem)
        seconds, zero = time.process_time() - begin, problem.zero_dictionary_loss
        ended = descend(problem, Plan(steps=400, lr=0.03), 32, seed=1).W_E
        adam = min(float(loss(problem, best_decoder(problem, W_E), W_E)) for W_E in ended)
        row = {name: getattr(found, name) for name in ("gap", "complete", "how", "nodes", "columns")}
        return row | {"loss": found.loss / zero, "lower": found.lower / zero, "adam": adam / zero, "seconds": seconds}

    for world in range(WORLDS):
        for n, n_p, n_q in SIZES:
            for name, activation in (("relu", ReLU()), ("jumprelu", JumpReLU(theta=0.3))):
                for n_r in (None, 3):
                    rng = philox(world, "search/certified", n, n_p, n_q, n_r or 0)
                    problem = draw_problem(rng, n, n_p, n_q, n_r, activation)
                    yield f"{n} {n_p} {n_q} {name} {n_r or 'sae'} {world}", lambda p=problem: one(p)  # type: ignore[misc]


def _score(problem: Problem, W_D: Tensor, W_E: Tensor, atoms: Atoms, anchors: int) -> Row:
    dead = (problem.codes(W_E, atoms.x_p) == 0).all(0)
    hit = matched(problem, Descended(W_D[None], W_E[None], torch.zeros(1), dead[None]))[0, anchors:]
    zero = float((atoms.weight * atoms.x_r.square().sum(1)).sum())
    value = float(loss(problem, W_D, W_E, atoms))
    return {"loss": value / zero, "recovered": float(hit.double().mean()), "columns": float(W_D.norm(dim=0).max())}


def _turns(
    problem: Problem, atoms: Atoms, start: tuple[Tensor, Tensor], plan: Plan, anchors: int, exact: bool
) -> dict[str, Row]:
    """ACS, Adam and anchored Adam from one start, one after the other."""
    rows: dict[str, Row] = {}
    begin = time.process_time()
    found = acs(problem, start[1], steps=200) if exact else sampled_acs(problem, start[1], atoms)
    rows["acs"] = {"seconds": time.process_time() - begin, "stop": found.stop, "steps": len(found.history) - 1}
    kkt = found.kkt / problem.zero_dictionary_loss
    rows["acs"] |= {"kkt": kkt if np.isfinite(kkt) else None, "hops": found.hops}
    rows["acs"] |= _score(problem, found.W_D, found.W_E, atoms, anchors)
    for way, k in (("adam", 0), ("anchored", anchors)):
        begin = time.process_time()
        held = Plan(steps=plan.steps, lr=plan.lr, anchors=k)
        ended = descend(problem, held, 1, 0, atoms, (start[0][None], start[1][None]))
        rows[way] = {"seconds": time.process_time() - begin, "steps": plan.steps}
        rows[way] |= _score(problem, ended.W_D[0], ended.W_E[0], atoms, anchors)
    return rows


def small() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Small random SAEs on L~, exact regions; one anchor."""
    for name, activation, n, n_p, n_q in SMALL:
        for world in range(WORLDS):
            problem = draw_problem(philox(world, "search/small", n, n_p, n_q), n, n_p, n_q, None, activation)
            W_D, W_E = starts(problem, 5, world)
            for k in range(5):
                begin = (W_D[k], W_E[k])
                plan = Plan(steps=800, lr=0.02)
                yield (
                    f"{name} | L~ | {world}.{k}",
                    lambda p=problem, s=begin, plan=plan: _turns(p, p.atoms, s, plan, 1, True),  # type: ignore[misc]
                )


def bench(
    name: str, ks: tuple[int, int], rows: int, worlds: int, steps: int
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A task of the bench: L~ over the true features, and sampled rows; ACS by conjugate gradients on both."""
    for world in range(worlds):
        for label in ("L~", f"{rows} rows"):
            for k in ks:

                def one(world: int = world, label: str = label, k: int = k) -> Row:
                    lr = 0.02 if name == "lrb/nano" else 0.05
                    source = TaskSource(task(name, seed=world))
                    n, anchors = TASKS[name].world.n, TASKS[name].anchors
                    order = source.task.anchor_order()
                    W_p, W_r = source.W_p[:, order].double(), source.W_r[:, order].double()
                    problem = Problem(W_p, W_r, torch.ones(n), TopK(k), TASKS[name].n_q)
                    atoms, plan = problem.atoms, Plan(steps=steps, lr=lr)
                    if label != "L~":
                        x_p, x_r = (x.double() for x in source.take(torch.arange(rows)))
                        atoms = Atoms(x_p, x_r, torch.full((rows,), 1 / rows, dtype=torch.float64))
                        plan = Plan(steps=steps // 2, lr=lr)
                    W_D, W_E = starts(problem, 1, world)
                    return _turns(problem, atoms, (W_D[0], W_E[0]), plan, anchors, False)

                yield f"{name}, top-{k} | {label} | {world}", one


PARTS: dict[str, Callable[[], Iterator[tuple[str, Callable[[], Row]]]]] = {
    "certified": certified,
    "small": small,
    "nano": lambda: bench("lrb/nano", (1, 3), 1024, 3, 600),
    "mini": lambda: bench("lrb/mini", (1, 4), 512, WORLDS, 200),
}


def main() -> None:
    """Run what is missing of the parts named (all by default)."""
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        path = OUT / f"{part}.json"
        done = json.loads(path.read_text())["runs"] if path.exists() else {}
        for name, run in PARTS[part]():
            if name not in done:
                done[name] = run()
                head = {"schema": 1, "command": f"python -m studies.search_study {part}", "env": environment()}
                OUT.mkdir(parents=True, exist_ok=True)
                write_json(path, head | {"runs": done})
                print(name, done[name], flush=True)


if __name__ == "__main__":
    main()

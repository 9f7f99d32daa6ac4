"""Alternating search beside Adam and anchored Adam, and certified optima: runs, docs/theory/search.md and its figures.

`python -m studies search [certified | small | nano | mini | atlas]` runs what the records `search/...` lack
and draws the atlas and the basins of anchoring anew. One thread, float64. Seconds are processor time; the
methods are interleaved in one process, start by start. Loss is over the zero dictionary's; recovery is the share of
features, without the first `anchors`, that a live decoder column has at cosine .95.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from monosem import TASKS, Problem, task
from monosem.activations import Activation, JumpReLU, ReLU, TopK
from monosem.base import philox
from monosem.bench import TaskSource, environment
from monosem.report import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    RED,
    fill,
    panels,
    table,
    tidy,
    write_figure,
)
from monosem.theory import (
    Atoms,
    Descended,
    DescentConfig,
    acs,
    atlas,
    basins,
    best_decoder,
    certified_optimum,
    descend,
    draw_directions,
    draw_problem,
    exact_atoms,
    independent,
    loss,
    matched,
    sampled_acs,
    starts,
)
from studies.stored import run_missing, stored

PAGE, FIGURES = Path("docs/theory/search.md"), Path("docs/theory/figures")
WORLDS = 1
"""Worlds per size; a larger number adds to the record."""
_LATENTS = {(2, 2): (1,), (3, 2): (1, 2), (3, 3): (1, 2), (4, 2): (1, 2, 3, 4), (4, 3): (1, 3, 4, 2)}
SIZES = tuple((n, n_p, n_q) for (n, n_p), some in _LATENTS.items() for n_q in some)
"""(n, n_p, n_q) of the certified problems."""
SMALL: tuple[tuple[str, Activation, int, int, int], ...] = (
    ("ReLU, n=4 in 2, n_q=2", ReLU(), 4, 2, 2),
    ("ReLU, n=6 in 4, n_q=4", ReLU(), 6, 4, 4),
    ("top-1, n=6 in 4, n_q=4", TopK(1), 6, 4, 4),
    ("top-2, n=6 in 4, n_q=5", TopK(2), 6, 4, 5),
)
Row = dict[str, Any]
Runs = Iterator[tuple[str, Callable[[], Row]]]


def _certified() -> Runs:
    """Every size, SAE and transcoder (n_r = 3), ReLU and a threshold; beside it the best of 32 starts of Adam."""

    def one(problem: Problem) -> Row:
        begin = time.process_time()
        optimum = certified_optimum(problem)
        seconds, zero = time.process_time() - begin, problem.zero_dictionary_loss
        ended = descend(problem, DescentConfig(steps=400, lr=0.03), 32, seed=1).W_E
        adam = min(float(loss(problem, best_decoder(problem, W_E), W_E)) for W_E in ended)
        row = {name: getattr(optimum, name) for name in ("gap", "complete", "how", "nodes", "columns")}
        losses = {"loss": optimum.loss, "lower": optimum.lower, "adam": adam}
        return row | {name: value / zero for name, value in losses.items()} | {"seconds": seconds}

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


def _interleaved(
    problem: Problem, atoms: Atoms, start: tuple[Tensor, Tensor], plan: DescentConfig, anchors: int, exact: bool
) -> dict[str, Row]:
    """ACS, Adam and anchored Adam from one start, one after the other."""
    rows: dict[str, Row] = {}
    begin = time.process_time()
    search = acs(problem, start[1], steps=200) if exact else sampled_acs(problem, start[1], atoms)
    rows["acs"] = {"seconds": time.process_time() - begin, "stop": search.stop, "steps": len(search.history) - 1}
    kkt = search.kkt / problem.zero_dictionary_loss
    rows["acs"] |= {"kkt": kkt if np.isfinite(kkt) else None, "hops": search.hops}
    rows["acs"] |= _score(problem, search.W_D, search.W_E, atoms, anchors)
    for way, k in (("adam", 0), ("anchored", anchors)):
        begin = time.process_time()
        begun = (start[0][None], start[1][None])
        ended = descend(problem, DescentConfig(steps=plan.steps, lr=plan.lr, anchors=k), 1, 0, atoms, begun)
        rows[way] = {"seconds": time.process_time() - begin, "steps": plan.steps}
        rows[way] |= _score(problem, ended.W_D[0], ended.W_E[0], atoms, anchors)
    return rows


def _small() -> Runs:
    """Small random SAEs on L~, exact regions; one anchor."""
    for name, activation, n, n_p, n_q in SMALL:
        for world in range(WORLDS):
            problem = draw_problem(philox(world, "search/small", n, n_p, n_q), n, n_p, n_q, None, activation)
            W_D, W_E = starts(problem, 5, world)
            for k in range(5):
                begin = (W_D[k], W_E[k])
                plan = DescentConfig(steps=800, lr=0.02)
                yield (
                    f"{name} | L~ | {world}.{k}",
                    lambda p=problem, s=begin, plan=plan: _interleaved(p, p.atoms, s, plan, 1, True),  # type: ignore[misc]
                )


def _bench(name: str, ks: tuple[int, int], rows: int, worlds: int, steps: int) -> Runs:
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
                    atoms, plan = problem.atoms, DescentConfig(steps=steps, lr=lr)
                    if label != "L~":
                        x_p, x_r = (x.double() for x in source.take(torch.arange(rows)))
                        atoms = Atoms(x_p, x_r, torch.full((rows,), 1 / rows, dtype=torch.float64))
                        plan = DescentConfig(steps=steps // 2, lr=lr)
                    W_D, W_E = starts(problem, 1, world)
                    return _interleaved(problem, atoms, (W_D[0], W_E[0]), plan, anchors, False)

                yield f"{name}, top-{k} | {label} | {world}", one


PARTS: dict[str, Callable[[], Runs]] = {
    "certified": _certified,
    "small": _small,
    "nano": lambda: _bench("lrb/nano", (1, 3), 1024, 3, 600),
    "mini": lambda: _bench("lrb/mini", (1, 4), 512, WORLDS, 200),
}


def main(words: Sequence[str] = ()) -> None:
    """Run what is missing of the parts named (all by default)."""
    torch.set_num_threads(1)
    for part in words or (*PARTS, "atlas"):
        if part == "atlas":
            _draw("atlas", atlas_figure(), "Loss by activation pattern, and the share of starts that end there")
            _draw("basins", basins_figure(), "The basin of recovery by number of anchors")
            continue
        about = {"schema": 1, "command": f"python -m studies search {part}", "env": environment()}
        run_missing(f"search/{part}", about, PARTS[part]())


def page() -> None:
    """Fill the page and draw its first figure."""
    fill(PAGE, {"comparison": _comparison(), "stops": _stops(), "certificates": _certificates()})
    _draw("acs", _comparison_figure(), "Loss and recovery of ACS, Adam and anchored Adam, problem by problem")


def _draw(name: str, figure: Figure, label: str) -> None:
    write_figure(FIGURES / f"{name}.svg", figure, label)


WAYS = (("acs", "ACS"), ("adam", "Adam"), ("anchored", "anchored Adam"))


def _runs(*parts: str) -> dict[str, Any]:
    """Runs of some parts by name, as far as they are recorded."""
    return {name: run for part in parts for name, run in (stored(f"search/{part}") or {"runs": {}})["runs"].items()}


def _grouped(runs: dict[str, Any]) -> dict[str, list[Row]]:
    """Runs by problem and loss; worlds and starts together."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for name, row in runs.items():
        groups[name.rpartition(" | ")[0]].append(row)
    return groups


def _number(value: float) -> str:
    """Three digits, or zero where it is."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


def _comparison() -> str:
    """Medians of loss, recovery and time for every problem."""
    rows = [["problem, loss", "runs", *(part for _, way in WAYS for part in (f"{way} loss", "recovered"))]]
    rows[0].append("time, ACS : Adam")
    for name, runs in _grouped(_runs("small", "nano", "mini")).items():
        cells = [name.replace(" | ", ", "), str(len(runs))]
        for way, _ in WAYS:
            cells += [_number(median(r[way]["loss"] for r in runs)), f"{median(r[way]['recovered'] for r in runs):.2f}"]
        rows.append([*cells, f"{median(r['acs']['seconds'] / r['adam']['seconds'] for r in runs):.2g}"])
    return table(rows)


def _stops() -> str:
    """How the runs in exact regions ended, with their residuals and longest columns."""
    rows = [["problem", "zero", "partial minimum", "out of steps", "median residual", "largest", "longest column"]]
    for name, runs in _grouped(_runs("small")).items():
        ends = [r["acs"]["stop"] for r in runs]
        counts = [str(ends.count(kind)) for kind in ("zero", "partial minimum", "steps")]
        kkt = [r["acs"]["kkt"] for r in runs if r["acs"]["kkt"] is not None]
        residuals = [f"{median(kkt):.0e}", f"{max(kkt):.0e}"] if kkt else ["", ""]
        longest = f"{max(r['acs']['columns'] for r in runs):.2g}"
        rows.append([name.partition(" | ")[0], *counts, *residuals, longest])
    return table(rows)


def _certificates() -> str:
    """Certified, per size and activation: how many, the largest gap, time, and how often Adam ended above."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for name, row in _runs("certified").items():
        n, n_p, n_q, kind, *_ = name.split()
        groups[f"({n}, {n_p}, {n_q})", kind].append(row)
    head = ["(n, n_p, n_q)", "activation", "certified", "by", "largest gap", "nodes, at most", "seconds, at most"]
    rows = [[*head, "Adam above"]]
    for (size, kind), runs in groups.items():
        above = sum(r["adam"] > r["loss"] * 1.001 + 1e-6 for r in runs)
        done = f"{sum(r['complete'] for r in runs)} of {len(runs)}"
        most = [f"{max(r['gap'] for r in runs):.0e}", str(max(r["nodes"] for r in runs))]
        most.append(f"{max(r['seconds'] for r in runs):.1f}")
        rows.append([size, kind, done, ", ".join(sorted({r["how"] for r in runs})), *most, f"{above} of {len(runs)}"])
    return table(rows)


def _comparison_figure() -> Figure:
    """Loss and recovery of the three methods, problem by problem."""
    groups = _grouped(_runs("small", "nano", "mini"))
    figure, (left, right) = panels(2, 0.36 * len(groups) + 1.3)
    for k, ((way, label), colour) in enumerate(zip(WAYS, (ORANGE, BLUE, GREEN), strict=True)):
        for axes, key, least in ((left, "loss", 1e-6), (right, "recovered", 0.0)):
            for i, runs in enumerate(groups.values()):
                values = [max(r[way][key], least) for r in runs]
                place = i + 0.22 * (k - 1)
                axes.plot(values, [place] * len(values), "|", color=colour, markersize=6)
                mark = label if i == 0 else None
                axes.plot([median(values)], [place], "o", color=colour, markersize=4, label=mark)
    tidy(
        left,
        "loss / zero dictionary (1e-6 or less at the edge)",
        "",
        "Neither search is reliably lower (dots: medians)",
        legend=False,
    )
    tidy(right, "share of features recovered", "", "")
    left.set_xscale("log")
    for axes in (left, right):
        axes.set_yticks(range(len(groups)), [n.replace(" | ", ", ") for n in groups] if axes is left else [])
        axes.invert_yaxis()
        for i in range(1, len(groups)):
            axes.axhline(i - 0.5, color=GREY, linewidth=0.3)
    return figure


def _similar_features() -> Problem:
    """Four features with positive cosines in three dimensions, top-1, four latents: many traps."""
    W = draw_directions(philox(0, "figure/atlas"), 3, 4) + 0.6
    return Problem(W / W.norm(dim=0), W / W.norm(dim=0), torch.tensor([1.0, 1.2, 0.8, 1.5]), TopK(1), 4)


def _equiangular(n: int, cosine: float) -> Float[Tensor, "n n"]:
    """n unit columns in n dimensions with this cosine between any two: every feature is like every other."""
    gram = (1 - cosine) * torch.eye(n, dtype=torch.float64) + cosine
    root: Tensor = torch.linalg.cholesky(gram).T.contiguous()
    return root


def atlas_figure(runs: int = 64, anchors: int = 1) -> Figure:
    """Loss by pattern, traps marked, with the share of starts that each method sends there."""
    problem = _similar_features()
    shown = [e for e in atlas(problem, runs, anchors) if e.loss == e.loss][:24]
    figure, (top, bottom) = panels(2, 4.6)
    place = np.arange(len(shown))
    zero = problem.zero_dictionary_loss
    colours = {"trap": RED, "saddle": ORANGE}
    verdicts = [entry.verdict if entry.verdict in colours else "other" for entry in shown]
    for verdict in dict.fromkeys(verdicts):
        rows = [i for i, one in enumerate(verdicts) if one == verdict]
        top.barh(rows, [shown[i].loss / zero for i in rows], color=colours.get(verdict, BLUE), label=verdict)
    for k, (way, colour) in enumerate((("adam", BLUE), ("acs", ORANGE), ("anchored", GREEN))):
        bottom.barh(place + 0.27 * (k - 1), [getattr(e, way) for e in shown], 0.26, color=colour, label=way)
    top.set_yticks(place, [e.pattern for e in shown], fontsize=7)
    bottom.set_yticks(place, [""] * len(shown))
    tidy(top, "least L~ met / zero dictionary", "pattern", "Most patterns are traps")
    tidy(
        bottom,
        "share of random starts that end there",
        "",
        f"{runs} starts, {anchors} anchored: few patterns",
    )
    top.invert_yaxis()
    bottom.invert_yaxis()
    return figure


def basins_figure(runs: int = 64, steps: int = 400) -> Figure:
    """The share of features not anchored that a run recovers, by number of anchors, on exact losses (n = 8)."""
    figure, axes = panels(3, 3.6)
    n, ks = 8, (0, 1, 2, 4, 6)
    law = independent(torch.full((n,), 0.1, dtype=torch.float64), at_most=2)
    for axis, cosine in zip(axes, (0.0, 0.4), strict=False):
        W = _equiangular(n, cosine)
        for n_q, colour in zip((6, 8, 12, 16, 24), PALETTE, strict=False):
            problem = Problem(W, W, law.weights, TopK(1), n_q)
            some = [k for k in ks if k < n_q]
            reached = basins(problem, some, plan=DescentConfig(steps=steps, lr=0.03), runs=runs)
            axis.plot(some, [b.features for b in reached], "o-", markersize=3, color=colour, label=f"n_q = {n_q}")
        tidy(axis, "anchored features k", "recovered share of the others", f"L~, top-1, cosines {cosine}")
        axis.set_ylim(-0.03, 1.03)
    W = _equiangular(n, 0.0)
    for (label, activation, l1), colour in zip(
        (("top-2", TopK(2), 0.0), ("ReLU", ReLU(), 0.0), ("ReLU + L1", ReLU(), 0.1)), (BLUE, RED, GREEN), strict=True
    ):
        for n_q, style in ((8, "o--"), (16, "o-")):
            problem = Problem(W, W, law.weights, activation, n_q)
            plan = DescentConfig(steps=steps + 200, lr=0.03, l1=l1)
            reached = basins(problem, (0, 2, 4, 6), exact_atoms(problem, law), plan, runs // 2)
            values = [b.features for b in reached]
            axes[2].plot((0, 2, 4, 6), values, style, markersize=3, color=colour, label=f"{label}, n_q = {n_q}")
    tidy(axes[2], "anchored features k", "recovered share of the others", "L (pairs of features included), cosines 0")
    axes[2].set_ylim(-0.03, 1.03)
    return figure

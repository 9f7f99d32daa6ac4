"""Where recovery is possible: a grid of small worlds, each departing from the easy one in one respect.

python -m studies recovery               every world and every contender that the record lacks, seeds 1000 to 1019
python -m studies recovery calibrate     discovery alone on seeds 0 and 1 of all of them, for its CONFIDENCE
python -m studies recovery develop ...   the named cells or tasks on seed 0; nothing is stored

Worlds are the cells of the grid, the bench's worlds like networks, and these again at a size that nothing was developed
on. A seed is run in all of them before the next, but for that size, which has one for every four of these.

Contenders see the same training rows and nothing else, but for K-SVD and MOD, which are told the number of features
and of active ones, and for plain TopK, which is told k. Recall and precision count each feature once, at |cos| > .95.
Settings of discovery were chosen on seeds below 100. One thread.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import task
from monosem.base import format_call
from monosem.bench import DUPLICATE_COSINE, WORLDS, TaskSource, environment, fit_config, oracle, recall_precision
from monosem.dictionary import CLASSICAL, CONFIDENCE, Discovery, described, discover, fit_background, gain, identified
from monosem.methods import method
from monosem.report import PALETTE, fill, interval, panels, plain_axes, table, write_figure
from monosem.train import fit
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE, FIGURES = Path("docs/recovery.md"), Path("docs/figures")
SEEDS, DEVELOPMENT = range(1000, 1020), (0, 1)
UNSEEN = "n=84, d=42, rows=5200"
"""A size on which nothing was tried before its record was made."""
CENTRE: Mapping[str, Any] = {"n": 24, "d": 12, "rows": 1500, "l0": 1.8}
AXES: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "cosine within clusters of five": (("coherence", (0.0, 0.5, 0.7)),),
    "cosine of all pairs": (("cone", (0.0, 0.4)),),
    "member given its block": (("given", (0.0, 0.4, 0.8)),),
    "noise, dB below": (("db", (None, 10)),),
    "rows": (("rows", (1500, 500)),),
}
_TESTED = ("discover", "ksvd")
CONTENDERS = ("discover", "ksvd", "mod", "topk")
LABELS = dict(zip(CONTENDERS, ("discovery", "K-SVD", "MOD", "plain TopK"), strict=True))


def cells() -> dict[str, str]:
    """The grid by name: the centre, and one axis at a time."""
    named: dict[str, str] = {}
    for ((axis, values),) in AXES.values():
        for value in values:
            changed = dict(CENTRE) | ({} if value in (0.0, None) else {axis: value})
            named[f"{axis}={value}"] = format_call("lrb_grid", changed).replace("_", "/", 1)
    return named


def tasks() -> dict[str, str]:
    """The bench's worlds like networks, but for the one whose features are no directions and the large one."""
    return {name: f"lrb/{name}" for name in WORLDS if name != "network"}


def unseen() -> dict[str, str]:
    """The worlds like networks at the size of `UNSEEN`."""
    return {name: WORLDS[name].replace("world(", f"world({UNSEEN}, ", 1).replace(", )", ")") for name in tasks()}


GROUPS = {"grid": cells, "tasks": tasks, "unseen": unseen}


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks, or some cells on seed 0."""
    torch.set_num_threads(1)
    if words[:1] == ["develop"]:
        every = cells() | tasks()
        for name in words[1:]:
            print(name, _world(every.get(name, name), 0, None), flush=True)
        return
    name = "calibrate" if words[:1] == ["calibrate"] else "worlds"
    about = {"command": f"python -m studies recovery {name * (name == 'calibrate')}".strip(), "env": environment()}
    run_missing(f"recovery/{name}", about, _calibration() if name == "calibrate" else _runs())


Run = tuple[str, Callable[[], dict[str, Any]]]


def _calibration() -> Iterator[Run]:
    for seed in DEVELOPMENT:
        for name, text in (cells() | tasks()).items():
            yield f"{name}/{seed}", partial(_world, text, seed, ())


def _runs() -> Iterator[Run]:
    """Seed by seed; the unseen size has its next seed after every fourth. The centre, on every axis, is run once."""
    once = cache(_world)
    places = [(group, i) for group in GROUPS for i in range(len(SEEDS))]
    for group, i in sorted(places, key=lambda place: 4 * place[1] + 1 if place[0] == "unseen" else place[1]):
        for name, text in GROUPS[group]().items():
            yield f"{group}/{name}/{SEEDS[i]}", partial(once, text, SEEDS[i], None)


def _world(text: str, seed: int, only: tuple[str, ...] | None) -> dict[str, Any]:
    """Every contender on one world."""
    source = TaskSource(task(text, seed=seed))
    x, n = source.take(torch.arange(source.rows or 0))[0], source.task.world.n
    apart = source.held_out(1000).sources[0]
    k = max(2, round(float(source.world.take(torch.arange(len(x)), ()).features.l0.float().mean())))
    law, results = fit_background(x), dict[str, Any]()
    begin = time.process_time()
    result = discover(x, seed=seed)
    results["discover"] = _scores(result.anchors.p, source.W_p, begin) | _agreement(result, source.W_p)
    results["discover"] |= _evidence(result.anchors.p, x, result.offset, source.W_p)
    for name in CONTENDERS[1:] if only is None else only:
        begin = time.process_time()
        D = _learned(name, source, x, n, k, seed)
        model = described(D, x, offset=result.offset)
        results[name] = _scores(D, source.W_p, begin) | {"gain": gain(model, apart, law)}
        results[name] |= _evidence(D, x, result.offset, source.W_p) if name == "ksvd" else {}
    return {"text": text, "seed": seed, "k": k, "oracle_f1": oracle(source, rows=512)["f1"], "results": results}


def _learned(name: str, source: TaskSource, x: Tensor, n: int, k: int, seed: int) -> Tensor:
    if name in CLASSICAL:
        return CLASSICAL[name](x, n, k=k, iterations=30, seed=seed)
    config = fit_config(source.task.name, seed, 500)
    return fit(method(f"topk(k={k + 1})"), source, source.task.n_q, config).model.W_D.detach()


def _scores(D: Tensor, W: Tensor, begin: float) -> dict[str, float]:
    scores = recall_precision(D, W)
    cpu = {"cpu_s": time.process_time() - begin}
    return {name: float(scores[name]) for name in ("atoms", "recall", "precision")} | cpu


def _evidence(D: Tensor, x: Tensor, offset: Tensor, W: Tensor) -> dict[str, Any]:
    """By what the rows identify each atom, and whether it is right."""
    unit = torch.nn.functional.normalize
    right = (unit(D, dim=0).T @ unit(W, dim=0)).abs().amax(1) > DUPLICATE_COSINE
    return {"by": identified(D, x, offset=offset).by, "right": right.int().tolist()}


def _agreement(result: Discovery, W: Tensor) -> dict[str, Any]:
    """What discovery says of itself."""
    assert result.agreement is not None
    kept = recall_precision(result.confident().p, W)
    return {
        "gain": result.gain,
        "outside": result.outside,
        "agreement": [round(v, 4) for v in result.agreement.tolist()],
        "confident": {name: float(kept[name]) for name in ("atoms", "recall", "precision")},
    }


def page() -> None:
    """Fill the page and draw its figures, from the records that there are."""
    record = stored("recovery/worlds")
    parts = dict.fromkeys((*GROUPS, "reliability", "evidence"), "Not run yet.")
    if record:
        parts |= {group: _table(record, group) for group in GROUPS}
        parts["grid"] = f"![Recall along five axes](figures/recovery.svg)\n\n{parts['grid']}"
        parts |= {"reliability": _reliability(record), "evidence": _evidence_table(record)}
        write_figure(FIGURES / "recovery.svg", _figure(record), "Recall of every contender along five axes of the grid")
    fill(PAGE, parts)


def _of(record: Mapping[str, Any], group: str, name: str) -> list[dict[str, Any]]:
    """The runs of one world, of the seeds that every world of its group has."""
    runs, names = record["runs"], GROUPS[group]()
    whole = [seed for seed in SEEDS if all(f"{group}/{one}/{seed}" in runs for one in names)]
    return [runs[f"{group}/{name}/{seed}"] for seed in whole]


def _table(record: Mapping[str, Any], group: str) -> str:
    head = ("world", "worlds", "oracle F1", "discovery: recall", "precision", "confident only", "gain")
    rows: list[Sequence[object]] = [(*head, *(f"{LABELS[c]}: recall" for c in CONTENDERS[1:]))]
    every = {name: runs for name in GROUPS[group]() if (runs := _of(record, group, name))}
    if not every:
        return "Not run yet."
    rows += [_row(name, runs) for name, runs in every.items()]
    from_where = provenance([record, *(record.get("older", []) if group != "unseen" else [])])
    return f"{table(rows, numbers=True)}\n\n{_verdict(every)}\n\nOne thread; {from_where}."


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> Sequence[object]:
    """Means over the worlds of a cell, with half the 95 % t interval."""
    own = [run["results"]["discover"] for run in runs]
    kept = [one["confident"] for one in own]
    both = f"{mean(k['recall'] for k in kept):.2f}, {mean(k['precision'] for k in kept):.2f}"
    numbers = [interval(one[v] for one in own).text(2) for v in ("recall", "precision")]
    others = [f"{mean(run['results'][c]['recall'] for run in runs):.2f}" for c in CONTENDERS[1:]]
    ceiling = f"{mean(run['oracle_f1'] for run in runs):.2f}"
    return (name, len(runs), ceiling, *numbers, both, f"{mean(one['gain'] for one in own):.1f}", *others)


def _means(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Discovery's recall and precision, and the recall of the best other contender, over the seeds of a world."""
    own = [mean(run["results"]["discover"][v] for run in runs) for v in ("recall", "precision")]
    return own[0], own[1], max(mean(run["results"][c]["recall"] for run in runs) for c in CONTENDERS[1:])


def _verdict(every: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Where discovery is as good as it should be: .95 where the best other reaches .9, nowhere .05 below the best."""
    means = {name: _means(runs) for name, runs in every.items()}
    possible = [name for name, (_, _, best) in means.items() if best >= 0.9]
    below = [name for name in possible if min(means[name][:2]) < 0.95]
    behind = [f"{name} ({best - recall:.2f})" for name, (recall, _, best) in means.items() if recall < best - 0.05]
    return (
        f"Where the best other reaches .9 ({len(possible)} of {len(every)} worlds), discovery's recall and precision "
        f"are .95 or more in all{' but ' * bool(below)}{', '.join(below)}. Its recall is more than .05 "
        f"below the best other's in {', '.join(behind) or 'none'}."
    )


def _reliability(record: Mapping[str, Any]) -> str:
    """Share of atoms that were right, by agreement, over all worlds of the record, each once."""
    once = {(run["text"], run["seed"]): run["results"]["discover"] for run in record["runs"].values()}
    own = list(once.values())
    agreed = np.concatenate([one["agreement"] for one in own])
    right = np.concatenate([one["right"] for one in own])
    rows: list[Sequence[object]] = [("agreement", "called", "confidence printed", "atoms", "right here")]
    top, error = np.inf, 0.0
    for least, confidence, called in CONFIDENCE:
        inside = (agreed >= least) & (agreed < top)
        share = float(right[inside].mean()) if inside.any() else float("nan")
        error += inside.sum() * abs(share - confidence) / len(agreed) if inside.any() else 0.0
        words = f"{least:g} and more" if np.isinf(top) else f"{max(least, 0):g} to {top:g}"
        rows.append((words, called, f"{confidence:.2f}", int(inside.sum()), f"{share:.2f}"))
        top = least
    return f"{table(rows, numbers=True)}\n\nExpected error of the confidence: {error:.3f}, over {len(own)} worlds."


def _evidence_table(record: Mapping[str, Any]) -> str:
    """How many atoms the rows identify, and by what, and how many of these are right; each world once."""
    tested = [run for run in record["runs"].values() if "by" in run["results"]["ksvd"]]  # older runs were not
    once = {(run["text"], run["seed"]): run["results"] for run in tested}
    head = ("evidence", *(f"{LABELS[c]}: {v}" for c in _TESTED for v in ("atoms", "right")))
    rows = [(by, *sum((_judged(once.values(), c, by) for c in _TESTED), ())) for by in ("solo", "flats", "open")]
    return f"{table([head, *rows], numbers=True)}\n\n{len(once)} worlds."


def _judged(every: Iterable[Mapping[str, Any]], contender: str, by: str) -> tuple[object, ...]:
    """How many atoms have an evidence, and which share of them is right."""
    own = [results[contender] for results in every]
    right = [r for one in own for b, r in zip(one["by"], one["right"], strict=True) if b == by]
    return len(right), f"{mean(right):.3f}" if right else "-"


def _figure(record: Mapping[str, Any]) -> Figure:
    """One panel per axis; the oracle's F1 of codes in black."""
    figure, axes = panels(len(AXES), 2.6)
    for axis, (what, ((name, values),)) in zip(axes, AXES.items(), strict=True):
        runs = [_of(record, "grid", f"{name}={value}") for value in values]
        places = [i for i, some in enumerate(runs) if some]
        for contender, colour in zip(CONTENDERS, PALETTE, strict=False):
            heights = [mean(run["results"][contender]["recall"] for run in runs[i]) for i in places]
            axis.plot(places, heights, "o-", markersize=3, linewidth=1.2, color=colour, label=LABELS[contender])
        ceiling = [mean(run["oracle_f1"] for run in runs[i]) for i in places]
        axis.plot(places, ceiling, ":", color="black", label="oracle F1")
        axis.set_xticks(range(len(values)), ["none" if v is None else f"{v:g}" for v in values])
        axis.set(xlabel=what, ylim=(-0.03, 1.05))
        plain_axes(axis)
    axes[0].set_ylabel("recall at |cos| > .95")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    return figure

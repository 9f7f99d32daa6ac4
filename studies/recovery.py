"""Where recovery is possible: a grid of small worlds, each departing from the easy one in one respect.

python -m studies recovery               every cell and every contender that the record lacks, seeds 1000 and up
python -m studies recovery tasks         the bench's worlds like networks, the same way
python -m studies recovery discover      discovery alone on all of them, in place of what the records above say of it
python -m studies recovery calibrate     discovery alone on seeds 0 and 1 of all of them, for its CONFIDENCE
python -m studies recovery develop ...   the named cells or tasks on seed 0; nothing is stored

Contenders see the same training rows and nothing else, but for K-SVD and MOD, which are told the number of features
and of active ones, and for plain TopK, which is told k. Recall and precision count each feature once, at |cos| > .95.
Settings of discovery were chosen on seeds below 100. One thread.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from monosem.dictionary import CLASSICAL, CONFIDENCE, Discovery, described, discover, fit_background, gain
from monosem.methods import method
from monosem.report import PALETTE, fill, panels, plain_axes, table, write_figure
from monosem.train import fit
from studies.page import provenance
from studies.stored import run_missing, stored

PAGE, FIGURES = Path("docs/recovery.md"), Path("docs/figures")
SEEDS, DEVELOPMENT = (1000, 1001), (0, 1)
CENTRE: Mapping[str, Any] = {"n": 24, "d": 12, "rows": 1500, "l0": 1.8}
AXES: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "cosine within clusters of five": (("coherence", (0.0, 0.5, 0.7)),),
    "cosine of all pairs": (("cone", (0.0, 0.4)),),
    "member given its block": (("given", (0.0, 0.4, 0.8)),),
    "noise, dB below": (("db", (None, 10)),),
    "rows": (("rows", (1500, 500)),),
}
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


def main(words: Sequence[str] = ()) -> None:
    """Run what the record lacks, or some cells on seed 0."""
    torch.set_num_threads(1)
    if words[:1] == ["develop"]:
        every = cells() | tasks()
        for name in words[1:]:
            print(name, _world(every.get(name, name), 0, None), flush=True)
        return
    if words[:1] in (["calibrate"], ["discover"]):
        about = {"command": f"python -m studies recovery {words[0]}", "env": environment()}
        seeds = DEVELOPMENT if words[0] == "calibrate" else SEEDS
        run_missing(f"recovery/{words[0]}", about, _runs(cells() | tasks(), seeds, ()))
        record = stored(f"recovery/{words[0]}")
        assert record is not None
        print(_reliability([record]))
        return
    name, chosen = ("tasks", tasks()) if words[:1] == ["tasks"] else ("grid", cells())
    about = {"command": f"python -m studies recovery {name if name == 'tasks' else ''}".strip(), "env": environment()}
    run_missing(f"recovery/{name}", about, _runs(chosen))


def _runs(
    chosen: Mapping[str, str], seeds: Sequence[int] = SEEDS, only: Sequence[str] | None = None
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    made: dict[tuple[str, int], dict[str, Any]] = {}

    def one(text: str, seed: int) -> dict[str, Any]:
        if (text, seed) not in made:  # the centre stands on every axis
            made[text, seed] = _world(text, seed, only)
        return made[text, seed]

    for seed in seeds:
        for name, text in chosen.items():
            yield f"{name}/{seed}", lambda text=text, seed=seed: one(text, seed)  # type: ignore[misc]


def _world(text: str, seed: int, only: Sequence[str] | None) -> dict[str, Any]:
    """Every contender on one world."""
    source = TaskSource(task(text, seed=seed))
    x, n = source.take(torch.arange(source.rows or 0))[0], source.task.world.n
    apart = source.held_out(1000).sources[0]
    k = max(2, round(float(source.world.take(torch.arange(len(x)), ()).features.l0.float().mean())))
    law, results = fit_background(x), dict[str, Any]()
    begin = time.process_time()
    result = discover(x, seed=seed)
    results["discover"] = _scores(result.anchors.p, source.W_p, begin) | _agreement(result, source.W_p)
    for name in CONTENDERS[1:] if only is None else only:
        begin = time.process_time()
        D = _learned(name, source, x, n, k, seed)
        model = described(D, x, offset=result.offset)
        results[name] = _scores(D, source.W_p, begin) | {"gain": gain(model, apart, law)}
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


def _agreement(result: Discovery, W: Tensor) -> dict[str, Any]:
    """What discovery says of itself, and for every atom whether it is right."""
    right = (result.anchors.p.T @ torch.nn.functional.normalize(W, dim=0)).abs().amax(1) > DUPLICATE_COSINE
    assert result.agreement is not None
    kept = recall_precision(result.confident().p, W)
    return {
        "gain": result.gain,
        "outside": result.outside,
        "agreement": [round(v, 4) for v in result.agreement.tolist()],
        "right": right.int().tolist(),
        "confident": {name: float(kept[name]) for name in ("atoms", "recall", "precision")},
    }


def page() -> None:
    """Fill the page and draw its figures, from the records that there are."""
    newer = stored("recovery/discover")
    grid, special = (_with_discovery(stored(f"recovery/{name}"), newer) for name in ("grid", "tasks"))
    parts = dict.fromkeys(("grid", "tasks", "reliability"), "Not run yet.")
    if grid:
        parts["grid"] = f"![Recall along five axes](figures/recovery.svg)\n\n{_table(grid, cells())}"
        write_figure(FIGURES / "recovery.svg", _figure(grid), "Recall of every contender along five axes of the grid")
    if special:
        parts["tasks"] = _table(special, tasks())
    if grid or special:
        parts["reliability"] = _reliability([record for record in (grid, special) if record])
    fill(PAGE, parts)


def _with_discovery(record: Any, newer: Mapping[str, Any] | None) -> Any:
    """A record whose results of discovery are those of a later run, where there is one."""
    if record is None or newer is None:
        return record
    again = {key: run["results"] for key, run in newer["runs"].items()}
    runs = {key: run | {"results": run["results"] | again.get(key, {})} for key, run in record["runs"].items()}
    return record | {"runs": runs, "newer": newer}


def _of(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [run for key, run in record["runs"].items() if key.rpartition("/")[0] == name]


def _table(record: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    head = ("world", "worlds", "oracle F1", "discovery: recall", "precision", "confident only", "gain")
    rows: list[Sequence[object]] = [(*head, *(f"{LABELS[c]}: recall" for c in CONTENDERS[1:]))]
    rows += [_row(name, runs) for name in chosen if (runs := _of(record, name))]
    from_where = provenance([record, *([record["newer"]] if "newer" in record else [])])
    return f"{table(rows, numbers=True)}\n\nOne thread; {from_where}."


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> Sequence[object]:
    """Means over the worlds of a cell."""
    own = [run["results"]["discover"] for run in runs]
    kept = [one["confident"] for one in own]
    both = f"{mean(k['recall'] for k in kept):.2f}, {mean(k['precision'] for k in kept):.2f}"
    numbers = [f"{mean(one[v] for one in own):.2f}" for v in ("recall", "precision")]
    others = [f"{mean(run['results'][c]['recall'] for run in runs):.2f}" for c in CONTENDERS[1:]]
    ceiling = f"{mean(run['oracle_f1'] for run in runs):.2f}"
    return (name, len(runs), ceiling, *numbers, both, f"{mean(one['gain'] for one in own):.1f}", *others)


def _reliability(records: Sequence[Mapping[str, Any]]) -> str:
    """Share of atoms that were right, by agreement, over all worlds of the records."""
    own = [run["results"]["discover"] for record in records for run in record["runs"].values()]
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


def _figure(record: Mapping[str, Any]) -> Figure:
    """One panel per axis; the oracle's F1 of codes in black."""
    figure, axes = panels(len(AXES), 2.6)
    for axis, (what, ((name, values),)) in zip(axes, AXES.items(), strict=True):
        runs = [_of(record, f"{name}={value}") for value in values]
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

"""Classical dictionary learning on the bench, and solvers on trained dictionaries: runs, docs/classical.md, its figure.

python -m studies classical                 worlds 0 to 2 with the settings below, then the amortisation gaps
python -m studies classical sweep           the settings' sweep, on worlds 100 and 101
python -m studies classical paper NAME ...  one run per learner at the paper's size, 20000 rows

A run that is already in a record `classical/...` is kept. One thread.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from monosem import WorldSpec, task
from monosem.bench import (
    DUPLICATE_COSINE,
    Comparison,
    Independent,
    Task,
    TaskSource,
    environment,
    fit_config,
    flatten,
    random_rows,
    read_records,
    recipe,
    score,
)
from monosem.dictionary import CLASSICAL, discover, model_amortisation
from monosem.report import BLUE, GREY, INK, RED, Interval, fill, interval, plain_axes, table, write_figure
from monosem.train import fit
from studies.page import provenance
from studies.stored import packed, run_missing, stored

SEEDS, TUNING = (0, 1, 2), (100, 101)
SQUARE = Task("classical/square", 1, WorldSpec(64, (96,), 0.1, Independent(0.95), rows=10_000), n_q=128, anchors=0)
ROWS = {"lrb/mini": 10_000, "lrb/mini-hard": 1400, SQUARE.name: 10_000, "lrb/paper": 20_000}
HELD_OUT = {"lrb/mini-hard": 60}
"""Features set aside, as in the runs of SDL methods that stand beside; elsewhere none."""
PASSES = {"ksvd": 30, "mod": 30, "itkrm": 60, "online": 5, "batch_lasso": 10, "fast_ica": 200}
_ATOMS = {"lrb/mini": (1, 2, 3), "lrb/mini-hard": (3, 4, 5, 6), SQUARE.name: (2, 3, 4)}
_GREEDY, _LASSO = ("ksvd", "mod", "itkrm"), ("online", "batch_lasso")
GRID: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    name: {
        **dict.fromkeys(_GREEDY, tuple({"k": k} for k in counts)),
        **dict.fromkeys(_LASSO, tuple({"l1": l1} for l1 in (0.1, 0.2, 0.4))),
        "fast_ica": ({},),
    }
    for name, counts in _ATOMS.items()
}
_BEST = {"lrb/mini": (2, 2, 2, 0.4, 0.4), "lrb/mini-hard": (5, 5, 3, 0.4, 0.2), SQUARE.name: (3, 2, 2, 0.4, 0.4)}
CHOSEN: dict[str, dict[str, dict[str, Any]]] = {
    name: {learner: {"l1" if learner in _LASSO else "k": v} for learner, v in zip(_GREEDY + _LASSO, best, strict=True)}
    for name, best in _BEST.items()
}
CHOSEN[SQUARE.name]["fast_ica"] = {}
"""Of GRID, what recovered most on worlds 100 and 101 (record `classical/sweep`), sizes n and 2 n together."""


def _world(name: str, seed: int) -> TaskSource:
    """A task of the bench, or the square one, in the world of one seed."""
    return TaskSource(SQUARE.with_seed(seed) if name == SQUARE.name else task(name, "sae", seed))


def _sizes(learner: str, source: TaskSource) -> list[int]:
    """n atoms, as if n were known, and 2 n, or as many as the learner can find."""
    n, width = source.task.world.n, source.p_widths[0]
    if learner != "fast_ica":
        return [n, 2 * n]
    return [n, min(2 * n, width)] if n <= width else []


def _learned(source: TaskSource, learner: str, n_atoms: int, setting: dict[str, Any], progress: bool = False) -> Any:
    """One run: the scores that a model gets, the share of atoms that are features, CPU seconds, and chance."""
    name, seed = source.task.name, source.task.world.seed
    x = source.take(torch.arange(ROWS[name]))[0]
    start = time.process_time()
    report = (lambda share, text: print(f"{share:.0%} {text}", flush=True)) if progress else None
    D = CLASSICAL[learner](x, n_atoms, **setting, iterations=PASSES[learner], seed=seed, progress=report)
    about = {"learner": learner, "setting": setting, "iterations": PASSES[learner]}
    return about | _scored(source, D, x.shape[0], time.process_time() - start)


def _discovered(source: TaskSource) -> Any:
    """The directions of `discover` in a task's rows, scored as a learner's."""
    rows, start = ROWS[source.task.name], time.process_time()
    D = discover(source.take(torch.arange(rows))[0], seed=source.task.world.seed).anchors.p
    return {"learner": "discover"} | _scored(source, D, rows, time.process_time() - start)


def _scored(source: TaskSource, D: Tensor, rows: int, seconds: float) -> dict[str, Any]:
    """What is measured of a learned dictionary."""
    name, seed, (width, n_atoms) = source.task.name, source.task.world.seed, D.shape
    features = source.task.scored(HELD_OUT.get(name, 0))
    best = Comparison(D.T, D, source.W_p, source.W_r).best["decoder_cosine"]
    chance = random_rows(n_atoms, width, seed, "chance/decoder").T
    return {
        "task": name,
        "n_atoms": n_atoms,
        "seed": seed,
        "rows": rows,
        "seconds": seconds,
        "metrics": flatten(score(D.T, D, source.W_p, source.W_r, features=features))[0]
        | {"atoms_right": float((best.latent_similarity > DUPLICATE_COSINE).double().mean())},
        "chance": flatten(score(chance.T, chance, source.W_p, source.W_r, features=features))[0],
    }


def _run_missing(name: str, command: str, about: dict[str, Any], runs: Iterable[tuple[str, Callable[[], Any]]]) -> None:
    """Run what the record `classical/NAME` lacks; every run has its environment."""
    env = environment() | {"scikit_learn": version("scikit-learn")}
    about |= {"command": f"python -m studies classical {command}".strip(), "env": env}
    with_env = ((key, lambda run=run: run() | {"env": env}) for key, run in runs)
    run_missing(f"classical/{name}", about, with_env)


def _world_runs(
    name: str, seeds: Sequence[int], settings: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every learner, size and setting in the worlds of some seeds."""
    for seed in seeds:
        source = _world(name, seed)
        for learner in CLASSICAL:
            for n_atoms in _sizes(learner, source):
                for setting in settings[learner]:
                    key = f"{name} {learner} {n_atoms} {json.dumps(setting)} {seed}"
                    yield key, lambda s=source, w=learner, n=n_atoms, v=setting: _learned(s, w, n, v)  # type: ignore[misc]


def _gap_runs(name: str, methods: Sequence[str] = ("topk", "relu_l1")) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Models of the bench's defaults, their encoders beside solvers, on 256 rows they were not trained on."""

    def run(method: str, seed: int) -> Any:
        source = _world(name, seed)
        spec, config = recipe(name, method), replace(fit_config(name, seed), threads=1)
        model = fit(spec, source, source.task.n_q, config).model
        truth = source.held_out(256)
        gaps = model_amortisation(model, *source.pair(truth), source.W_r, truth.features.dense() > 0)
        return {"method": spec, "seed": seed, "steps": config.steps} | gaps

    for method in methods:
        for seed in SEEDS:
            yield f"{method} {seed}", lambda m=method, s=seed: run(m, s)  # type: ignore[misc]


def main(words: Sequence[str] = ()) -> None:
    """Run what is missing, one run after the other."""
    import sklearn.decomposition  # noqa: F401  # loaded before its threads are limited
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(1)
    threadpool_limits(1)
    if words[:1] == ["paper"]:
        source = _world("lrb/paper", 0)
        wanted = ((who, lambda w=who: _learned(source, w, 1000, {"k": 12}, progress=True)) for who in words[1:])
        _run_missing("paper", "paper", {"seeds": [0]}, wanted)
        return
    for name in WORLDS:
        task_name = SQUARE.name if name == "square" else f"lrb/{name}"
        tasks = {task_name: {"version": _world(task_name, 0).task.version, "held_out": HELD_OUT.get(task_name, 0)}}
        if words[:1] == ["sweep"]:
            before = (stored("classical/sweep") or {}).get("tasks", {})
            about = {"seeds": list(TUNING), "tasks": before | tasks}
            _run_missing("sweep", "sweep", about, _world_runs(task_name, TUNING, GRID[task_name]))
        else:
            settings = {learner: (setting,) for learner, setting in CHOSEN[task_name].items()}
            about = {"seeds": list(SEEDS), "tasks": tasks}
            _run_missing(name, "", about, _world_runs(task_name, SEEDS, settings))
    if words[:1] != ["sweep"]:
        about = {"seeds": list(SEEDS), "task": "lrb/mini-hard", "rows": 256}
        _run_missing("amortisation", "", about, _gap_runs("lrb/mini-hard"))
        worlds = {f"discover {seed}": _world("lrb/mini-hard", seed) for seed in SEEDS}
        wanted = ((key, lambda s=source: _discovered(s)) for key, source in worlds.items())
        _run_missing("discovered", "", {"seeds": list(SEEDS), "task": "lrb/mini-hard"}, wanted)


PAGE, FIGURE = Path("docs/classical.md"), Path("docs/figures/classical.svg")
GT, IP = "decoder_cosine.M_GT@0.95", "decoder_cosine.M_IP"
LEARNERS = ("mod", "ksvd", "itkrm", "online", "batch_lasso", "fast_ica")
WORLDS = {"mini": "lrb/mini", "mini-hard": "lrb/mini-hard", "square": "64 features, 96 dimensions"}
"""Name of a record -> title of its panel."""
_HEAD = "learner | setting | told | atoms | M_GT(.95) | M_IP | signed M_IP | atoms right | worlds | seconds"


@dataclass(frozen=True)
class _Row:
    """One line of a table: the runs of one learner, size and setting, or of one SDL method."""

    label: str
    atoms: int
    kind: str
    runs: tuple[dict[str, Any], ...]

    def value(self, metric: str) -> Interval:
        """Mean and interval over worlds."""
        return interval(run[metric] for run in self.runs)


def _classical_rows(name: str) -> list[_Row]:
    """Told and not told, in the order of LEARNERS."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for run in _record(name)["runs"].values():
        flat = run["metrics"] | {"seconds": run["seconds"], "rows": run["rows"], "chance": run["chance"][IP]}
        groups[run["learner"], run["n_atoms"]].append(flat | {"setting": run["setting"]})
    least = {learner: min(n for other, n in groups if other == learner) for learner, _ in groups}
    order = sorted(groups, key=lambda key: (LEARNERS.index(key[0]), key[1]))
    return [_Row(who, n, "told" if n == least[who] else "not told", tuple(groups[who, n])) for who, n in order]


def _sdl_rows(name: str) -> list[_Row]:
    """Plain runs of SAEs in the same worlds, from the bench's own records."""
    path = packed(f"bench-{name}")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for record in read_records(path) if path.is_file() else []:
        if record["anchors"] is None and record["task"]["pairing"] == "sae" and record["seed"]["world"] < 3:
            flat = {key: entry["value"] for key, entry in record["metrics"].items()}
            key = record["method"]["name"], record["task"]["spec"]["n_q"]
            groups[key].append(flat | {"seconds": record["wall_time_s"], "setting": record["method"]["spec"]})
    return [_Row(label, n, "SDL", tuple(runs)) for (label, n), runs in groups.items()]


def _record(name: str) -> dict[str, Any]:
    return stored(f"classical/{name}") or {"runs": {}}


def _provenance(record: dict[str, Any]) -> str:
    runs = [run if "env" in run else record for run in record["runs"].values()]
    return provenance(runs, ("torch", "scikit_learn"))


def _scores(rows: list[_Row]) -> str:
    """What each reaches."""
    cells: list[Sequence[object]] = [_HEAD.split(" | ")]
    for row in rows:
        setting = row.runs[0]["setting"]
        shown = setting if isinstance(setting, str) else ", ".join(f"{k} = {v}" for k, v in setting.items()) or "-"
        right = row.value("atoms_right").text(2) if "atoms_right" in row.runs[0] else "-"
        first = (f"`{shown}`", "", "SDL") if row.kind == "SDL" else (f"`{row.label}`", shown, _TOLD[row.kind])
        numbers = [row.value(GT).text(), row.value(IP).text(), row.value("decoder_signed.M_IP").text(), right]
        cells.append([*first, row.atoms, *numbers, len(row.runs), f"{row.value('seconds').mean:.0f}"])
    return table(cells)


_TOLD = {"told": "n", "not told": "not told n"}


def _facts(name: str) -> str:
    """What the runs of a world have in common."""
    record = _record(name)
    runs = list(record["runs"].values())
    omitted = next(iter(record["tasks"].values()))["held_out"]
    chance = interval(run["chance"][IP] for run in runs)
    return (
        f"{runs[0]['rows']} rows; scored: all features but the first {omitted} of the anchor order; random directions: "
        f"M_IP {chance.mean:.2f}; `python -m studies classical`, one thread; seconds are of the processor (SDL: of the "
        f"clock); {_provenance(record)}."
    )


_LOOK = {
    "told": (0.14, "o", BLUE, "white", "classical, n atoms"),
    "not told": (-0.14, "o", BLUE, BLUE, "classical, 2 n atoms (ICA: n_p)"),
    "SDL": (0.0, "s", RED, RED, "SAEs of the bench, 2000 latents"),
}
"""Kind of a row -> (place, marker, colour, its filling, its name in the legend)."""


def _panel(axes: Axes, rows: list[_Row], title: str) -> None:
    labels = list(dict.fromkeys(row.label for row in rows))[::-1]
    for row in rows:
        value = row.value(GT)
        place, marker, colour, face, _ = _LOOK[row.kind]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 5.5}
        y = labels.index(row.label) + place
        axes.errorbar(value.mean, y, xerr=value.half, capsize=2.5, linewidth=1.3, **style)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlim(-0.04, 1.04)
    axes.set_title(title, color=INK, loc="left")
    axes.set_xlabel("M_GT(0.95)", color=INK)
    plain_axes(axes)


def _figure(worlds: dict[str, list[_Row]]) -> Figure:
    """Recovery by method, a panel per world."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    grid = figure.subplots(1, len(worlds), squeeze=False)[0]
    for axes, (name, rows) in zip(grid, worlds.items(), strict=True):
        _panel(axes, rows, WORLDS[name])
    marks = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="", label=label)
        for _, marker, colour, face, label in _LOOK.values()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK)
    for axes in grid:
        axes.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
    return figure


_COLUMNS = (
    ("encoder", "encoder {way} f1"),
    ("OMP", "at_encoder_l0 omp {way} f1"),
    ("lasso", "at_encoder_l0 lasso {way} f1"),
    ("**amortisation gap**", "amortisation_gap {way}"),
    ("OMP, true L0", "at_true_l0 omp {way} f1"),
    ("lasso, true L0", "at_true_l0 lasso {way} f1"),
    ("OMP on W_r", "ceiling omp {way} f1"),
    ("lasso on W_r", "ceiling lasso {way} f1"),
    ("**dictionary gap**", "dictionary_gap {way}"),
)
"""Columns of the table of gaps: title, and where a run holds the number."""


def _gaps() -> str:
    """The amortisation table."""
    record = _record("amortisation")
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in record["runs"].values():
        groups[run["method"]].append(run)

    def number(run: Any, path: str) -> float:
        return float(reduce(lambda value, name: value[name], path.split(), run))

    def mean(runs: list[dict[str, Any]], path: str) -> str:
        return interval(number(run, path) for run in runs).text(2)

    rows: list[Sequence[str]] = [("model", "F1", "L0", *(title for title, _ in _COLUMNS))]
    for method, runs in groups.items():
        for way in ("matched", "best"):
            numbers = (mean(runs, path.format(way=way)) for _, path in _COLUMNS)
            rows.append([f"`{method}`", way, mean(runs, "encoder l0"), *numbers])
    counts = ", ".join(f"{len(runs)} of `{method.split('(')[0]}`" for method, runs in groups.items())
    return (
        f"{table(rows)}\n\nThe bench's defaults on `{record['task']}`, {record['rows']} held-out rows; worlds run: "
        f"{counts}; `python -m studies classical`; {_provenance(record)}."
    )


def _at_paper_size() -> str:
    """One line per learner that was run there."""
    runs = _record("paper")["runs"]
    done = [
        f"`{name}`, {run['n_atoms']} atoms, {run['rows']} rows, {run['iterations']} passes: M_GT(.95) "
        f"{run['metrics'][GT]:.3f}, M_IP {run['metrics'][IP]:.3f}, {run['seconds']:.0f} s"
        for name, run in runs.items()
    ]
    left = [name for name in ("mod", "ksvd") if name not in runs]
    parts = [f"At the paper's size (world 0, n told): {'; '.join(done)}."] if done else []
    parts += [f"Not run: {', '.join(left)} (`python -m studies classical paper {' '.join(left)}`)."] if left else []
    return " ".join(parts)


def page() -> None:
    """Fill the page and draw its figure."""
    worlds = {name: _classical_rows(name) + _sdl_rows(name) for name in WORLDS if _record(name)["runs"]}
    label = "Recovery of classical learners and of SAEs in three worlds"
    write_figure(FIGURE, _figure(worlds), label)
    scores = {name: f"{_facts(name)}\n\n{_scores(rows)}" for name, rows in worlds.items()}
    fill(PAGE, {"paper-size": _at_paper_size(), **scores, "gaps": _gaps()})

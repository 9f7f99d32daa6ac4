"""Absorption on lrb/hierarchy, and when a parent is absorbed: runs, half of docs/theory/absorption.md, its figures.

`python -m studies absorption` trains the study of sizes (a run already in the record `absorption-sizes` is kept): the
hierarchy with sizes 1 - beta + Exp(beta), of mean 1 and standard deviation beta; beta = 1 is the law of the other
tasks, 0.5 that of lrb/hierarchy. Everything else, recipes and length too, is lrb/hierarchy. One thread, plain
training, seeds 100 and 101, all ten families. The runs in a hierarchy are those of `monosem bench`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monosem import task
from monosem.bench import Hierarchy, TaskSource, environment, evaluate_model, fit_config, read_records, recipe
from monosem.report import (
    GREY,
    INK,
    PALETTE,
    Arm,
    Interval,
    Line,
    Section,
    fill,
    plain_axes,
    sections,
    table,
    write_figure,
)
from monosem.train import fit
from studies.page import provenance
from studies.stored import packed, run_missing, stored

PAGE, FIGURES, SIZES = Path("docs/theory/absorption.md"), Path("docs/theory/figures"), "absorption-sizes"
TASK, SEEDS = "lrb/hierarchy", (100, 101)
BETAS = (0.1, 0.25, 0.5, 0.75, 1.0)
METHODS = ("relu_l1", "topk", "matryoshka")
GROUPS = {"hierarchy_set_aside": "families with anchors", "hierarchy": "other families"}
ARMS = {
    "plain": ("plain", GREY, "o"),
    "true_parents": ("parents", PALETTE[0], "s"),
    "true_children": ("children", PALETTE[3], "^"),
}
SHARES = ("absorbed", "recall")


def main(words: Sequence[str] = ()) -> None:
    """Run what is missing of the study of sizes, one run after the other."""
    torch.set_num_threads(1)
    about = {"task": TASK, "command": "python -m studies absorption", "env": environment()}
    run_missing(SIZES, about, _size_runs())


def _size_runs() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Every method, size and seed."""
    for seed in SEEDS:
        for beta in BETAS:
            base = task(TASK, "sae", seed)
            law = base.world.law
            assert isinstance(law, Hierarchy)
            source = TaskSource(replace(base, world=replace(base.world, law=replace(law, c_min=1 - beta, beta=beta))))
            for name in METHODS:
                key = f"{name} beta={beta} seed={seed}"
                yield key, lambda name=name, source=source, seed=seed: _size(name, source, seed)  # type: ignore[misc]


def _size(name: str, source: TaskSource, seed: int) -> dict[str, float]:
    """One method trained plainly, and its scores."""
    model = fit(recipe(TASK, name), source, source.task.n_q, fit_config(TASK, seed)).model
    scores = evaluate_model(model, source, torch.arange(source.task.world.n))
    numbers = {k: v for k, v in scores["hierarchy"].items() if k != "curve"}
    return numbers | {"l0": scores["l0"], "fvu": scores["fvu"]}


def kind(arm: Arm) -> str:
    """What an arm anchors."""
    anchors = arm.records[0]["anchors"]
    return "plain" if anchors is None else str(anchors["kind"])


def arms(line: Line) -> list[Arm]:
    """Plain, parents, children."""
    return sorted(line.arms, key=lambda arm: list(ARMS).index(kind(arm)))


def read() -> Section:
    """The records of the study."""
    (section,) = sections(read_records(packed("bench-hierarchy")))
    return section


def _text(value: Interval | None, sign: bool = False) -> str:
    return "-" if value is None else value.text(2, sign)


def _facts(section: Section) -> str:
    """What the runs have in common."""
    first = section.records[0]
    config = first["config"]
    seeds = sorted({record["seed"]["world"] for record in section.records})
    minutes = sum(record["wall_time_s"] for record in section.records) / 60
    return (
        f"{len(section.records)} runs by `monosem bench --task lrb/hierarchy --among parents "
        f"--among children --seeds {len(seeds)}`: version {section.version} ({first['task']['hash'][:12]}), "
        f"worlds and trainings {seeds[0]} to {seeds[-1]}, {config['steps']} steps of {config['batch_size']} rows, "
        f"lr {config['lr']}; {minutes:.0f} minutes of run time in all, one thread a run on a busy machine; "
        f"{provenance(section.records)}. "
        f"Intervals are 95 % t intervals over the {len(seeds)} worlds."
    )


def _shares_table(section: Section) -> str:
    """What plain training does, over the families that no arm anchors."""
    names = ("absorbed", "recall", "missed", "precision", "merged", "parent_cosine", "child_cosine")
    rows = [["method", "L0", *(name.replace("_", " ") for name in names)]]
    for line in section.lines:
        assert line.plain is not None
        values = [line.plain.interval("l0"), *(line.plain.interval(f"hierarchy.{name}") for name in names)]
        rows.append([f"`{line.label}`", *map(_text, values)])
    return table(rows)


def _change_table(section: Section, group: str) -> str:
    """Anchored - plain, world by world."""
    names = ("absorbed", "recall", "precision", "merged", "child_cosine")
    rows = [["method", "anchored", *(name.replace("_", " ") for name in names)]]
    for line in section.lines:
        for arm in arms(line)[1:]:
            gains = [line.gain(arm, f"{group}.{name}") for name in names]
            rows.append([f"`{line.label}`", ARMS[kind(arm)][0], *(_text(gain, sign=True) for gain in gains)])
    return table(rows)


def _panel(axes: Axes, section: Section, metric: str) -> None:
    lines = section.lines[::-1]
    for number, line in enumerate(lines):
        for place, arm in enumerate(arms(line)):
            value = arm.interval(metric)
            _, colour, marker = ARMS[kind(arm)]
            if value is not None:
                fill = "white" if kind(arm) == "plain" else colour
                y = number + 0.22 * (1 - place)
                axes.errorbar(
                    value.mean, y, xerr=value.half, color=colour, marker=marker, markerfacecolor=fill, capsize=2.5,
                    linewidth=1.4, markersize=5.5,
                )  # fmt: skip
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(-0.03, 1.03)


def _trained_figure(section: Section) -> Figure:
    """Absorbed rows and recall, of families with anchors and of the others: a dot per method and arm."""
    figure = Figure(figsize=(8.6, 7.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, share in zip(grid, SHARES, strict=True):
        for axes, (group, title) in zip(row, GROUPS.items(), strict=True):
            plain_axes(axes)
            axes.set_title(f"{share}: {title}", loc="left", color=INK)
            axes.tick_params(labelbottom=True)
            _panel(axes, section, f"{group}.{share}")
    figure.supxlabel("share of the rows in which the parent is present", color=INK, fontsize=10)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markerfacecolor=face, label=label)
        for name, (words, colour, marker) in ARMS.items()
        for face, label in [("white", words) if name == "plain" else (colour, f"{words} anchored")]
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def _sizes() -> dict[str, dict[float, list[dict[str, float]]]]:
    """Runs of the study of sizes, by method and beta."""
    runs: dict[str, dict[float, list[dict[str, float]]]] = {name: {} for name in METHODS}
    for key, numbers in (stored(SIZES) or {"runs": {}})["runs"].items():
        name, beta, _ = key.split()
        runs[name].setdefault(float(beta.removeprefix("beta=")), []).append(numbers)
    return {name: of for name, of in runs.items() if of}


def _sizes_table(runs: dict[str, dict[float, list[dict[str, float]]]]) -> str:
    """Absorbed and merged by beta."""
    betas = sorted(next(iter(runs.values())))
    rows: list[Sequence[object]] = [["method", "", *(f"{beta:g}" for beta in betas)]]
    rows += [
        [f"`{name}`", word, *(f"{mean(run[word] for run in of[beta]):.2f}" for beta in betas)]
        for name, of in runs.items()
        for word in ("merged", "absorbed")
    ]
    return table(rows)


def _sizes_figure(runs: dict[str, dict[float, list[dict[str, float]]]]) -> Figure:
    """Merged children against the spread of sizes: a line of means and a point per run."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    titles = {"merged": "children merged with their parent", "absorbed": "rows absorbed"}
    for axes, (word, title) in zip(figure.subplots(1, 2, sharex=True, sharey=True), titles.items(), strict=True):
        plain_axes(axes)
        for (name, of), colour, marker in zip(runs.items(), PALETTE, "os^", strict=False):
            x = sorted(of)
            axes.plot(x, [mean(run[word] for run in of[beta]) for beta in x], color=colour, label=name)
            points = [(beta, run[word]) for beta in x for run in of[beta]]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle="none", fillstyle="none")
        axes.set_title(title, loc="left")
        axes.set_xlabel("standard deviation of a feature's size (mean 1)", color=INK)
        axes.set_ylim(-0.03, 1.03)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def generated(section: Section) -> str:
    """Everything between the markers."""
    parts = [
        _facts(section),
        "**Plain training**, the families that no run anchors:",
        _shares_table(section),
        "![Absorbed rows and recall by method and by what is anchored](figures/absorption_trained.svg)",
        "**What anchors change in the families that have them** (anchored − plain, world by world):",
        _change_table(section, "hierarchy_set_aside"),
        "**And in the other families:**",
        _change_table(section, "hierarchy"),
    ]
    if runs := _sizes():
        parts += [
            "**Sizes.** Shares by the standard deviation of a feature's size, plain, seeds 100 and 101:",
            _sizes_table(runs),
            "![Absorption against the spread of sizes](figures/absorption_sizes.svg)",
        ]
    return "\n\n".join(parts)


def page() -> None:
    """Fill the page and draw its figures."""
    section = read()
    fill(PAGE, {"trained": generated(section)})
    label = "Share of rows in which parents are absorbed, and recall, per method and by what is anchored"
    write_figure(FIGURES / "absorption_trained.svg", _trained_figure(section), label)
    if runs := _sizes():
        label = "Children merged with parents, and rows absorbed, against the standard deviation of sizes"
        write_figure(FIGURES / "absorption_sizes.svg", _sizes_figure(runs), label)

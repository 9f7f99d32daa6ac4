"""The quality board as a page and a figure, from its records alone."""

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.quality import FACTORS, LR, METHODS, SEEDS
from benchmarks.report import PEER_NAMES
from monosem.base import read_json, write_atomic
from monosem.report import PALETTE, interval, panels, table, tidy, write_figure

NAMES = {"monosem": "monosem", **PEER_NAMES}
_CASES = {"topk": "TopK", "batch_topk": "BatchTopK", "jumprelu": "JumpReLU"}
Cell = tuple[str, str, float]
"""(who, case, L0 asked for)"""

INTRO = """# Quality per second, beside other libraries

Each library trains with its own trainer and its documented defaults on the same real rows: without outliers, centred,
of mean norm sqrt(n), {tokens:,} of them in batches of {batch}; {n_q:,} latents, {k} active. A cell has a grid of three
learning rates on seed 0 (the library's default, that over 3, that times 3); the best on rows of validation is trained
from three other seeds. What is printed was measured on rows of test: mean and 95 % interval over the seeds. One scorer
of ours reads all models as their users would, with thresholds in place of batches. Warm-ups of 1,000 steps are cut to
a tenth of the run. Seconds are of one thread's processor time, from the call of the trainer to its end, scoring left
out. *as good after*: our seconds until our mean FVU is at most the library's last one, and how many times as fast
that is. A library whose sparsity cannot be asked for ends elsewhere: ours is then trained once more at its L0.

Ours is {topk}, {batch_topk} and {jumprelu}, at rate {lr}: starts and rate were chosen among thirteen, on rows of
validation of stories15M; the others' settings, apart from the rate, are their defaults. A best rate of *x 3* or
*x 0.33* is the edge of the grid. JumpReLU of others has a coefficient in place of an L0; where it
ends at another L0, the FVU compares nothing unless ours stands beside it at that L0. The figure leaves those out.

`python -m benchmarks quality ROWS --peers .peers --record benchmarks/records/quality-NAME.json` completes a record.
"""


def cells(record: Mapping[str, Any]) -> dict[Cell, list[Mapping[str, Any]]]:
    """The seeds of each cell that has all of them."""
    out: dict[Cell, list[Mapping[str, Any]]] = {}
    for trial in record["trials"].values():
        if trial["seed"] in SEEDS and "points" in trial:
            out.setdefault((trial["who"], trial["case"], trial["l0"]), []).append(trial)
    return {cell: seeds for cell, seeds in out.items() if len(seeds) == len(SEEDS)}


def last(seeds: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """A metric at the end of training, on rows of test."""
    return [seed["points"][-1]["test"][metric] for seed in seeds]


def curve(seeds: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(processor seconds, FVU) of the mean over seeds, point by point."""
    return [
        (mean(p["cpu"] for p in points), mean(p["test"]["fvu"] for p in points))
        for points in zip(*(seed["points"] for seed in seeds), strict=True)
    ]


def seconds_to(points: Sequence[tuple[float, float]], fvu: float) -> float | None:
    """When a curve first is as good as that, straight between its points; None for never.

    Example:
        >>> seconds_to([(1.0, 0.5), (2.0, 0.3)], 0.4)
        1.5
    """
    for (t0, f0), (t1, f1) in zip([points[0], *points], points, strict=False):
        if f1 <= fvu:
            return t1 if f1 == f0 else t0 + (t1 - t0) * (f0 - max(fvu, f1)) / (f0 - f1) if f0 > fvu else t0
    return None


def ours_for(there: Mapping[Cell, Any], case: str, reached: float) -> Cell | None:
    """Our cell whose L0 is nearest to one that was reached; None where none lies within a tenth of it."""
    own = [cell for cell in there if cell[0] == "monosem" and cell[1] == case]
    best = min(own, key=lambda cell: abs(cell[2] - reached), default=None)
    return best if best and abs(best[2] / reached - 1) < 0.1 else None


def rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table, a line per cell; libraries that failed say why."""
    there = cells(record)
    for who, case, l0 in sorted(there, key=_place):
        seeds = there[who, case, l0]
        reached, seconds = mean(last(seeds, "l0")), mean(seed["points"][-1]["cpu"] for seed in seeds)
        own = None if who == "monosem" else ours_for(there, case, reached)
        after = seconds_to(curve(there[own]), mean(last(seeds, "fvu"))) if own else None
        good = "-" if own is None else "never" if after is None else f"{after:.1f} s, {seconds / after:.1f} x"
        asked = "" if l0 == record["k"] else f", L0 {l0:g}"
        yield [
            f"{_CASES[case]}{asked}", NAMES[who], f"{seeds[0]['factor']:.2g}", interval(last(seeds, "fvu")).text(4),
            interval(last(seeds, "trimmed")).text(4), interval(last(seeds, "by_dimension")).text(4), f"{reached:.1f}",
            f"{mean(last(seeds, 'dead')):.2f}", f"{seconds:.1f}", good,
        ]  # fmt: skip


def _place(cell: Cell) -> tuple[int, int, float]:
    who, case, l0 = cell
    return list(_CASES).index(case), list(NAMES).index(who), -l0


def failed(record: Mapping[str, Any]) -> list[str]:
    """Cells without any sound training."""
    bad = {(t["who"], t["case"]): t["error"] for t in record["trials"].values() if "error" in t}
    return [f"- {_CASES[case]}, {NAMES[who]}: {error}" for (who, case), error in bad.items()]


def beyond(record: Mapping[str, Any]) -> list[str]:
    """What rates outside of the grid gave, where someone tried."""
    tried = [
        t
        for t in record["trials"].values()
        if not any(isclose(t["factor"], f, rel_tol=1e-3) for f in FACTORS) and "points" in t
    ]
    if not tried:
        return []
    said = [f"{_CASES[t['case']]}, {NAMES[t['who']]}, x {t['factor']:.2g}: {last([t], 'fvu')[0]:.4f}" for t in tried]
    return [f"Rates beyond the grid, one seed each, FVU: {'; '.join(said)}."]


def figure(records: Mapping[str, Mapping[str, Any]]) -> Figure:
    """FVU against processor seconds, a panel for each network and method; libraries near the L0 that was asked for."""
    shown = [(name, case) for name, record in records.items() for case in _CASES if _mine(record, case)]
    drawing, axes = panels(len(shown), 3.4)
    colours = dict(zip(NAMES, PALETTE, strict=False))
    for panel, (name, case) in zip(axes, shown, strict=True):
        for (who, other, l0), seeds in cells(records[name]).items():
            if other == case and l0 == records[name]["k"] and abs(mean(last(seeds, "l0")) / l0 - 1) < 0.1:
                seconds, fvu = zip(*curve(seeds), strict=True)
                panel.plot(seconds, fvu, "o-", color=colours[who], label=NAMES[who], markersize=3.5)
        panel.set_xscale("log")
        panel.set_yscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        tidy(panel, "processor seconds", "FVU on rows of test", f"{name}, {_CASES[case]}")
    return drawing


def _mine(record: Mapping[str, Any], case: str) -> bool:
    return any(cell[:2] == ("monosem", case) for cell in cells(record))


def write_quality(records: Path, root: Path) -> None:
    """docs/quality.md and its figure, from every record of the board."""
    boards = {path.stem.removeprefix("quality-"): read_json(path) for path in sorted(records.glob("quality-*.json"))}
    if not boards:
        return
    first = next(iter(boards.values()))
    parts = [
        "<!-- Generated from records by `python -m benchmarks pages`; do not edit. -->\n",
        INTRO.format(**first, lr=LR, **{case: f"`{text.format(k=first['k'])}`" for case, text in METHODS.items()}),
    ]
    parts.append("![FVU against processor seconds, by library](figures/quality.svg)\n")
    heads = ["method", "library", "rate x", "FVU", "trimmed", "by dimension", "L0", "dead", "s", "as good after"]
    for name, record in boards.items():
        env = record["env"]
        what = f"{record['train_rows']:,} rows of {record['n_p']} numbers"
        made = f"{env['cpu']}; torch {env['torch']}; commit {(env['commit'] or 'unknown')[:12]}"
        parts += [
            f"## {name}\n",
            f"{what}. {made}.\n",
            table([heads, *rows(record)]),
            "",
            *beyond(record),
            *failed(record),
            "",
        ]
    write_atomic(root / "docs" / "quality.md", "\n".join(parts).encode())
    write_figure(root / "docs/figures/quality.svg", figure(boards), "FVU against processor seconds, by library")

"""The bench's results: README's tables, BENCHMARKS.md, docs/defaults.md and the figures of both, from records alone."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monosem.bench import read_records
from monosem.report import (
    HEADLINE,
    fill,
    interval,
    recovery_figure,
    sections,
    table,
    tau_figure,
    write_figure,
)
from studies.catalog import committed
from studies.page import provenance
from studies.readme import anchors
from studies.stored import packed, stored

FIGURES = Path("docs/figures")
COLUMNS = (
    ("decoder M_GT(.95)", "decoder_cosine.M_GT@0.95"),
    ("decoder M_IP", "decoder_cosine.M_IP"),
    ("signed M_IP", "decoder_signed.M_IP"),
    ("encoder raw M_IP", "encoder_raw.M_IP"),
    ("encoder cos M_IP", "encoder_cosine.M_IP"),
    ("FVU", "fvu"),
    ("L0", "l0"),
    ("dead", "dead"),
)


def _cell(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _arm(anchors: dict[str, Any] | None) -> str:
    if anchors is None:
        return "plain"
    start = "init" if anchors["init"] else "no init"
    return f"{anchors['k']} anchors, {anchors['form']}, weight {anchors['weight']}, {start}"


def _scores(records: Iterable[dict[str, Any]]) -> str:
    """One row per method (as it was called) and arm."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["method"]["spec"], _arm(record["anchors"])].append(record)
    rows: list[Sequence[object]] = [["method", "", "seeds", *(name for name, _ in COLUMNS)]]
    for (spec, how), runs in groups.items():
        numbers = (_cell([run["metrics"][key]["value"] for run in runs]) for _, key in COLUMNS)
        rows.append([f"`{spec}`", how, ", ".join(str(run["seed"]["world"]) for run in runs), *numbers])
    return table(rows)


def _facts(records: list[dict[str, Any]]) -> str:
    """What the runs have in common: task, length, baselines; and the machine, versions and commits of all of them."""
    first = records[0]
    config, task = first["config"], first["task"]
    minutes = sum(record["wall_time_s"] for record in records) / 60
    return (
        f"{len(records)} runs; task `{task['name']}` version {task['version']} ({task['hash'][:12]}); "
        f"{config['steps']} steps of {config['batch_size']} rows, lr {config['lr']}; scored: all features but the "
        f"first {config['held_out']} of the anchor order; chance M_IP "
        f"{first['metrics']['decoder_cosine.M_IP']['chance']:.3f}; {minutes:.0f} minutes of run time in all, "
        f"one thread a run; {provenance(records)}."
    )


def _section(name: str) -> str:
    """The facts and the table of one packed file; says so where it has not been run."""
    path = packed(name)
    records = read_records(path) if path.is_file() else []
    return f"{_facts(records)}\n\n{_scores(records)}" if records else "Not run."


def _search() -> str:
    """The search behind lrb/mini-hard as a table, worlds down and methods across."""
    worlds: dict[str, dict[str, float]] = defaultdict(dict)
    for name, result in (stored("search-mini-hard") or {}).items():
        *world, spec = name.split(" ", 4)
        worlds[" ".join(world)][spec.split("(")[0]] = result["M_GT@0.95"]
    names = list(next(iter(worlds.values())))
    return table([["world", *names], *([world, *(f"{row[n]:.3f}" for n in names)] for world, row in worlds.items())])


def _recovered() -> str:
    """Recovery of features that were not anchored, plain and anchored."""
    (section,) = sections(read_records(packed("bench-mini-hard")))
    records = section.lines[0].anchored[0].records
    world = records[0]["task"]["spec"]["world"]
    rows = [["method", "plain", "anchored", "gain, world by world"]]
    for line in section.lines:
        (arm,) = line.anchored
        plain = line.plain.interval(HEADLINE) if line.plain else None
        anchored, gain = arm.interval(HEADLINE), line.gain(arm)
        assert plain is not None
        assert anchored is not None
        assert gain is not None
        rows.append([f"`{line.label}`", plain.text(), anchored.text(), gain.text(sign=True)])
    return (
        f"Fraction of held-out true features matched by a decoder column (|cos| > .95) on `{section.task}` "
        f"({world['n']} features in {world['widths'][0]} dimensions, {world['rows']} rows); "
        f"{records[0]['anchors']['k']} features anchored, scored on the others; "
        f"{len(records)} worlds, 95 % t intervals. Chance: 0.\n\n{table(rows)}"
    )


def _discovered() -> str:
    """Table 1 at the paper's size: its best number, and ours over all features, plain and with discovered anchors."""
    results = committed("table1", "paper")
    arms: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entry, record in results.outcomes:
        if record is not None and entry.arm in ("ours", "ours+discovered"):
            arms[entry.row, entry.arm].append(record["metrics"])
    rows = [["method", "paper, best", "plain, ours", "discovered anchors, ours", "the anchors alone"]]
    for row in dict.fromkeys(row for row, _ in arms):
        printed = [results.study.printed[row, arm] for arm in ("paper", "paper+anchors")]
        best, similar = max(tuple(value or 0.0 for value in pair) for pair in printed)
        plain, anchored = arms[row, "ours"], arms[row, "ours+discovered"]
        start = _mean(anchored, "M_GT@0.95", "anchors_alone")
        rows.append([f"`{row}`", f"{best / 100:.3f} / {similar:.3f}", _pair(plain), _pair(anchored), start])
    return table(rows)


def _mean(runs: Sequence[Mapping[str, Any]], metric: str, which: str = "value", digits: int = 3) -> str:
    values = [run[f"all.decoder_cosine.{metric}"][which] for run in runs]
    return f"{interval(values).mean:.{digits}f}" if values else "not run"


def _pair(runs: Sequence[Mapping[str, Any]]) -> str:
    """M_GT with its interval, and the mean M_IP."""
    if not runs:
        return "not run"
    recovered = interval(run["all.decoder_cosine.M_GT@0.95"]["value"] for run in runs)
    return f"{recovered.text()} / {_mean(runs, 'M_IP', digits=4)}"


def readme_parts() -> dict[str, str]:
    """What README holds of the records: recovery, plain and anchored, and what anchors gain."""
    return {"results": _recovered(), "anchors": anchors()}


def readme_page() -> None:
    """Fill README's parts, and the table of discovered anchors at the paper's size."""
    fill("README.md", readme_parts())
    fill("docs/discovery.md", {"discovered": _discovered()})


def defaults_page() -> None:
    """Fill the sweeps of docs/defaults.md."""
    sweeps = {name: _section(name) for name in ("sweep-mini", "sweep-mini-hard", "sweep-anchoring")}
    fill("docs/defaults.md", {"search": _search(), **sweeps})


def benchmarks_page() -> None:
    """Fill the recovery part of BENCHMARKS.md, and draw the figures of it and of the README."""
    fill("BENCHMARKS.md", {name: _section(name) for name in ("bench-mini-hard", "bench-mini", "bench-paper")})
    (section,) = sections(read_records(packed("bench-mini-hard")))
    recovery = "Recovery of features that were not anchored, per method, plain and anchored"
    write_figure(FIGURES / "bench-recovery.svg", recovery_figure(section), recovery)
    write_figure(FIGURES / "tau.svg", tau_figure(section), "M_GT against tau, per method, plain and anchored")

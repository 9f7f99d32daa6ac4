"""Tables in docs/defaults.md and BENCHMARKS.md, from records alone: python -m studies.tables."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monosem.bench.records import read_records
from studies.readme import write_readme

RECORDS = Path("records")
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


DEFAULTS = """\
`monosem.bench.defaults` holds one recipe per method and task. They were chosen on worlds and runs of seeds 100 and 101;
every reported run uses seeds from 0 on. All train with Adam at lr 0.01 (0.003 at paper size), unit-norm decoder
columns, 5 % warm-up and 20 % decay.

How they were chosen is part of what the scores mean. On `lrb/mini` the recipes are among the best of the sweep. On
`lrb/mini-hard` two are **not**: `matryoshka(k=6)` and `batch_topk(k=4)` were taken below the best of the sweep
(`matryoshka` with k = 3 and three prefixes, `batch_topk(k=3)`), to keep plain training under 0.8, so the order of the
methods on that task says little. The default form of anchoring was chosen on this task too, among nine forms, on seeds
100 and 101, after a first look at a shorter run. The reported worlds began as seeds 0 to 2; seeds 3 to 5 were added
after most of those intervals were seen to hold 0. On seeds 3 to 5 alone the paired interval of the gain leaves out 0
for relu_l1, topk and batch_topk, and holds it for the other four.
"""
SEARCH = """\
Decoder M_GT(0.95) of plain training, seed 100, by world: n features in 96 dimensions, true L0, cap M, rows (None: an
endless stream), with sparsity set from the true L0. Endless data separate the methods
too far: where TopK is near 1, ReLU is near 0. With few rows every method is bounded by the samples, and the last world
is where most of them lie between 0.3 and 0.8; it became `lrb/mini-hard`. About as many trials again, with other n, row
counts, penalties and learning rates, came before this grid and left no records.
"""
ANCHORING = """\
Features that were not anchored, by the way of anchoring; plain runs are scored on the same features.
"""


def cell(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def arm(anchors: dict[str, Any] | None) -> str:
    """How a run was anchored."""
    if anchors is None:
        return "plain"
    start = "init" if anchors["init"] else "no init"
    return f"{anchors['k']} anchors, {anchors['form']}, weight {anchors['weight']}, {start}"


def table(records: Iterable[dict[str, Any]]) -> str:
    """One row per method (as it was called) and arm."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        anchors = record["anchors"]
        groups[record["method"]["spec"], arm(anchors)].append(record)
    lines = ["| method | | seeds | " + " | ".join(name for name, _ in COLUMNS) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS) + 3))
    for (spec, how), rows in groups.items():
        cells = [cell([row["metrics"][key]["value"] for row in rows]) for _, key in COLUMNS]
        seeds = ", ".join(str(row["seed"]["world"]) for row in rows)
        lines.append(f"| `{spec}` | {how} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def facts(records: list[dict[str, Any]]) -> str:
    """What the runs have in common: task, length, hardware, versions, baselines."""
    first = records[0]
    config, env = first["config"], first["env"]
    beside = first["metrics"]["decoder_cosine.M_IP"]
    minutes = sum(record["wall_time_s"] for record in records) / 60
    return (
        f"{len(records)} runs; task `{first['task']['name']}` version {first['task']['version']} "
        f"({first['task']['hash'][:12]}); {config['steps']} steps of {config['batch_size']} rows, lr {config['lr']}; "
        f"scored: all features but the first {config['held_out']} of the anchor order; "
        f"chance M_IP {beside['chance']:.3f}; "
        f"{minutes:.0f} minutes of run time in all, one thread a run; {env['cpu']}, torch {env['torch']}, "
        f"commit {str(env['commit'])[:12]}."
    )


def section(title: str, folder: str, note: str = "") -> str:
    """A heading, the facts and the table of one folder of records; says so where it has not been run."""
    path = RECORDS / folder
    records = read_records(path) if path.is_dir() else []
    body = f"{facts(records)}\n\n{table(records)}" if records else "Not run."
    return f"## {title}\n\n{note}\n\n{body}\n" if note else f"## {title}\n\n{body}\n"


def search() -> str:
    """The search behind lrb/mini-hard as a table, worlds down and methods across."""
    found = json.loads((RECORDS / "search-mini-hard.json").read_text())
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for name, result in found.items():
        *world, spec = name.split(" ", 4)
        rows[" ".join(world)][spec.split("(")[0]] = result["M_GT@0.95"]
    names = list(next(iter(rows.values())))
    lines = ["| world | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    lines += [f"| {world} | " + " | ".join(f"{row[n]:.3f}" for n in names) + " |" for world, row in rows.items()]
    return "\n".join(lines)


def speed(page: Path) -> str:
    """The part of the page that `python -m benchmarks pages` writes, as it is."""
    begin, end = "<!-- begin speed -->", "<!-- end speed -->"
    return f"{begin}{page.read_text().partition(begin)[2].partition(end)[0]}{end}\n"


def main() -> None:
    """Write both pages, and the README's tables between their markers."""
    write_readme()
    generated = "<!-- Generated from records by `python -m studies.tables`; do not edit. -->\n\n"
    defaults = [
        "# Defaults, and the sweeps behind them\n",
        DEFAULTS,
        "## The search behind lrb/mini-hard\n",
        SEARCH,
        search() + "\n",
        section("Sweep on lrb/mini", "sweep-mini"),
        section("Sweep on lrb/mini-hard", "sweep-mini-hard"),
        section("Ways to anchor, lrb/mini-hard", "sweep-anchoring", ANCHORING),
    ]
    Path("docs/defaults.md").write_text(generated + "\n".join(defaults))
    command = "Command: `monosem bench --task"
    bench = [
        "# Benchmarks\n",
        "Recovery on the Linear Representation Bench, from `records/`; mean ± standard deviation over seeds.\n",
        section(
            "lrb/mini-hard: seven methods, plain and anchored",
            "mini-hard",
            "Command: `monosem bench --seeds 6`; its first three worlds are what `make bench` runs.",
        ),
        section("lrb/mini: seven methods, plain", "mini", f"{command} lrb/mini --plain --anchors 0`."),
        section("lrb/paper: TopK, plain", "paper", f"{command} lrb/paper --methods topk --plain --seeds 1`."),
        speed(Path("BENCHMARKS.md")),
        "## GPU\n\nNot measured: no GPU was at hand.\n",
    ]
    Path("BENCHMARKS.md").write_text(generated + "\n".join(bench))


if __name__ == "__main__":
    main()

"""The README's two tables, between their markers, from records alone."""

from collections import defaultdict
from pathlib import Path

from monosem.bench.records import read_records
from monosem.report.interval import Interval, interval
from monosem.report.summary import HEADLINE, sections
from studies.bench.base import SCALES
from studies.bench.catalog import STUDIES
from studies.bench.queue import outcomes

ALL = "all.decoder_cosine."
"""Scores over every feature."""


def held_out() -> str:
    """Recovery of features that were not anchored, plain and anchored."""
    (found,) = sections(read_records("records/mini-hard"))
    first = found.lines[0].anchored[0].records[0]
    world = first["task"]["spec"]["world"]
    facts = (
        f"Share of held-out features that a decoder column meets at |cos| > .95 on `{found.task}` "
        f"({world['n']} features in {world['widths'][0]} dimensions, {world['rows']} rows); "
        f"{first['anchors']['k']} features anchored, scored on the others; "
        f"{len(found.lines[0].anchored[0].records)} worlds, 95 % t intervals. Chance: 0.\n"
    )
    lines = [
        facts,
        "| method | plain | anchored | gain, world by world |",
        "|---|---|---|---|",
    ]
    for line in found.lines:
        assert line.plain is not None
        (arm,) = line.anchored
        plain, anchored, gain = line.plain.interval(HEADLINE), arm.interval(HEADLINE), line.gain(arm)
        assert plain is not None
        assert anchored is not None
        assert gain is not None
        lines.append(f"| `{line.label}` | {plain.text()} | {anchored.text()} | {gain.text(sign=True)} |")
    return "\n".join(lines)


def discovered() -> str:
    """Table 1 at the paper's size: its best number, and ours over all features, plain and with discovered anchors."""
    study, scale = STUDIES["table1"], SCALES["paper"]
    runs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    alone: dict[str, list[float]] = defaultdict(list)
    for entry, _, record in outcomes(study, scale, "records/studies/paper"):
        if record is not None and entry.arm in ("ours", "ours+discovered"):
            found = record["metrics"]
            runs[entry.row, entry.arm].append((found[f"{ALL}M_GT@0.95"]["value"], found[f"{ALL}M_IP"]["value"]))
            if entry.arm == "ours+discovered":
                alone[entry.row].append(found[f"{ALL}M_GT@0.95"]["anchors_alone"])
    lines = [
        "| method | paper, best | plain, ours | discovered anchors, ours | the anchors alone |",
        "|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(row for row, _ in runs):
        printed = max(
            (study.printed[row, arm] for arm in ("paper", "paper+anchors")),
            key=lambda pair: (pair[0] or 0.0, pair[1] or 0.0),
        )
        cells = [_pair(runs[row, arm]) for arm in ("ours", "ours+discovered")]
        start = f"{interval(alone[row]).mean:.3f}" if alone[row] else "not run"
        lines.append(
            f"| `{row}` | {(printed[0] or 0.0) / 100:.3f} / {printed[1]:.3f} | {' | '.join(cells)} | {start} |"
        )
    return "\n".join(lines)


def _pair(values: list[tuple[float, float]]) -> str:
    """M_GT with its interval, and the mean M_IP."""
    if not values:
        return "not run"
    recovered: Interval = interval(value for value, _ in values)
    return f"{recovered.text()} / {interval(value for _, value in values).mean:.4f}"


def write_readme() -> None:
    """Put both tables between their markers."""
    text = Path("README.md").read_text()
    for name, table in (("results", held_out()), ("discovered", discovered())):
        before, after = text.split(f"<!-- {name} -->\n")[0], text.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}"
    Path("README.md").write_text(text)

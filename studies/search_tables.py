"""The tables and the figure of docs/theory/search.md, from records/search alone: python -m studies.search_tables."""

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from studies.theory.style import BLUE, GREEN, GREY, ORANGE, new_figure, tidy

RECORDS, PAGE = Path("records/search"), Path("docs/theory/search.md")
WAYS = (("acs", "ACS"), ("adam", "Adam"), ("anchored", "anchored Adam"))


def runs(*parts: str) -> dict[str, Any]:
    """All runs of some parts, by name, as far as they are recorded."""
    found: dict[str, Any] = {}
    for part in parts:
        if (path := RECORDS / f"{part}.json").exists():
            found |= json.loads(path.read_text())["runs"]
    return found


def grouped(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs by problem and loss; worlds and starts together."""
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, row in found.items():
        out[name.rpartition(" | ")[0]].append(row)
    return out


def number(value: float) -> str:
    """Three digits, or zero where it is."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


def comparison() -> str:
    """Medians of loss, recovery and time for every problem."""
    head = "| problem, loss | runs | " + " | ".join(f"{w} loss | recovered" for _, w in WAYS)
    lines = [head + " | time, ACS : Adam |", "|---|" + "---|" * (2 + 2 * len(WAYS))]
    for name, rows in grouped(runs("small", "nano", "mini")).items():
        cells = []
        for way, _ in WAYS:
            cells += [number(median(r[way]["loss"] for r in rows)), f"{median(r[way]['recovered'] for r in rows):.2f}"]
        ratio = median(r["acs"]["seconds"] / r["adam"]["seconds"] for r in rows)
        lines.append(f"| {name.replace(' | ', ', ')} | {len(rows)} | {' | '.join(cells)} | {ratio:.2g} |")
    return "\n".join(lines)


def stops() -> str:
    """How the runs in exact regions ended, with their residuals and longest columns."""
    lines = ["| problem | zero | partial minimum | out of steps | median residual | largest | longest column |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, rows in grouped(runs("small")).items():
        ends = [r["acs"]["stop"] for r in rows]
        counts = [str(ends.count(kind)) for kind in ("zero", "partial minimum", "steps")]
        kkt = [r["acs"]["kkt"] for r in rows if r["acs"]["kkt"] is not None]
        found = [f"{median(kkt):.0e}", f"{max(kkt):.0e}"] if kkt else ["", ""]
        longest = f"{max(r['acs']['columns'] for r in rows):.2g}"
        lines.append(f"| {name.partition(' | ')[0]} | {' | '.join([*counts, *found, longest])} |")
    return "\n".join(lines)


def certificates() -> str:
    """Certified, per size and activation: how many, the largest gap, time, and how often Adam ended above."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for name, row in runs("certified").items():
        n, n_p, n_q, kind, *_ = name.split()
        cells[f"({n}, {n_p}, {n_q})", kind].append(row)
    lines = [
        "| (n, n_p, n_q) | activation | certified | by | largest gap | nodes, at most | seconds, at most | Adam above |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (size, kind), rows in cells.items():
        above = sum(r["adam"] > r["loss"] * 1.001 + 1e-6 for r in rows)
        done = f"{sum(r['complete'] for r in rows)} of {len(rows)}"
        ways = ", ".join(sorted({r["how"] for r in rows}))
        tail = f"{max(r['gap'] for r in rows):.0e} | {max(r['nodes'] for r in rows)}"
        tail += f" | {max(r['seconds'] for r in rows):.1f} | {above} of {len(rows)}"
        lines.append(f"| {size} | {kind} | {done} | {ways} | {tail} |")
    return "\n".join(lines)


def figure() -> None:
    """Loss and recovery of the three methods, problem by problem."""
    import matplotlib

    rows = grouped(runs("small", "nano", "mini"))
    names = list(rows)
    with matplotlib.rc_context({"svg.hashsalt": "monosem", "svg.fonttype": "none", "font.size": 9}):
        canvas, (left, right) = new_figure(2, 0.36 * len(names) + 1.3)
        for k, ((way, label), colour) in enumerate(zip(WAYS, (ORANGE, BLUE, GREEN), strict=True)):
            for axis, key in ((left, "loss"), (right, "recovered")):
                for i, name in enumerate(names):
                    values = [max(r[way][key], 1e-6) if key == "loss" else r[way][key] for r in rows[name]]
                    place = i + 0.22 * (k - 1)
                    axis.plot(values, [place] * len(values), "|", color=colour, markersize=6)
                    axis.plot(
                        [median(values)], [place], "o", color=colour, markersize=4, label=label if i == 0 else None
                    )
        for axis in (left, right):
            axis.set_yticks(range(len(names)), [n.replace(" | ", ", ") for n in names] if axis is left else [])
            axis.invert_yaxis()
            for i in range(1, len(names)):
                axis.axhline(i - 0.5, color=GREY, linewidth=0.3)
        left.set_xscale("log")
        tidy(left, "loss / zero dictionary (1e-6 or less at the edge)", "", "dots: medians; bars: runs", legend=False)
        tidy(right, "share of features recovered", "", "")
        canvas.savefig(PAGE.parent / "figures" / "acs.svg", metadata={"Date": None})


def main() -> None:
    """Fill the marked blocks of the page and draw the figure."""
    text = PAGE.read_text()
    for name, made in (("comparison", comparison()), ("stops", stops()), ("certificates", certificates())):
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = block.sub(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text)  # type: ignore[misc]
    PAGE.write_text(text)
    figure()


if __name__ == "__main__":
    main()

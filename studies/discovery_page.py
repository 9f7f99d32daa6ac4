"""The table and figure of docs/discovery.md, from the records of discovery."""

from pathlib import Path
from typing import Any

from monosem.report.style import GREY, PALETTE, plain_axes, to_svg
from studies.discovery_limits import CELLS
from studies.discovery_limits_page import limits_figure, limits_table

PAGE = Path("docs/discovery.md")
FIGURE = Path("docs/figures/discovery.svg")


def write_page(records: list[dict[str, Any]], order: list[str], limits: list[dict[str, Any]]) -> None:
    """Replace the parts of the page between their marks, and draw the figures."""
    records = sorted(records, key=lambda record: order.index(record["name"]))
    parts = {"records": _table(records, order), "limits": f"{limits_table(limits, list(CELLS))}\n\n{_where(limits)}"}
    text = PAGE.read_text()
    for name, part in parts.items():
        before, begin, rest = text.partition(f"<!-- {name}: begin -->\n")
        text = f"{before}{begin}{part}\n<!-- {name}: end -->" + rest.partition(f"<!-- {name}: end -->")[2]
    PAGE.write_text(text)
    limits_figure(limits)
    FIGURE.write_text(to_svg(_figure(records), "Recall and precision of discovered atoms after every round"))


def _table(records: list[dict[str, Any]], order: list[str]) -> str:
    head = "| world | n | n_p | atoms | recall | precision | M_IP | L0, true | rarest fifth | CPU s |"
    lines = [head, "|---|" + "---:|" * 9]
    for record in records:
        r = record["result"]
        numbers = (f"{r['recall']:.3f}", f"{r['precision']:.3f}", f"{r['M_IP']:.4f}")
        more = (f"{r['l0']:.2f}, {r['true_l0']:.2f}", f"{r['recall_by_frequency'][-1]:.3f}", f"{record['cpu_s']:.0f}")
        cells = (record["name"], record["n"], record["n_p"], r["atoms"], *numbers, *more)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    missing = [name for name in order if name not in {record["name"] for record in records}]
    if missing:
        lines += ["", "Not run: " + ", ".join(missing) + "."]
    return "\n".join([*lines, "", _where(records)])


def _where(records: list[dict[str, Any]]) -> str:
    """On what the records were made."""
    machines = sorted({f"{r['env']['cpu']}, {r['env']['threads']} thread" for r in records})
    commits = sorted({str(r["env"]["commit"])[:9] for r in records})
    return f"Hardware: {'; '.join(machines)}. Commits: {', '.join(commits)}."


_DASHES = ("-", "--", ":")
"""How worlds beyond the palette's colours are told apart."""


def _figure(records: list[dict[str, Any]]) -> Any:
    """What is left over after every round, one line per world: how a search goes, and where it breaks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, record in enumerate(records):
        colour, dashes, log = PALETTE[i % len(PALETTE)], _DASHES[i // len(PALETTE) % len(_DASHES)], record["log"]
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.4}
        turns = range(1, len(log) + 1)
        left.plot(turns, [entry["atoms"] / record["n"] for entry in log], **style)
        right.plot(turns, [max(entry["fvu"], 1e-5) for entry in log], label=record["name"], **style)
    left.axhline(1.0, color=GREY, linewidth=0.8, linestyle="--")
    left.set(xlabel="round", ylabel="atoms / true features", ylim=(0, None))
    right.set(xlabel="round", ylabel="energy left over (FVU)", yscale="log")
    for axes in (left, right):
        plain_axes(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=2.6)
    return figure

"""Tables of a speed record for the terminal."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from benchmarks.speed.floor import PIECES
from benchmarks.speed.summary import CPU, WALL, Spread, floor_pieces, over_ours, ratios, spread


def tables(record: dict[str, Any]) -> Iterator[Table]:
    """For every size: whole steps (median and half the distance of the quartiles), then the floor's pieces."""
    counts = record["options"]["threads"]
    for name, size in record["sizes"].items():
        for threads in counts:
            yield _steps(name, size, threads)
            yield _floor(name, size, threads)


def _steps(name: str, size: dict[str, Any], threads: int) -> Table:
    time, kind = (CPU, "processor") if threads == 1 else (WALL, "wall")
    shape = size["shape"]
    title = f"{name}: n_p = {shape['n_p']}, n_q = {shape['n_q']}, k = {shape['k']}, batch {shape['batch']}"
    table = Table(title=f"{title}; {threads} thread(s), {kind} time in encoder products", title_justify="left")
    for column in ("case", "state", "who", "steps", "x monosem", "L0", "dead", "MB"):
        table.add_column(column, no_wrap=True, overflow="fold")
    for case, contenders in size["cases"].items():
        for who, contender in contenders.items():
            if "error" in contender and not contender["turns"]:
                table.add_row(case, "", who, "[red]failed[/]")
            for state in dict.fromkeys(turn["state"] for turn in contender["turns"]):
                found = spread(ratios(contender, state, threads, time).values())
                if found is None:
                    continue
                beside = over_ours(contenders, who, state, threads, time) if who != "monosem" else None
                facts = [turn["facts"] for turn in contender["turns"] if turn["state"] == state][-1]
                table.add_row(
                    case,
                    state,
                    who,
                    _short(found),
                    _short(beside) if beside else "",
                    f"{facts['l0']:.1f}" if "l0" in facts else "",
                    f"{facts['dead']:.2f}" if "dead" in facts else "",
                    f"{contender['memory_mb']:.0f}" if "memory_mb" in contender else "",
                )
    return table


def _short(found: Spread) -> str:
    """The median and the half of what lies between the quartiles."""
    return f"{found.median:.2f} ± {(found.high - found.low) / 2:.2f}"


def _floor(name: str, size: dict[str, Any], threads: int) -> Table:
    table = Table(title=f"{name}: the floor, {threads} thread(s)", title_justify="left")
    for column in ("piece", "ms", "of one product"):
        table.add_column(column)
    for piece, (ms, share) in floor_pieces(size["floor"], list(PIECES), threads).items():
        table.add_row(PIECES[piece], f"{ms.median:.2f}", share.text(3))
    return table

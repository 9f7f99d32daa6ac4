"""`monosem speed`: whole training steps, of monosem and of other libraries, in units of one encoder product."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from monosem.cli.console import fail, out, say


def speed(
    quick: Annotated[bool, typer.Option("--quick", help="Small size, main methods, few rounds: a minute.")] = False,
    sizes: Annotated[str, typer.Option(help="Among small, paper, large, separated by commas.")] = "small,paper",
    cases: Annotated[
        str | None,
        typer.Option(help="Cases, separated by commas; main: those with goals. [default: all]", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every contender has one turn.")] = 5,
    threads: Annotated[str, typer.Option(help="Thread counts, separated by commas.")] = "1",
    warm: Annotated[int | None, typer.Option(help="At most this many steps before timing. [default: 200]")] = None,
    peers: Annotated[
        Path | None,
        typer.Option(help="Folder of side environments (python benchmarks/peers.py --speed); none: monosem alone."),
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Also cost against n_q, k, batch and n_p.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also many runs at once, in one process and in two.")] = False,
    floor: Annotated[bool, typer.Option("--floor/--no-floor", help="The floor's pieces.")] = True,
    record: Annotated[Path, typer.Option(help="The record that is written.")] = Path("runs/speed.json"),
) -> None:
    """Time whole steps of the public `fit`, the floor's pieces and other libraries, in turns; write a record."""
    from benchmarks.speed.drive import Options, measure
    from benchmarks.speed.peers import environments
    from benchmarks.speed.sizes import CASES, MAIN, QUICK, SIZES
    from benchmarks.tables import tables
    from monosem.base.files import write_json

    if cases == "main":
        chosen = MAIN
    elif cases:
        chosen = _among("--cases", cases, tuple(CASES))
    else:
        chosen = QUICK if quick else tuple(CASES)
    try:
        counts = tuple(int(word) for word in threads.split(","))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        fail(f"--threads {threads!r}; give whole numbers from 1 on, separated by commas, as 1,2")
    if rounds < 1 or (warm is not None and warm < 1):
        fail(f"--rounds {rounds}, --warm {warm}; both must be at least 1")
    options = Options(
        sizes=_among("--sizes", sizes, tuple(SIZES)) if not quick else ("small",),
        cases=chosen,
        rounds=min(rounds, 3) if quick else rounds,
        threads=counts,
        peers=environments(peers) if peers else {},
        warm=50 if quick and warm is None else warm,
        floor=floor,
        curves=curves,
        sweep=sweep,
    )
    if peers and not options.peers:
        fail(f"--peers {peers} holds no side environment; make them with `python benchmarks/peers.py --speed`")
    command = "monosem " + " ".join(shlex.quote(word) for word in sys.argv[1:])
    found = measure(options, command, lambda text: say(text, "dim"))
    for table in tables(found):
        out().print(table)
    say(f"record   {write_json(record, found)}  ({found['minutes']:.1f} minutes)")
    wrong = _errors(found)
    for line in wrong:
        say(f"failed: {line}", "red")
    if wrong:
        fail(f"{len(wrong)} contenders failed; the others are in the record", code=1)


def _among(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        fail(f"{option} {text!r}: {', '.join(unknown) or 'nothing'} is not known; choose from {', '.join(known)}")
    return words


def _errors(record: dict[str, Any]) -> list[str]:
    found = []
    for size, one in record["sizes"].items():
        parts = {"floor": {"floor": one["floor"]}, **one["cases"]}
        for case, contenders in parts.items():
            found += [f"{size} {case} {who}: {c['error']}" for who, c in contenders.items() if "error" in c]
    return found


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(speed)

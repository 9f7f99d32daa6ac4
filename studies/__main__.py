"""`python -m studies table5 --scale paper`: the tables and figures of the paper, from a queue that resumes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli import guarded
from monosem.cli.console import Commands, err, every_nth, fail, out, say
from studies.fetch import fetch
from studies.pack import pack

if TYPE_CHECKING:
    from studies.engine.cells import Results
    from studies.engine.study import Entry

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="The paper, table by table. `python -m studies NAME ...` is `python -m studies study NAME ...`.",
)


@app.command()
def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Studies, such as table1 or samples; none: list them.", show_default=False),
    ] = None,
    scale: Annotated[str, typer.Option(help="nano, mini, mini-hard or paper.")] = "mini",
    seeds: Annotated[
        int | None, typer.Option(help="Number of worlds. [default: the scale's]", show_default=False)
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="Run this arm only; repeat for several.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help='Device that trains the models, such as "cuda".')] = "cpu",
    workers: Annotated[
        int | None, typer.Option(help="Single-threaded processes. [default: one per core]", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the records. [default: runs/studies/SCALE]", show_default=False),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also draw each study's figure into this folder.", show_default=False)
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Every N-th run from the I-th on, I/N: one task of an array.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Run nothing; show what the records hold.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Leave the committed records out: run theirs too.")] = False,
) -> None:
    """Run tables and figures of the paper and show them beside the printed numbers; an interrupted study resumes."""
    from studies.catalog import STUDIES
    from studies.engine.cells import Results
    from studies.engine.records import Records
    from studies.engine.scale import SCALES

    if not names:
        _list()
        return
    _check_counts(seeds, workers)
    size, folder = SCALES[scale], out_folder or Path("runs/studies") / scale
    chosen = [STUDIES[name] for name in dict.fromkeys(names)]
    entries = _wanted([entry for one in chosen for entry in one.entries(size, seeds, device)], arm)
    places = [folder, *(() if fresh else dict.fromkeys(one.committed(size) for one in chosen))]
    failed = 0 if show else _run(entries, places, workers, scale, index)
    if index is None:
        _show([Results.of(one, size, Records(*places), seeds) for one in chosen], figures)
    if failed:
        fail(f"{failed} of {len(entries)} runs failed; call the same command again to try them again", code=1)


def _check_counts(seeds: int | None, workers: int | None) -> None:
    from monosem.base import check

    check(seeds is None or seeds > 0, f"--seeds {seeds}; use at least one world")
    check(workers is None or workers > 0, f"--workers {workers}; use at least one")


def _wanted(entries: "list[Entry]", arms: list[str] | None) -> "list[Entry]":
    """The entries of these arms, or all."""
    known = dict.fromkeys(entry.arm for entry in entries)
    for unknown in set(arms or ()) - set(known):
        fail(f"no run has an arm {unknown!r}; known: {', '.join(filter(None, known)) or 'none'}")
    return [entry for entry in entries if not arms or entry.arm in arms]


def _list() -> None:
    from studies.catalog import STUDIES
    from studies.pages import RUNS

    for name, one in STUDIES.items():
        out().print(f"{name:12} {one.title}", soft_wrap=True, markup=False, highlight=False)
    say("python -m studies NAME --scale nano tries one in a minute; --show shows what has been run", "dim")
    say(f"with words of their own, see the first lines of their files: {', '.join(RUNS)}", "dim")


def _run(entries: "Sequence[Entry]", places: Sequence[Path], workers: int | None, scale: str, index: str | None) -> int:
    """Run what has no record yet, with bars; returns how many runs failed."""
    from monosem.cli.live import LiveRuns
    from studies.engine.queue import run_missing

    part = None if index is None else every_nth(index)
    say(f"{len(entries)} runs at scale {scale}; records go to {places[0]}", "dim")
    runs = [entry.run for entry in entries]
    live = LiveRuns(runs, err(), "seed")
    with live:
        there = run_missing(runs, places[0], workers, live.callbacks, lambda line: say(line, "dim"), places[1:], part)
    if there:
        say(f"{there} of {len(runs)} runs were there already, or stand in several rows", "dim")
    for number, why in live.failed.items():
        say(f"failed: {runs[number].method} {runs[number].arm} seed {runs[number].seed}: {why}", "red")
    return len(live.failed)


def _show(shown: "Sequence[Results]", figures: Path | None) -> None:
    """Print the tables of what the records hold; write each figure as NAME.svg, or say that there is none."""
    from monosem.report import write_figure
    from studies.engine.tables import text

    for results in shown:
        one = results.study
        out().print(text(results), soft_wrap=True, markup=False, highlight=False)
        figure = one.figure(results) if one.figure and figures else None
        if figures and figure:
            say(str(write_figure(figures / f"{one.name}.svg", figure, one.title)))
        elif figures:
            say(f"{one.name} has no figure, or no run to draw", "yellow")


app.command()(fetch)
app.command()(pack)


@app.command()
def pages(
    names: Annotated[list[str] | None, typer.Argument(help="Pages; none: all of them.", show_default=False)] = None,
) -> None:
    """Write every page and figure that is made from records; nothing is run or measured."""
    from monosem.base import check
    from studies.pages import PAGES, main

    for name in names or ():
        check(name in PAGES, f"unknown page {name!r}; known: {', '.join(PAGES)}")
    main(names or ())


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def other(context: typer.Context, name: str) -> None:
    """A study that is no table of the paper, with words of its own."""
    from studies.pages import RUNS

    RUNS[name](context.args)


def arguments(words: Sequence[str]) -> list[str]:
    """The words of a call, with the command `study`, or `other`, where they name none.

    Example:
        >>> arguments(["table5", "--show"]), arguments(["pages"]), arguments(["classical", "sweep"])
        (['study', 'table5', '--show'], ['pages'], ['other', 'classical', 'sweep'])
    """
    if words[:1] and words[0] in {"study", "fetch", "pages", "pack", "rerun", "--help"}:
        return list(words)
    return ["other" if _is_other(words[:1]) else "study", *words]


def _is_other(first: Sequence[str]) -> bool:
    from studies.pages import RUNS

    return bool(first) and first[0] in RUNS


def main() -> None:
    """The command line."""
    words = arguments(sys.argv[1:])
    if words[:1] == ["rerun"]:
        from studies.rerun import rerun

        app.command()(rerun)
    guarded(lambda: app(words, prog_name="python -m studies"))


if __name__ == "__main__":
    main()

"""`python -m studies table5 --scale paper` runs a study; fetch, pages, pack and rerun are commands of their own."""

import sys
from collections.abc import Callable, Mapping, Sequence

import typer

from monosem.cli.console import Commands
from studies import command, fetch, pack


def _app(run: object) -> typer.Typer:
    app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(run)  # type: ignore[type-var]
    return app


def _runs() -> Mapping[str, Callable[[Sequence[str]], None]]:
    from studies.pages import RUNS

    return RUNS


def main() -> None:
    """Run what the first word names, a study where it names nothing else."""
    words = sys.argv[1:]
    if words[:1] == ["fetch"]:
        _app(fetch.fetch)(words[1:], prog_name="python -m studies fetch")
    elif words[:1] == ["pages"]:
        from studies import pages

        pages.main(words[1:])
    elif words[:1] == ["pack"]:
        _app(pack.pack)(words[1:], prog_name="python -m studies pack")
    elif words[:1] == ["rerun"]:
        from studies import rerun

        _app(rerun.rerun)(words[1:], prog_name="python -m studies rerun")
    elif words and words[0] in _runs():
        _runs()[words[0]](words[1:])
    else:
        _app(command.study)(words, prog_name="python -m studies")


if __name__ == "__main__":
    main()

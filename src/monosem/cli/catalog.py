"""`monosem list` and `monosem cite`: what there is, by name, and whose work it is."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from monosem.cli.console import fail, out


def cite(
    method: Annotated[str, typer.Argument(help='A method: "topk", "jumprelu_transcoder", "topk(k=8)".')],
) -> None:
    """Print BibTeX: the method, its pairing, and the paper that states the one problem."""
    from monosem.base.literature import TANG_2025
    from monosem.methods import recipe_of

    recipe, pairing = recipe_of(method)
    entries = [entry for entry in (recipe.citation, pairing, TANG_2025) if entry is not None]
    typer.echo("\n".join(dict.fromkeys(entry.bibtex for entry in entries)))


def catalog(
    what: Annotated[
        str, typer.Argument(help="methods, pairings, activations, terms, tasks or worlds; all without it.")
    ] = "",
) -> None:
    """List methods with their arguments and citations, pairings, activations, loss terms, tasks and parts of worlds."""
    tables: dict[str, Callable[[], Table]] = {
        "methods": _methods,
        "pairings": _pairings,
        "activations": _activations,
        "terms": _terms,
        **{kind: partial(_entries, kind) for kind in _KINDS},
        "tasks": _tasks,
        "worlds": _worlds,
    }
    if what and what not in tables:
        fail(f"there is no list of {what!r}; choose one of {', '.join(tables)}")
    for name, table in tables.items():
        if what in ("", name):
            out().print(table())
            out().print()
    if what in ("", "methods"):
        out().print(
            '[dim]Any method takes a pairing as suffix, and any argument in brackets: "topk_crosscoder(k=8)".[/]'
        )


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    """A name, what it is, and below that, dim, what it takes or where it is from."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, what, more in rows:
        table.add_row(name, Text.assemble(what, (f"\n{more}" if more else "", "dim")))
    return table


def _methods() -> Table:
    from monosem.methods import METHODS

    rows = (
        (name, recipe.summary, f"{_arguments(recipe.defaults)}   [{recipe.citation.short}]")
        for name, recipe in METHODS.items()
    )
    return _table("Methods", rows)


def _pairings() -> Table:
    from monosem.core.pairs import PAIRINGS
    from monosem.methods import recipe_of

    def row(name: str) -> tuple[str, str, str]:
        example = "topk" if name == "sae" else f"topk_{name}"
        citation = recipe_of(example)[1]
        return (
            name,
            _sentence(type(PAIRINGS[name])),
            f"as in {example}" + (f"   [{citation.short}]" if citation else ""),
        )

    return _table("Pairings", map(row, PAIRINGS))


def _activations() -> Table:
    from monosem.core.activations import ACTIVATIONS

    return _table(
        "Activations", ((name, _sentence(kind), _arguments(_fields(kind))) for name, kind in ACTIVATIONS.items())
    )


def _terms() -> Table:
    from monosem.losses import fidelity, revival, sparsity  # noqa: F401 (they register their terms)
    from monosem.losses.objective import TERMS

    return _table("Loss terms", ((name, _sentence(kind), _arguments(_fields(kind))) for name, kind in TERMS.items()))


_KINDS = ("constraints", "encoders", "dictionaries", "settings", "schedules")
"""What else a method's text can name; docs/methods.md."""


def _entries(kind: str) -> Table:
    from monosem.methods.catalogue import catalogue

    where = {entry.where for entry in catalogue()[kind]}
    rows = ((entry.name, entry.summary, entry.text) for entry in catalogue()[kind])
    return _table(f"{kind.capitalize()}, {' or '.join(where)}", rows)


def _tasks() -> Table:
    from monosem.bench.tasks import TASKS

    table = Table(
        title="Tasks, each for an SAE, a transcoder and a crosscoder",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        caption="n features in n_p dimensions, n_q latents, S = Pr(x_i = 0), M the interference",
        caption_justify="left",
    )
    table.add_column("name", style="cyan", no_wrap=True)
    for column in ("version", "n", "n_p", "n_q", "S", "M", "rows", "anchors"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, task in TASKS.items():
        world = task.world
        sparsity = getattr(world.law, "sparsity", None)
        rows = "stream" if world.rows is None else f"{world.rows:,}"
        law = type(world.law).__name__ if sparsity is None else f"{sparsity:g}"
        sizes = (world.n, world.widths[0], task.n_q, law, f"{world.max_interference:g}", rows, task.anchors)
        table.add_row(name, str(task.version), *map(str, sizes))
    return table


def _worlds() -> Table:
    from monosem.bench.worlds import PARTS

    rows = ((name, registry.kind, kind) for registry in PARTS for name, kind in registry.items())
    return _table(
        "Parts of a world: world(n=60, d=32, rows=4000, M=0.3, spread=0.0, signed=False) + ...",
        ((name, f"{kind}: {_sentence(one)}", _arguments(_fields(one))) for name, kind, one in rows),
    )


def _sentence(kind: type) -> str:
    """The first sentence of a docstring, on one line, without its closing point."""
    words = " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())
    return words.partition(". ")[0].removesuffix(".")


def _fields(kind: Any) -> dict[str, Any]:
    return {
        f.name: f.default if f.default is not dataclasses.MISSING else "..." for f in dataclasses.fields(kind) if f.init
    }


def _arguments(defaults: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return f"({', '.join(map(text, value))})" if isinstance(value, tuple) else str(value)

    return ", ".join(f"{name}={text(value)}" for name, value in defaults.items())


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(catalog)
    app.command()(cite)

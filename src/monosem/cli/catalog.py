"""`monosem list` and `monosem cite`: what there is, by name, and whose work it is."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from monosem.cli.console import fail
from monosem.cli.options import Answer, catalogue, command_of, listed

LISTS = {
    "methods": "Methods",
    "pairings": "Pairings",
    "activations": "Activations",
    "terms": "Loss terms",
    "constraints": "Constraints",
    "encoders": "Encoders",
    "dictionaries": "Dictionaries",
    "optimisers": "Optimisers",
    "settings": "Settings",
    "schedules": "Schedules",
    "tasks": "Tasks, each for an SAE, a transcoder and a crosscoder",
    "worlds": "Parts of a world: world(n=60, d=32, rows=4000, M=0.3, spread=0.0, signed=False) + ...",
}
"""What can be listed, and its title."""
Entry = dict[str, str]
"""A `name`, `what` it is, the `arguments` it takes with their defaults, and the `source` that it cites."""


@dataclass(frozen=True)
class _CiteOptions:
    """The options of `monosem cite`."""

    method: Annotated[
        str,
        typer.Argument(
            help='Method, such as "topk", "jumprelu_transcoder" or "topk(k=8)".',
            autocompletion=lambda: listed("methods"),
        ),
    ]


@command_of(_CiteOptions)
def cite(o: _CiteOptions) -> Answer:
    """Print BibTeX: the method, its pairing, and the paper that states the one problem."""
    from monosem.base.literature import TANG_2025
    from monosem.methods import recipe_of

    recipe, pairing = recipe_of(o.method)
    entries = dict.fromkeys(entry for entry in (recipe.citation, pairing, TANG_2025) if entry is not None)
    facts = {entry.key: dataclasses.asdict(entry) for entry in entries}
    return Answer(facts, "\n".join(entry.bibtex for entry in entries))


_GRAMMAR = """A method is a row or an activation and its edits: "topk(32) + ortho(0.25) - auxk | aligned @ crosscoder".
+ and - before a term; after |, parts: constraints, encoders, dictionaries,
optimisers, settings; after @, or as suffix, a pairing.
A weight may be a schedule: "relu_l1(l1=to_l0(20))". Your own terms: monosem --load mine.py list."""


@dataclass(frozen=True)
class _ListOptions:
    """The options of `monosem list`."""

    what: Annotated[
        str,
        typer.Argument(
            help="What to list, such as methods, terms or tasks; without it, everything.",
            autocompletion=lambda: list(LISTS),
        ),
    ] = ""


@command_of(_ListOptions)
def list_(o: _ListOptions) -> Answer:
    """List methods with their arguments and citations, pairings, activations, loss terms, tasks and parts of worlds."""
    from monosem.base import plugins

    if o.what and o.what not in LISTS:
        fail(f"there is no list of {o.what!r}; choose one of {', '.join(LISTS)}")
    lists = registered() if plugins.loaded() else catalogue()
    chosen = {name: lists[name] for name in LISTS if o.what in ("", name)}
    shown: list[RenderableType] = []
    for name, entries in chosen.items():
        shown += [_table(LISTS[name], entries), ""]
    if "tasks" in chosen:
        shown.append(Text("n features in n_p dimensions, n_q latents, S = Pr(x_i = 0), M the interference", "dim"))
    if "methods" in chosen:
        shown.append(Text(_GRAMMAR, "dim"))
    return Answer(chosen, Group(*shown))


def registered() -> dict[str, list[Entry]]:
    """The catalogue as the registries have it."""
    makers = {"methods": _methods, "pairings": _pairings, "tasks": _tasks, "worlds": _worlds}
    return {name: list(makers[name]() if name in makers else _parts(name)) for name in LISTS}


def write_catalog() -> None:
    """Write the registries into the catalogue that ships."""
    from monosem.base.files import write_atomic

    text = json.dumps(registered(), indent=1, ensure_ascii=False) + "\n"
    write_atomic(Path(__file__).with_name("catalog.json"), text.encode())


def _table(title: str, entries: Iterable[Entry]) -> Table:
    """A name, what it is, and below that, dim, what it takes and where it is from."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for entry in entries:
        more = "   ".join(filter(None, (entry["arguments"], entry["source"] and f"[{entry['source']}]")))
        table.add_row(entry["name"], Text.assemble(entry["what"], (f"\n{more}" if more else "", "dim")))
    return table


def _entry(name: str, what: str, arguments: str = "", source: str = "") -> Entry:
    return {"name": name, "what": what, "arguments": arguments, "source": source}


def _methods() -> Iterable[Entry]:
    from monosem.methods import METHODS, method
    from monosem.methods.catalogue import catalogue as parts
    from monosem.methods.spelling import made_of

    for entry in parts()["methods"]:
        text = f"{entry.text} = {made_of(method(entry.name))}"
        yield _entry(entry.name, entry.summary, text, METHODS[entry.name].citation.short)


def _pairings() -> Iterable[Entry]:
    from monosem.methods import recipe_of
    from monosem.methods.catalogue import catalogue as parts

    for entry in parts()["pairings"]:
        example = "topk" if entry.name == "sae" else f"topk_{entry.name}"
        citation = recipe_of(example)[1]
        text = f"{entry.text}, {entry.where}, or as in {example}"
        yield _entry(entry.name, entry.summary, text, citation.short if citation else "")


def _parts(kind: str) -> Iterable[Entry]:
    """What else a method's text can name; docs/methods.md."""
    from monosem.methods.catalogue import catalogue as parts

    for entry in parts()[kind]:
        yield _entry(entry.name, entry.summary, entry.text, entry.where)


def _tasks() -> Iterable[Entry]:
    from monosem.bench.tasks import TASKS

    for name, task in TASKS.items():
        world = task.world
        sparsity = getattr(world.law, "sparsity", None)
        law = f"law {type(world.law).__name__}" if sparsity is None else f"S={sparsity:g}"
        rows = "a stream of rows" if world.rows is None else f"{world.rows:,} rows"
        sizes = f"n={world.n}, n_p={world.widths[0]}, n_q={task.n_q}, {law}, M={world.max_interference:g}"
        yield _entry(name, f"{sizes}, {rows}", f"version {task.version}, {task.anchors} anchors")


def _worlds() -> Iterable[Entry]:
    from monosem.bench.worlds import PARTS
    from monosem.methods.catalogue import entry_of

    for registry in PARTS:
        for name, kind in registry.items():
            entry = entry_of(name, kind)
            yield _entry(name, f"{registry.kind}: {entry.summary}", entry.text)

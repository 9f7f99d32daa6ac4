"""`monosem evaluate`: score a trained model on a task of the bench, or on the network that it was trained on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from monosem.cli.console import err, fail, out, say, set_threads

if TYPE_CHECKING:
    from monosem.data.batches import Batch, TokenFilter
    from monosem.networks.network import NetworkScores

_on_task = partial(typer.Option, rich_help_panel="On a task, whose true features are known", show_default=False)
_on_network = partial(typer.Option, rich_help_panel="On a language model", show_default=False)


def evaluate(
    folder: Annotated[
        Path, typer.Argument(help="A trained model: a folder, or a file of any known format.", show_default=False)
    ],
    task: Annotated[str | None, _on_task(help="Task; `monosem list tasks` names them.")] = None,
    pairing: Annotated[
        str | None, _on_task(help="sae, transcoder or crosscoder. [default: the model's]", show_default=False)
    ] = None,
    world: Annotated[int, _on_task(help="Seed of the world. [default: 0]")] = 0,
    held_out: Annotated[
        int | None, _on_task(help="Number of anchored features to leave out. [default: the task's]")
    ] = None,
    records: Annotated[
        Path | None, _on_task("--out", help="Folder for a record, which `monosem report` shows beside your own runs.")
    ] = None,
    text: Annotated[list[Path] | None, _on_network("--text", help="Held-out texts: .txt, .jsonl or .parquet.")] = None,
    network: Annotated[
        str | None, _on_network(help="Language model: a folder or a known network. [default: that of its store]")
    ] = None,
    at: Annotated[
        str | None, _on_network(help='Sites, as "model.layers.5.mlp:in,out". [default: those of its store]')
    ] = None,
    to: Annotated[str | None, _on_network(help="Sites to write, where --at is only read.")] = None,
    each: Annotated[str, _on_network(help="One document of a .txt file: line, paragraph or file. [default: line]")] = (
        "line"
    ),
    field: Annotated[str, _on_network(help="Field or column that holds the text. [default: text]")] = "text",
    length: Annotated[int, _on_network(help="Most tokens of one window. [default: 256]")] = 256,
    rows: Annotated[int, typer.Option(help="Held-out rows, or tokens of the text, to score on.")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Annotated[int | None, typer.Option(help="Torch threads.", show_default=False)] = None,
) -> None:
    """Score a model against a task's true features, or by what its network loses with the reconstruction in place.

    On a task: four similarities, matching, codes, chance and oracle. On a network: FVU, L0, dead latents, cosine;
    cross-entropy and KL of the next token with x_r_hat in the place of x_r; loss recovered against ablation.
    """
    set_threads(threads)
    on_network = bool(text) or network is not None or at is not None
    if (task is None) != on_network:
        fail("say on what: either --task TASK, or --text FILES with the network's --network and --at")
    if task is not None:
        _evaluate_on_task(folder, task, pairing, world, held_out, rows, as_json, records)
        return
    if not text:
        fail("no text to score on; give --text FILES that the model was not trained on")
    place = find_place(folder, network, at, to)
    scores = _score_on_network(folder, place, text, each, field, rows, length)
    if as_json:
        facts = {"model": str(folder), "network": place.network, "at": place.at, "to": place.to}
        typer.echo(json.dumps(facts | scores.plain(), indent=1, sort_keys=True))
        return
    out().print(_network_table(scores, f"{folder} in {place.network}"))


def _evaluate_on_task(
    folder: Path,
    task: str,
    pairing: str | None,
    world: int,
    held_out: int | None,
    rows: int,
    as_json: bool,
    records: Path | None,
) -> None:
    from monosem.bench.foreign import foreign_record, write_foreign
    from monosem.bench.run import pairing_of
    from monosem.bench.tasks import SIDES, TaskSource
    from monosem.bench.tasks import task as find_task
    from monosem.cli.tables import score_table
    from monosem.interop import read

    loaded = read(folder)
    spec = str(loaded.metadata.get("method", ""))
    pairing = pairing or (pairing_of(spec) if spec else "sae")
    if pairing not in SIDES:
        fail(f"unknown pairing {pairing!r}; choose {', '.join(SIDES)}")
    source = TaskSource(find_task(task, pairing, world))
    name = folder.stem if folder.is_file() else folder.resolve().name
    with err().status(f"scoring on {task}"):
        about = spec or f"{loaded.format}(n_q={loaded.model.layout.n_q})"
        record = foreign_record(loaded.model, source, name, about, held_out=held_out, rows=rows)
    for note in loaded.notes:
        say(note, "yellow")
    if records is not None:
        say(f"record   {write_foreign(records, record)}")
    scored = source.task.scored(held_out).numel()
    if as_json:
        facts = {"model": str(folder), "method": spec, "task": task, "pairing": pairing, "world": world}
        facts |= {"format": loaded.format}
        typer.echo(json.dumps(facts | {"scored": scored, "metrics": record["metrics"]}, indent=1, sort_keys=True))
        return
    title = f"{spec or folder} on {task}, {pairing}, world {world}: {scored} features"
    out().print(score_table(record["metrics"], title))


@dataclass(frozen=True)
class _Place:
    """A network's name or folder, the sites of a model in it, and the tokens that it was trained on."""

    network: str
    at: str
    to: str | None
    drop: tuple[int, ...] | None = None
    first: int = 0


def find_place(folder: Path, network: str | None, at: str | None, to: str | None) -> _Place:
    """What is given, and else what `monosem train` noted beside the model about its store."""
    from monosem.data.store import is_store, open_store
    from monosem.data.trained import trained_on

    trained = trained_on(folder)
    about: dict[str, Any] = {}
    if trained is not None:
        at, to = (trained.read, to or trained.write) if at is None else (at, to)
        about = open_store(trained.store).manifest["about"] if is_store(trained.store) else {}
    named = about.get("model") or []
    network = network or (named[0] if len(named) == 1 else None)
    if network is None or at is None:
        missing = " and ".join([*(["--network"] * (network is None)), *(["--at"] * (at is None))])
        fail(f"{folder} does not say where it belongs; give {missing}, as --network smollm2 --at model.layers.15:out")
    return _Place(network, at, to, tuple(about["drop"]) if "drop" in about else None, int(about.get("first", 0)))


def _score_on_network(
    folder: Path, place: _Place, text: list[Path], each: str, field: str, tokens: int, length: int
) -> "NetworkScores":
    """Read everything, splice, score."""
    from monosem.data.batches import TokenFilter
    from monosem.data.texts import read_documents, text_batches
    from monosem.interop import load
    from monosem.networks.models import open_network
    from monosem.networks.network import network_scores

    documents = list(read_documents(text, each, field))  # type: ignore[arg-type]
    model = load(folder)
    with err().status("reading the network"):
        network, tokenizer = open_network(place.network)
    drop = tuple(sorted(set(tokenizer.all_special_ids))) if place.drop is None else place.drop
    keep = TokenFilter(drop, place.first)
    batches = text_batches(tokenizer, (d.text for d in documents), length=length, tokens=1024, keep=keep)
    scored = list(_first(batches, tokens, keep))
    with err().status(f"splicing {folder} into {place.network}, {sum(batch.tokens for batch in scored):,} tokens"):
        return network_scores(network, model, place.at, scored, place.to)


def _first(batches: "Iterator[Batch]", tokens: int, keep: "TokenFilter") -> "Iterator[Batch]":
    """Batches until so many tokens are counted; the last one is counted whole."""
    count = 0
    for batch in batches:
        if count >= tokens:
            return
        yield batch
        count += 0 if batch.keep is None else int(batch.keep.sum())


def _network_table(scores: "NetworkScores", title: str) -> RenderableType:
    """Scores of the code, and a row per set of sites that is replaced."""
    code = _table(title)
    code.add_column("tokens", justify="right")
    for name in ("FVU", "L0", "dead", "cosine"):
        code.add_column(name, justify="right")
    code.add_row(
        f"{scores.tokens:,}", f"{scores.fvu:.4f}", f"{scores.l0:.1f}", f"{scores.dead:.2%}", f"{scores.cosine:.4f}"
    )
    losses = _table("")
    losses.add_column("replaced", style="cyan", overflow="fold")
    for name in ("CE clean", "spliced", "zero", "mean", "KL spliced", "recovered", "vs mean"):
        losses.add_column(name, justify="right", no_wrap=True)
    for effect in scores.effects:
        ce = [f"{effect.ce[name]:.4f}" for name in ("clean", "spliced", "zero", "mean")]
        shares = [_share(effect.recovered(name)) for name in ("zero", "mean")]
        losses.add_row(", ".join(effect.sites), *ce, f"{effect.kl['spliced']:.4f}", *shares)
    note = f"nats per prediction over {scores.predictions:,}; recovered = (zero - spliced) / (zero - clean)"
    return Group(code, losses, note)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _table(title: str) -> Table:
    return Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)

"""`monosem harvest` and `monosem sample`: activations of a network, and texts drawn from it, to disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import err, fail, out, say, set_threads

if TYPE_CHECKING:
    from monosem.data.batches import Batch
    from monosem.networks.harvest import Progress


def sample(
    model: Annotated[str, typer.Option(help="Language model: a folder or a known network.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", help="A .jsonl file.", show_default=False)],
    documents: Annotated[int, typer.Option(help="Number of texts.")] = 1200,
    tokens: Annotated[int, typer.Option(help="Most tokens of one text.")] = 255,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed for the sampled tokens.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Sample texts from a language model, for one whose training texts are not at hand (stories15m)."""
    from monosem.base.files import write_atomic
    from monosem.networks.models import open_network
    from monosem.networks.sampling import sample_texts

    set_threads(threads)
    if out_file.suffix != ".jsonl":
        fail(f"--out {out_file} is no .jsonl file; name it so")
    if out_file.exists():
        say(f"{out_file} is there already; delete it to draw again", "yellow")
        return
    with err().status("reading the network"):
        network, tokenizer = open_network(model)
    lines = []
    with rate_bar(documents, "texts") as progress:
        for text in sample_texts(network, tokenizer, documents, tokens, temperature=temperature, seed=seed):
            lines.append(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            progress(len(lines), len(lines))
    write_atomic(out_file, "".join(lines).encode())
    out().print(f"{len(lines):,} texts in {out_file}", soft_wrap=True)


_Models = Annotated[
    list[str],
    typer.Option(help="A transformers folder or a known network; NAME=PATH, twice, for two.", show_default=False),
]
_At = Annotated[str, typer.Option(help='Sites, as "model.layers.5.mlp:in,out"; * matches.', show_default=False)]
_Text = Annotated[
    list[Path], typer.Option("--text", help="Texts: .txt, .jsonl or .parquet; may be repeated.", show_default=False)
]
_Out = Annotated[Path, typer.Option("--out", help="Folder of the store.", show_default=False)]
_Rows = Annotated[int | None, typer.Option(help="Number of rows to stop after. [default: all]", show_default=False)]
_Each = Annotated[str, typer.Option(help="One document of a .txt file: line, paragraph or file.")]
_Field = Annotated[str, typer.Option(help="Field or column that holds the text.")]
_Label = Annotated[str | None, typer.Option(help="Field or column that holds a document's class.", show_default=False)]


def harvest(
    model: _Models,
    at: _At,
    text: _Text,
    out_folder: _Out,
    rows: _Rows = None,
    each: _Each = "line",
    field: _Field = "text",
    labels: _Label = None,
    length: Annotated[int, typer.Option(help="Most tokens of one window.")] = 256,
    batch: Annotated[int, typer.Option(help="Tokens of one forward pass.")] = 4096,
    special: Annotated[bool, typer.Option(help="Keep special tokens as rows.")] = False,
    first: Annotated[int, typer.Option(help="Number of tokens to skip at the start of a window.")] = 0,
    pool: Annotated[str, typer.Option(help="One row per document: mean, first or last; or none.")] = "none",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    shard_rows: Annotated[int, typer.Option(help="Rows of one shard.")] = 65536,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Store a network's activations at some sites; called again after an interruption, it ends with the same bytes."""
    from monosem.base.files import check_output
    from monosem.data.texts import pieces
    from monosem.networks.harvest import harvest as run

    check_output(out_folder)
    set_threads(threads)
    with err().status("reading the network"):
        models, tokenizer = _models(model)
    _check_length(models, length)
    drop = () if special or pool != "none" else tuple(sorted(set(tokenizer.all_special_ids)))
    batches, names = _batches(tokenizer, (text, each, field, labels), length, batch, drop, first)
    sizes = [{"path": str(path), "bytes": path.stat().st_size} for path in text]
    about = {"model": model, "text": sizes, "each": each, "length": length, "batch": batch}
    with rate_bar(rows) as progress:
        store = run(
            models if len(models) > 1 else next(iter(models.values())),
            at,
            batches,
            out_folder,
            pool=pool,  # type: ignore[arg-type]
            dtype=dtype,
            rows=rows,
            shard_rows=shard_rows,
            labels=names,
            vocabulary=pieces(tokenizer),
            about=about | {"drop": list(drop), "first": first},
            progress=progress,
        )
    sites = ", ".join(f"{site} ({width})" for site, width in zip(store.sites, store.widths, strict=True))
    shards = len(store.manifest["shards"])
    out().print(f"{store.rows:,} rows of {sites} in {out_folder}, {shards} shards", soft_wrap=True)
    say(f'next: monosem train --data {out_folder} --method "topk(k=32)" --n-q 4096 --out MODEL', "dim")


def _check_length(models: dict[str, Any], length: int) -> None:
    for one in models.values():
        most = getattr(one.config, "max_position_embeddings", length)
        if length > most:
            fail(f"--length {length} is more than the network's {most} positions; lower it")


def _batches(
    tokenizer: Any,
    texts: tuple[list[Path], str, str, str | None],
    length: int,
    tokens: int,
    drop: tuple[int, ...],
    first: int,
) -> "tuple[Iterator[Batch], list[str] | None]":
    """Batches of the texts' tokens, and the names of their classes where they have labels."""
    from monosem.data.batches import TokenFilter
    from monosem.data.texts import read_documents, text_batches

    documents, names, codes = list(read_documents(*texts)), None, None  # type: ignore[arg-type]
    if texts[3]:
        names = sorted({str(document.label) for document in documents})
        codes = [names.index(str(document.label)) for document in documents]
    keep, words = TokenFilter(drop, first), (document.text for document in documents)
    return text_batches(tokenizer, words, length=length, tokens=tokens, keep=keep, labels=codes), names


def _models(given: list[str]) -> tuple[dict[str, Any], Any]:
    """Models by name ("" for one), and the tokenizer of the first."""
    from monosem.networks.models import open_network

    opened = {name: open_network(path) for name, path in _named(given)}
    sizes = {len(tokenizer) for _, tokenizer in opened.values()}
    if len(sizes) > 1:
        fail(f"the models' tokenizers differ ({sorted(sizes)} tokens); two models must read the same batches")
    return {name: network for name, (network, _) in opened.items()}, next(iter(opened.values()))[1]


def _named(given: list[str]) -> list[tuple[str, str]]:
    """(name, path) of every model; one alone has no name."""
    if len(given) == 1:
        return [("", given[0])]
    pairs = [(name, path) for name, equals, path in (text.partition("=") for text in given) if equals]
    if len(pairs) < len(given):
        fail("several models need names: --model base=PATH --model tuned=PATH")
    if len(dict(pairs)) < len(pairs):
        fail(f"two models are called {pairs[0][0]!r}; give each a name of its own")
    return pairs


@contextmanager
def rate_bar(total: int | None, unit: str = "rows") -> "Iterator[Progress]":
    """A bar with rows and tokens a second, counted from the first batch of this call."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    began = time.perf_counter()
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(rows: int, tokens: int) -> None:
            rate = tokens / max(time.perf_counter() - began, 1e-9)
            speed = f"{rate:,.0f} tokens/s" if unit == "rows" else f"{rate:,.1f} {unit}/s"
            bar.update(task, completed=rows, description=f"{rows:,} {unit}  {speed}")

        yield advance


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(harvest)
    app.command()(sample)

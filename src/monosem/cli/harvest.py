"""`monosem harvest` and `monosem sample`: activations of a network, and texts drawn from it, to disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import err, fail, out, say

if TYPE_CHECKING:
    from monosem.data.texts import Document
    from monosem.networks.harvest import Progress


def sample(
    model: Annotated[str, typer.Option(help="A transformers folder or a known network.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", help="A .jsonl file.", show_default=False)],
    documents: Annotated[int, typer.Option(help="How many texts.")] = 1200,
    tokens: Annotated[int, typer.Option(help="Most tokens of one.")] = 255,
    temperature: Annotated[float, typer.Option(help="Of the distribution that tokens are drawn from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Draw texts from a language model itself, for one that knows no other text (stories15m)."""
    import torch

    from monosem.base.files import write_atomic
    from monosem.networks.models import open_network
    from monosem.networks.sampling import sample_texts

    if threads is not None:
        torch.set_num_threads(threads)
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


_Texts = typer.Option("--text", help="Texts: .txt, .jsonl or .parquet; may be given several times.", show_default=False)


def harvest(
    model: Annotated[
        list[str],
        typer.Option(help="A transformers folder or a known network; NAME=PATH, twice, for two.", show_default=False),
    ],
    at: Annotated[str, typer.Option(help='Sites, as "model.layers.5.mlp:in,out"; * matches.', show_default=False)],
    text: Annotated[list[Path], _Texts],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the store.", show_default=False)],
    rows: Annotated[
        int | None, typer.Option(help="Stop after so many rows. [default: all]", show_default=False)
    ] = None,
    each: Annotated[str, typer.Option(help="One document of a .txt file: line, paragraph or file.")] = "line",
    field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    labels: Annotated[
        str | None, typer.Option(help="Field or column that holds a document's class.", show_default=False)
    ] = None,
    length: Annotated[int, typer.Option(help="Most tokens of one window.")] = 256,
    batch: Annotated[int, typer.Option(help="Tokens of one forward pass.")] = 4096,
    special: Annotated[bool, typer.Option(help="Keep special tokens as rows.")] = False,
    first: Annotated[int, typer.Option(help="Leave out the first so many tokens of a window.")] = 0,
    pool: Annotated[str, typer.Option(help="One row a document: mean, first or last; or none.")] = "none",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    shard_rows: Annotated[int, typer.Option(help="Rows of one shard.")] = 65536,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Store what passes some sites of a network; called again after an interruption, it goes on with the same bytes."""
    import torch

    from monosem.data.batches import TokenFilter
    from monosem.data.texts import pieces, text_batches
    from monosem.networks.harvest import harvest as run

    if threads is not None:
        torch.set_num_threads(threads)
    documents = list(_documents(text, each, field, labels))
    names = sorted({str(document.label) for document in documents}) if labels else None
    codes = [names.index(str(document.label)) for document in documents] if names else None
    with err().status("reading the network"):
        models, tokenizer = _models(model)
    for one in models.values():
        most = getattr(one.config, "max_position_embeddings", length)
        if length > most:
            fail(f"--length {length} is more than the network's {most} positions; lower it")
    drop = () if special or pool != "none" else tuple(sorted(set(tokenizer.all_special_ids)))
    keep = TokenFilter(drop, first)
    batches = text_batches(tokenizer, (d.text for d in documents), length=length, tokens=batch, keep=keep, labels=codes)
    about = {
        "model": model,
        "text": [{"path": str(path), "bytes": path.stat().st_size} for path in text],
        "each": each,
        "length": length,
        "batch": batch,
        "drop": list(drop),
        "first": first,
    }
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
            about=about,
            progress=progress,
        )
    sites = ", ".join(f"{site} ({width})" for site, width in zip(store.sites, store.widths, strict=True))
    out().print(
        f"{store.rows:,} rows of {sites} in {out_folder}, {len(store.manifest['shards'])} shards", soft_wrap=True
    )
    say(f'next: monosem train --data {out_folder} --method "topk(k=32)" --n-q 4096 --out MODEL', "dim")


def _documents(paths: list[Path], each: str, field: str, labels: str | None) -> "Iterator[Document]":
    from monosem.data.texts import read_documents

    return read_documents(paths, each, field, labels)  # type: ignore[arg-type]


def _models(given: list[str]) -> tuple[dict[str, Any], Any]:
    """Models by name ("" for one), and the tokenizer of the first."""
    from monosem.networks.models import open_network

    named = [text.partition("=") for text in given]
    if len(given) > 1 and not all(equals for _, equals, _ in named):
        fail("several models need names: --model base=PATH --model tuned=PATH")
    names = [name if equals and len(given) > 1 else "" for name, equals, _ in named]
    if len(set(names)) < len(names):
        fail(f"two models are called {names[0]!r}; give each a name of its own")
    paths = [path if name else text for name, (_, _, path), text in zip(names, named, given, strict=True)]
    opened = [open_network(path) for path in paths]
    sizes = {len(tokenizer) for _, tokenizer in opened}
    if len(sizes) > 1:
        fail(f"the models' tokenizers differ ({sorted(sizes)} tokens); two models must read the same batches")
    return {name: network for name, (network, _) in zip(names, opened, strict=True)}, opened[0][1]


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

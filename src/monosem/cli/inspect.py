"""`monosem inspect`: a page to look at what each latent fires on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, say

if TYPE_CHECKING:
    from monosem.core.model import SDL
    from monosem.inspect.rows import Rows
    from monosem.networks.logits import LogitEffect

LARGE = 64
"""Megabytes above which a page is said to be large."""

_data = partial(typer.Option, rich_help_panel="Rows", show_default=False)
_seen = partial(typer.Option, rich_help_panel="What is seen of a row", show_default=False)
_kept = partial(typer.Option, rich_help_panel="How much the page holds")


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="MODEL", help="A trained model, of any known format.")],
    data: Annotated[
        Path | None,
        _data(help="A store, or a table: .npy, .safetensors, .parquet. [default: the store it was trained on]"),
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The page. [default: MODEL/latents.html]", show_default=False)
    ] = None,
    read: Annotated[str | None, _data(help="Site of the store that the model reads.")] = None,
    write: Annotated[str | None, _data(help="Site that it writes, for a transcoder.")] = None,
    target: Annotated[Path | None, _data(help="Table of x_r, for a transcoder.")] = None,
    key: Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")] = None,
    target_key: Annotated[str | None, _data(help="The same for --target.")] = None,
    rows: Annotated[int | None, _data(help="Use only the first so many rows.")] = None,
    texts: Annotated[Path | None, _seen(help="A text per row: .txt (lines), .json, .npy or .parquet.")] = None,
    texts_key: Annotated[str | None, _seen(help="Column of a .parquet file.")] = None,
    images: Annotated[Path | None, _seen(help="An image per row: .npy (uint8), or a folder in order of names.")] = None,
    labels: Annotated[Path | None, _seen(help="A class per row: .npy, .safetensors or .parquet.")] = None,
    labels_key: Annotated[str | None, _seen(help="As --key.")] = None,
    network: Annotated[
        str | None,
        _seen(help="Language model: shows the tokens that latents promote; or none. [default: the store's]"),
    ] = None,
    anchors: Annotated[
        Path | None, _seen(help="Anchors that held the first latents. [default: those in MODEL]")
    ] = None,
    top: Annotated[int, _kept(help="Strongest contexts of every latent.")] = 12,
    sample: Annotated[int, _kept(help="Contexts drawn at random from all its firings.")] = 4,
    before: Annotated[int, _kept(help="Tokens before the strongest one of a context.")] = 20,
    after: Annotated[int, _kept(help="Tokens after it.")] = 10,
    title: Annotated[str | None, typer.Option(help="Heading. [default: MODEL's name]", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Write one self-contained HTML page of all latents: what each fires on, how often, and what lies near it."""
    import torch

    from monosem.anchors.directions import load_anchors
    from monosem.cli.harvest import rate_bar
    from monosem.data.store import is_store
    from monosem.inspect.collect import Options
    from monosem.inspect.page import inspect_page, write_inspect_page
    from monosem.inspect.rows import anchors_beside, rows_from, trained_on
    from monosem.interop import read as read_model

    options = Options(top, sample, before, after)
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = read_model(folder)
    trained = trained_on(folder)
    if data is None:
        if trained is None:
            fail(f"{folder} does not say what it was trained on; give rows with --data")
        data = trained.store
        if not is_store(data):
            fail(f"{folder} was trained on {data}, which is not here; give its place with --data")
    if trained is not None and is_store(data):
        read, write = read or trained.read, write or trained.write
    with err().status(f"reading {data}"):
        seen = rows_from(
            data,
            loaded.model,
            target=target,
            key=key,
            target_key=target_key,
            read=read,
            write=write,
            rows=rows,
            labels=labels,
            labels_key=labels_key,
            texts=texts,
            texts_key=texts_key,
            images=images,
        )
        held, names = anchors_beside(folder) if anchors is None else (load_anchors(anchors), ())
        if network is None:
            effect = _usual_effect(loaded.model, data, seen)
        else:
            effect, seen = (None, seen) if network == "none" else _effect(loaded.model, network, seen)
    with rate_bar(seen.count) as progress:
        page = inspect_page(
            loaded.model,
            seen,
            options,
            title=title or folder.resolve().name,
            method=str(loaded.metadata.get("method", "")),
            effect=effect,
            anchors=held,
            anchor_names=names,
            progress=lambda done: progress(done, done),
        )
    path = write_inspect_page(out_file or folder / "latents.html", page)
    size = len(page) / 1e6
    say(f"latents  {path} ({size:.1f} MB), opens in a browser without a server")
    if size > LARGE:
        say(f"the page is large; --top {max(1, top // 2)} --sample 0, or a shorter context, make it smaller", "yellow")


def _usual_effect(model: "SDL", data: Path, seen: "Rows") -> "LogitEffect | None":
    """By the network that the store was harvested from, where the site writes into its residual stream."""
    from monosem.base.errors import MonosemError
    from monosem.data.store import is_store, open_store

    if seen.kind != "tokens" or not is_store(data):
        return None
    networks = open_store(data).manifest["about"].get("model", [])
    hint = "give --network, the language model, to see the tokens that latents promote"
    if len(networks) != 1:
        say(hint, "dim")
        return None
    if not all(site.endswith(":out") for site in seen.sites):
        say("no promoted tokens: the site does not write into the residual stream", "dim")
        return None
    try:
        return _effect(model, networks[0], seen)[0]
    except MonosemError as error:
        say(f"no promoted tokens: {error}; {hint}", "yellow")
        return None


def _effect(model: "SDL", network: str, seen: "Rows") -> "tuple[LogitEffect, Rows]":
    """Promoted and suppressed tokens; the rows gain the tokenizer's texts where they have none."""
    from dataclasses import replace

    from monosem.data.texts import pieces
    from monosem.networks.logits import logit_effect
    from monosem.networks.models import open_network

    module, tokenizer = open_network(network)
    effect = logit_effect(model, module)
    words = pieces(tokenizer)
    decode = seen.decode or (lambda tokens: [words[t] if t < len(words) else f"<{t}>" for t in tokens])
    return effect, seen if seen.token is not None else replace(seen, decode=decode)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(inspect)

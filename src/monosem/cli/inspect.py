"""`monosem inspect`: a page to look at what each latent fires on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import err, fail, say, set_threads

if TYPE_CHECKING:
    from monosem.core.model import SDL
    from monosem.inspect.collect import Options
    from monosem.inspect.rows import Rows
    from monosem.networks.logits import LogitEffect

LARGE = 64
"""Megabytes above which a page is said to be large."""

_data = partial(typer.Option, rich_help_panel="Rows", show_default=False)
_seen = partial(typer.Option, rich_help_panel="What is seen of a row", show_default=False)
_kept = partial(typer.Option, rich_help_panel="How much the page holds")


_Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A trained model, of any known format.")]
_Data = Annotated[
    Path | None, _data(help="Store, or table: .npy, .safetensors, .parquet. [default: the store it was trained on]")
]
_Out = Annotated[
    Path | None, typer.Option("--out", help="Page to write. [default: MODEL/latents.html]", show_default=False)
]
_Read = Annotated[str | None, _data(help="Site of the store that the model reads.")]
_Write = Annotated[str | None, _data(help="Site of the store that the model writes, for a transcoder.")]
_Target = Annotated[Path | None, _data(help="Table of x_r, for a transcoder.")]
_Key = Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")]
_TargetKey = Annotated[str | None, _data(help="Tensor or columns of --target.")]
_Rows = Annotated[int | None, _data(help="Number of rows to use, the first ones. [default: all]")]
_Texts = Annotated[Path | None, _seen(help="Text per row: .txt (lines), .json, .npy or .parquet.")]
_TextsKey = Annotated[str | None, _seen(help="Column of --texts, if it is a .parquet file.")]
_Images = Annotated[Path | None, _seen(help="Image per row: .npy (uint8), or a folder in order of names.")]
_Labels = Annotated[Path | None, _seen(help="Class per row: .npy, .safetensors or .parquet.")]
_LabelsKey = Annotated[str | None, _seen(help="Tensor or column of --labels.")]
_Network = Annotated[
    str | None, _seen(help="Language model, to show the tokens that latents promote; or none. [default: the store's]")
]
_Anchors = Annotated[Path | None, _seen(help="Anchors that held the first latents. [default: those in MODEL]")]
_Top = Annotated[int, _kept(help="Strongest contexts of every latent.")]
_Sample = Annotated[int, _kept(help="Contexts sampled from all activations of a latent.")]
_Before = Annotated[int, _kept(help="Tokens before the strongest one of a context.")]
_After = Annotated[int, _kept(help="Tokens after it.")]


def inspect(
    folder: _Model,
    data: _Data = None,
    out_file: _Out = None,
    read: _Read = None,
    write: _Write = None,
    target: _Target = None,
    key: _Key = None,
    target_key: _TargetKey = None,
    rows: _Rows = None,
    texts: _Texts = None,
    texts_key: _TextsKey = None,
    images: _Images = None,
    labels: _Labels = None,
    labels_key: _LabelsKey = None,
    network: _Network = None,
    anchors: _Anchors = None,
    top: _Top = 12,
    sample: _Sample = 4,
    before: _Before = 20,
    after: _After = 10,
    title: Annotated[str | None, typer.Option(help="Heading. [default: MODEL's name]", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Write one self-contained HTML page of all latents: what each is active on, how often, and its neighbours."""
    from monosem.inspect.collect import Options
    from monosem.inspect.page import write_inspect_page

    kept = Options(top, sample, before, after)
    set_threads(threads)
    seen = {"target": target, "key": key, "target_key": target_key, "rows": rows, "labels": labels}
    seen |= {"labels_key": labels_key, "texts": texts, "texts_key": texts_key, "images": images}
    page = _page(folder, data, (read, write), seen, kept, network, anchors, title or folder.resolve().name)
    path, size = write_inspect_page(out_file or folder / "latents.html", page), len(page) / 1e6
    say(f"latents  {path} ({size:.1f} MB), opens in a browser without a server")
    if size > LARGE:
        say(f"the page is large; --top {max(1, top // 2)} --sample 0, or a shorter context, make it smaller", "yellow")


def _page(
    folder: Path,
    data: Path | None,
    sites: tuple[str | None, str | None],
    options: dict[str, Any],
    kept: "Options",
    network: str | None,
    anchors: Path | None,
    title: str,
) -> str:
    """The page of a model's latents on its rows."""
    from monosem.anchors.directions import load_anchors
    from monosem.cli.harvest import rate_bar
    from monosem.data.trained import anchors_of
    from monosem.inspect.page import inspect_page
    from monosem.inspect.rows import rows_from
    from monosem.interop import read as read_model

    loaded = read_model(folder)
    data, (read, write) = _training_rows(folder, data, sites)
    with err().status(f"reading {data}"):
        rows = rows_from(data, loaded.model, read=read, write=write, **options)
        holding, names = anchors_of(folder) if anchors is None else (load_anchors(anchors), ())
        if network is None:
            effect = _usual_effect(loaded.model, data, rows)
        else:
            effect, rows = (None, rows) if network == "none" else _effect(loaded.model, network, rows)
    with rate_bar(rows.count) as progress:
        return inspect_page(
            loaded.model,
            rows,
            kept,
            title=title,
            method=str(loaded.metadata.get("method", "")),
            effect=effect,
            anchors=holding,
            anchor_names=names,
            progress=lambda done: progress(done, done),
        )


def _training_rows(
    folder: Path, data: Path | None, sites: tuple[str | None, str | None]
) -> tuple[Path, tuple[str | None, str | None]]:
    """The rows that are given, or else the store that the model was trained on; and their sites."""
    from monosem.data.store import is_store
    from monosem.data.trained import trained_on

    trained = trained_on(folder)
    if data is None:
        if trained is None:
            fail(f"{folder} does not say what it was trained on; give rows with --data")
        data = trained.store
        if not is_store(data):
            fail(f"{folder} was trained on {data}, which is not here; give its place with --data")
    if trained is not None and is_store(data):
        sites = (sites[0] or trained.read, sites[1] or trained.write)
    return data, sites


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

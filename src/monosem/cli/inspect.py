"""`monosem inspect`: a page to look at what each latent fires on."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from monosem.cli.console import err, fail, rate_bar, say, set_threads
from monosem.cli.options import Answer, Group, command_of, opt
from monosem.cli.shared import Dictionary, NetworkOptions, RowsOptions, Threads, need, read_dictionary
from monosem.inspect.options import Options

if TYPE_CHECKING:
    from monosem.core.model import SDL
    from monosem.inspect.own import OwnText
    from monosem.inspect.rows import Rows
    from monosem.networks.logits import LogitEffect

LARGE = 64
"""Megabytes above which a page is said to be large."""

_data = partial(opt, panel="Data")
_seen = partial(opt, panel="What is seen of a row")
_KEPT = Group(
    "How much the page holds",
    {
        "top": "Strongest contexts of every latent.",
        "sample": "Contexts sampled from all activations of a latent.",
        "band": "Contexts sampled from each of a latent's up to eight bands of activation.",
        "before": "Tokens of a context before its strongest one.",
        "after": "Tokens of a context after its strongest one.",
        "nearest": "Latents of the most similar decoder directions to list with each.",
        "seed": "Seed for the contexts that are sampled.",
    },
    shown=("top", "band", "sample"),
)


@dataclass(frozen=True)
class InspectRows(RowsOptions):
    """The rows of a page: those of training, unless others are given."""

    data: Annotated[
        Path | None, _data("Rows: a store, or a table. [default: the store that the dictionary was trained on]")
    ] = None  # type: ignore[assignment]
    rows: Annotated[int | None, _data("Number of rows to use, the first ones. [default: all]")] = None


@dataclass(frozen=True, kw_only=True)
class _InspectOptions:
    """The options of `monosem inspect`."""

    dictionary: Dictionary
    data: InspectRows
    kept: Annotated[Options, _KEPT]
    out_file: Annotated[Path | None, opt("Page to write. [default: DICTIONARY/latents.html]", "--out")] = None
    title: Annotated[str | None, opt("Heading of the page. [default: the dictionary's name]")] = None
    texts: Annotated[Path | None, _seen("Text of every row: .txt (lines), .json, .npy or .parquet.")] = None
    texts_key: Annotated[str | None, _seen("Column of the .parquet file --texts.", more=True)] = None
    images: Annotated[Path | None, _seen("Image of every row: .npy (uint8), or a folder in order of names.")] = None
    labels: Annotated[Path | None, _seen("Class of every row: .npy, .safetensors or .parquet.")] = None
    labels_key: Annotated[
        str | None, _seen("Tensor of the .safetensors file --labels, or column of a .parquet one.", more=True)
    ] = None
    anchors: Annotated[
        Path | None,
        _seen("Anchors of the dictionary's first latents: .safetensors. [default: those of the dictionary]", more=True),
    ] = None
    exported: Annotated[
        Path | None, _seen("Labels that a page exported, to keep in the dictionary's folder and show.", more=True)
    ] = None
    text: Annotated[
        list[str] | None, _seen("Text of your own, shown with the latents that fire on it; may be repeated.", "--try")
    ] = None
    place: NetworkOptions
    threads: Threads = None


@command_of(_InspectOptions)
def inspect(o: _InspectOptions) -> Answer:
    """Write one self-contained HTML page of all latents: what each is active on, how often, and its neighbours.

    The network shows which tokens latents promote; "--network none" leaves them out.
    """
    from monosem.inspect.page import write_inspect_page

    set_threads(o.threads)
    need("--labels-key", o.labels_key, "--labels", o.labels)
    need("--texts-key", o.texts_key, "--texts", o.texts)
    if o.data.rows is not None and o.data.rows < 1:
        fail(f"--rows {o.data.rows}; it must be at least 1")
    page, count = _page(o)
    if o.out_file is None and not o.dictionary.is_dir():
        fail(f"{o.dictionary} is a file; say where the page goes with --out PAGE.html")
    path, size = write_inspect_page(o.out_file or o.dictionary / "latents.html", page), len(page) / 1e6
    if size > LARGE:
        fewer = max(1, o.kept.top // 2)
        say(f"the page is large; --top {fewer} --sample 0, or a shorter context, make it smaller", "yellow")
    facts = {"dictionary": str(o.dictionary), "page": str(path), "megabytes": size, "rows": count}
    return Answer(facts, f"latents  {path} ({size:.1f} MB), opens in a browser without a server")


def _page(o: _InspectOptions) -> tuple[str, int]:
    """The page of a dictionary's latents on its rows, and how many rows these are."""
    from monosem.anchors.directions import load_anchors
    from monosem.data.trained import anchors_of
    from monosem.inspect.explain import keep_exported, load_labels
    from monosem.inspect.page import inspect_page
    from monosem.inspect.rows import rows_from

    loaded = read_dictionary(o.dictionary, o.place.device)
    if o.exported is not None:
        if not o.dictionary.is_dir():
            fail(f"{o.dictionary} is a file; labels are kept in a dictionary's folder")
        keep_exported(o.dictionary, o.exported, loaded.model.n_q)
    data, sites = training_rows(o.dictionary, o.data.data, (o.data.read, o.data.write))
    same = {name: getattr(o.data, name) for name in ("target", "key", "target_key", "rows")}
    seen = {name: getattr(o, name) for name in ("labels", "labels_key", "texts", "texts_key", "images")}
    with err().status(f"reading {data}"):
        rows = rows_from(data, loaded.model, read=sites[0], write=sites[1], **same, **seen)
        holding, names = anchors_of(o.dictionary) if o.anchors is None else (load_anchors(o.anchors), ())
    if o.place.network is None:
        effect = _usual_effect(loaded.model, o.place, data, rows)
    else:
        effect, rows = (None, rows) if o.place.network == "none" else _effect(loaded.model, o.place, rows)
    own = _own(o, loaded.model, data, sites) if o.text else []
    with rate_bar(rows.count) as progress:
        page = inspect_page(
            loaded.model,
            rows,
            o.kept,
            title=o.title or o.dictionary.resolve().name,
            method=str(loaded.metadata.get("method", "")),
            effect=effect,
            anchors=holding,
            anchor_names=names,
            labels=load_labels(o.dictionary),
            own=own,
            progress=lambda done: progress(done, done),
        )
    return page, rows.count


def _own(o: _InspectOptions, model: "SDL", data: Path, sites: tuple[str | None, str | None]) -> "list[OwnText]":
    """What fires on the texts of --try, by --network or by the one network that the store was harvested from."""
    from monosem.data.store import is_store, open_store
    from monosem.inspect.own import own_texts

    networks = open_store(data).manifest["about"].get("model", []) if is_store(data) else []
    name = o.place.network or (networks[0] if len(networks) == 1 else None)
    if name in (None, "none") or sites[0] is None:
        fail("--try needs the language model and its site; name them with --network and --read")
    module, tokenizer = o.place.open(name)
    return own_texts(model, module, tokenizer, o.text or [], sites[0], sites[1])


def training_rows(
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


def _usual_effect(model: "SDL", place: NetworkOptions, data: Path, seen: "Rows") -> "LogitEffect | None":
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
        return _effect(model, replace(place, network=networks[0]), seen)[0]
    except MonosemError as error:
        say(f"no promoted tokens: {error}; {hint}", "yellow")
        return None


def _effect(model: "SDL", place: NetworkOptions, seen: "Rows") -> "tuple[LogitEffect, Rows]":
    """Promoted and suppressed tokens; the rows gain the tokenizer's texts where they have none."""
    from monosem.data.texts import pieces
    from monosem.networks.logits import logit_effect

    module, tokenizer = place.open()
    effect = logit_effect(model, module)
    words = pieces(tokenizer)
    decode = seen.decode or (lambda tokens: [words[t] if t < len(words) else f"<{t}>" for t in tokens])
    return effect, seen if seen.token is not None else replace(seen, decode=decode)

"""`monosem harvest` and `monosem sample`: activations of a network, and texts drawn from it, to disk."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import fail, quietly, rate_bar, sample_bar, say, set_threads
from monosem.cli.options import Answer, command_of, opt
from monosem.cli.shared import DeviceOptions, RowsOptions, TextOptions, Threads, check_length, shared, train_command

if TYPE_CHECKING:
    from monosem.base.group import Group
    from monosem.data.batches import Batch
    from monosem.data.store import Store

_stored = partial(opt, panel="Store")


@dataclass(frozen=True, kw_only=True)
class _SampleOptions:
    """The options of `monosem sample`."""

    network: Annotated[str, opt("Language model: a transformers folder, or a name in the cache.")]
    out_file: Annotated[Path, opt("File of texts to write: .jsonl.", "--out")]
    documents: Annotated[int, opt("Number of texts.")] = 1200
    tokens: Annotated[int, opt("Most tokens of one text.")] = 255
    temperature: Annotated[float, opt("Temperature of the sampling.")] = 1.0
    seed: Annotated[int, opt("Seed for the sampled tokens.")] = 0
    on: DeviceOptions
    threads: Threads = None


@command_of(_SampleOptions)
def sample(o: _SampleOptions) -> Answer:
    """Sample texts from a language model whose training texts are not available (stories15m).

    Texts are written as they are drawn; called again, it goes on after the last one, also to more --documents.
    """
    from monosem.networks.sampling import sample_texts

    set_threads(o.threads)
    if o.documents < 1 or o.tokens < 1:
        fail(f"--documents {o.documents} and --tokens {o.tokens}; both are at least 1")
    there = _texts_there(o)
    if there:
        say(f"{o.out_file} holds {there:,} texts of an earlier call", "dim")
    facts = {"out": str(o.out_file), "texts": max(there, o.documents), "drawn": max(0, o.documents - there)}
    if there < o.documents:
        network, tokenizer = o.on.read(o.network)
        options: dict[str, Any] = {"temperature": o.temperature, "seed": o.seed, "first": there}
        with sample_bar(o.documents, there) as progress, o.out_file.open("a", encoding="utf-8") as file:
            texts = sample_texts(network, tokenizer, o.documents, o.tokens, progress=progress, **options)
            for text in texts:
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                file.flush()
    return Answer(facts, f"{facts['texts']:,} texts in {o.out_file}")


def _texts_there(o: _SampleOptions) -> int:
    """The number of whole texts of an earlier call; what is left of a last one is cut off."""
    from monosem.base.files import read_json, write_json

    if o.out_file.suffix != ".jsonl":
        fail(f"--out {o.out_file} is no .jsonl file; name it so")
    note = o.out_file.with_suffix(".json")
    settings = {name: getattr(o, name) for name in ("network", "tokens", "temperature", "seed")}
    if not o.out_file.exists():
        o.out_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, settings)
        return 0
    before = read_json(note) if note.is_file() else {}
    differ = [f"--{name} {before.get(name)}" for name, value in settings.items() if before.get(name) != value]
    if differ:
        origin = f"was drawn with {', '.join(differ)}" if before else "is no file of this command"
        fail(f"{o.out_file} {origin}; repeat that, or name another --out")
    whole = o.out_file.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with o.out_file.open("r+b") as file:
            file.truncate(end)
    return whole.count(b"\n")


@dataclass(frozen=True, kw_only=True)
class _HarvestOptions:
    """The options of `monosem harvest`."""

    network: Annotated[
        list[str],
        opt("Network: a transformers folder, or a name in the cache; two of them as NAME=NETWORK, repeated."),
    ]
    read: Annotated[str, opt('Sites to store, as "model.layers.5.mlp:in,out"; * matches.')]
    text: Annotated[list[Path], opt("Texts: .txt, .jsonl or .parquet; may be repeated.", "--text")]
    out_folder: Annotated[Path, opt("Folder of the store to write.", "--out")]
    rows: Annotated[int | None, opt("Number of rows, a sample of all texts. [default: all]")] = None
    texts: TextOptions
    on: DeviceOptions
    labels_key: Annotated[
        str | None, opt("Field of .jsonl, or column of .parquet, that holds a text's class.", panel="Text")
    ] = None
    special: Annotated[bool, opt("Keep special tokens as rows.", "--special", panel="Text", more=True)] = False
    first: Annotated[int, opt("Tokens to skip at the start of a window.", panel="Text", more=True)] = 0
    mask: Annotated[float, opt("Share of tokens that a special one replaces.", panel="Text", more=True)] = 0.0
    pool: Annotated[str, _stored("One row per document, by mean, first or last; or none.")] = "none"
    store_dtype: Annotated[str, _stored("Type that rows are stored in: float32, float16, bfloat16 or int8.")] = (
        "float32"
    )
    shard_rows: Annotated[int, _stored("Number of rows of one shard.", more=True)] = 65536
    batch_tokens: Annotated[int, _stored("Tokens of one forward pass.", more=True)] = 4096
    mesh: Annotated[
        str | None,
        opt("Share the rows among the processes of torchrun, as rows=4.", panel="Several processes", more=True),
    ] = None
    threads: Threads = None


@command_of(_HarvestOptions)
def harvest(o: _HarvestOptions) -> Answer:
    """Store a network's activations at some sites; called again after an interruption, it ends with the same bytes."""
    from monosem.base.files import check_output

    first = o.mesh is None or os.environ.get("RANK", "0") == "0"
    if first:
        check_output(o.out_folder)
    set_threads(o.threads)
    with quietly(not first), shared(o.mesh, o.on.device, "rows") as group:
        models, tokenizer = _models(o.network, o.on)
        for one in models.values():
            check_length(one, o.texts.length)
        with rate_bar(o.rows) as progress:
            store = _stored_rows(o, models, tokenizer, progress, group)
    if not first:
        raise typer.Exit
    sites = ", ".join(f"{site} ({width})" for site, width in zip(store.sites, store.widths, strict=True))
    shards = len(store.manifest["shards"])
    facts = {
        "out": str(o.out_folder),
        "rows": store.rows,
        "shards": shards,
        "sites": dict(zip(store.sites, store.widths, strict=True)),
    }
    shown = f"{store.rows:,} rows of {sites} in {o.out_folder}, {shards} shard{'s' * (shards != 1)}"
    site, width = store.sites[-1], store.widths[-1]
    read = RowsOptions(o.out_folder, read=site if len(store.sites) > 1 else None)
    out = o.out_folder.with_name(f"{o.out_folder.name}-sae")
    follow = train_command(read, width, out, "--lr 0.003", start=" | init(encoder_scale=0.3)")  # docs/quality.md
    return Answer(facts, shown, follow)


def _stored_rows(o: _HarvestOptions, models: dict[str, Any], tokenizer: Any, progress: Any, group: "Group") -> "Store":
    """The store of what the texts give at the sites."""
    from monosem.data.texts import pieces
    from monosem.networks.harvest import harvest as run

    drop = () if o.special or o.pool != "none" else tuple(sorted(set(tokenizer.all_special_ids)))
    batches, names = _batches(o, tokenizer, drop)
    sizes = [{"path": str(path), "bytes": path.stat().st_size} for path in o.text]
    about = {"model": o.network, "text": sizes, "each": o.texts.each, "length": o.texts.length}
    return run(
        models if len(models) > 1 else next(iter(models.values())),
        o.read,
        batches,
        o.out_folder,
        pool=o.pool,  # type: ignore[arg-type]
        dtype=o.store_dtype,
        rows=o.rows,
        shard_rows=o.shard_rows,
        labels=names,
        vocabulary=pieces(tokenizer),
        about=about | {"batch": o.batch_tokens, "drop": list(drop), "first": o.first} | _masking(o),
        progress=progress,
        group=group,
    )


def _batches(o: _HarvestOptions, tokenizer: Any, drop: tuple[int, ...]) -> "tuple[Iterator[Batch], list[str] | None]":
    """Batches of the texts' tokens, and the names of their classes where they have labels."""
    from monosem.data.batches import TokenFilter, masked
    from monosem.data.texts import read_documents, sampled, text_batches

    documents = list(read_documents(o.text, o.texts.each, o.texts.text_key, o.labels_key))  # type: ignore[arg-type]
    together = 1024
    if o.rows is not None:  # a sample of all texts: read in a keyed order, few windows sorted by length at a time
        documents, together = [documents[i] for i in sampled(len(documents))], 64
    names, codes = None, None
    if o.labels_key:
        names = sorted({str(document.label) for document in documents})
        codes = [names.index(str(document.label)) for document in documents]
    keep, words, length = TokenFilter(drop, o.first), (document.text for document in documents), o.texts.length
    options: dict[str, Any] = {"length": length, "tokens": o.batch_tokens, "together": together}
    batches = text_batches(tokenizer, words, keep=keep, labels=codes, **options)
    special = next((one for one in (tokenizer.mask_token_id, tokenizer.eos_token_id) if one is not None), 0)
    return (masked(batches, o.mask, special) if o.mask else batches), names


def _masking(o: _HarvestOptions) -> dict[str, float]:
    """What a store says of replaced tokens, where there are any."""
    return {"mask": o.mask} if o.mask else {}


def _models(given: list[str], on: DeviceOptions) -> tuple[dict[str, Any], Any]:
    """Models by name ("" for one), and the tokenizer of the first."""
    opened = {name: on.read(path) for name, path in _named(given)}
    sizes = {len(tokenizer) for _, tokenizer in opened.values()}
    if len(sizes) > 1:
        fail(f"the networks' tokenizers differ ({sorted(sizes)} tokens); two networks must read the same batches")
    return {name: network for name, (network, _) in opened.items()}, next(iter(opened.values()))[1]


def _named(given: list[str]) -> list[tuple[str, str]]:
    """(name, path) of every network; one alone has no name."""
    if len(given) == 1:
        return [("", given[0])]
    pairs = [(name, path) for name, equals, path in (text.partition("=") for text in given) if equals]
    if len(pairs) < len(given):
        fail("several networks need names: --network base=PATH --network tuned=PATH")
    if len(dict(pairs)) < len(pairs):
        fail(f"two networks are called {pairs[0][0]!r}; give each a name of its own")
    return pairs

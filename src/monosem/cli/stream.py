"""Rows for `monosem train` straight from a network that runs ahead of it; nothing is stored."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from monosem.cli.console import check_device, err, fail
from monosem.cli.options import opt
from monosem.cli.shared import RowsOptions, TextOptions, check_length, need, quoted

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.core.pairs import Pairing, Source
    from monosem.data.batches import TokenFilter
    from monosem.data.trained import RunNotes

_live = partial(opt, panel="Network")
CANDIDATES = 4096
"""Documents, at most, of which some are held back."""


@dataclass(frozen=True)
class Fed:
    """What a training is fed: its source, what is kept beside the model, and raw rows to score on, some at a time.

    `together`: all processes have to read the rows to score on.
    """

    source: "Source"
    notes: "RunNotes"
    scored: Callable[[], "Iterable[tuple[Tensor, Tensor]]"]
    held_out: bool
    follow: str
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """A network to train on as it runs, in the place of --data."""

    network: Annotated[
        str | None, _live("Language model to train on as it runs, in place of --data; with --read and --text.")
    ] = None
    text: Annotated[list[Path] | None, _live("Texts for it: .txt, .jsonl or .parquet; may be repeated.", "--text")] = (
        None
    )
    texts: TextOptions
    network_device: Annotated[str | None, _live("Device that runs it. [default: that of --device]", more=True)] = None
    dtype: Annotated[str, _live("Type of its weights: auto, float32, bfloat16 or float16.", more=True)] = "auto"
    device_map: Annotated[
        str | None,
        _live("Split it over all devices, auto or balanced, or, with --mesh, over the processes: tp.", more=True),
    ] = None
    download: Annotated[
        bool, _live("Fetch OWNER/NAME from the hub where its cache has none.", "--download", more=True)
    ] = False
    buffer: Annotated[int, _live("Rows that are shuffled together.", more=True)] = 65536
    batch_tokens: Annotated[int, _live("Tokens of one forward pass.", more=True)] = 4096

    def __post_init__(self) -> None:
        check_device(self.network_device or "cpu")

    def leave_out(self) -> None:
        """Refuse every option of a network that is not given."""
        for options in (self, self.texts):
            for one in fields(options):
                value = getattr(options, one.name)
                if one.default is not MISSING and value != one.default:
                    need(f"--{one.name.replace('_', '-')}", value, "--network", None)


def open_stream(
    o: StreamOptions,
    rows: RowsOptions,
    pairing: "Pairing",
    *,
    device: str,
    held_out: int,
    anchors: Path | None,
    folder: Path,
    **options: Any,
) -> Fed:
    """The rows of a network's sites, and documents held back to score on; `options` are LiveSource's.

    Rows of a step are a function of the seed and the step; a run that was killed goes on from the cursor in its folder.
    """
    from monosem.anchors.directions import load_anchors
    from monosem.data.batches import TokenFilter
    from monosem.data.texts import text_batches
    from monosem.data.trained import RunNotes
    from monosem.networks.live import LiveSource
    from monosem.networks.models import open_network

    _check(o, rows, pairing)
    with err().status("reading the network"):
        lies = {"dtype": o.dtype, "device_map": o.device_map, "download": o.download}
        place = "cpu" if o.device_map else o.network_device or device
        network, tokenizer = open_network(str(o.network), device=place, **lies)  # type: ignore[arg-type]
    check_length(network, o.texts.length)
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    aside = _held_back(o, tokenizer, held_out)
    sizes: dict[str, Any] = {"length": o.texts.length, "tokens": o.batch_tokens, "keep": keep}
    texts = [{"path": str(path), "bytes": path.stat().st_size} for path in o.text or ()]
    with err().status("running the network"):
        source = LiveSource(
            network,
            str(rows.read),
            rows.write,
            lambda: text_batches(tokenizer, _documents(o, aside), **sizes),
            keep=keep,
            buffer=o.buffer,
            device=device,
            cursor=folder / "cursor.json",
            **options,
            about={"texts": texts, "held out": sorted(aside), **sizes, "keep": list(keep.drop)},
        )

    def scored() -> Iterator[tuple["Tensor", "Tensor"]]:
        batches = text_batches(tokenizer, aside.values() or _documents(o), **sizes)
        return _passed(source, batches, keep, (str(rows.read), rows.write), max(held_out, 1024))

    notes = RunNotes(None if anchors is None else load_anchors(anchors))
    split = source.producer.runner.split
    return Fed(source, notes, scored, bool(aside), _evaluation(o, rows, folder), split)


def _evaluation(o: StreamOptions, rows: RowsOptions, folder: Path) -> str:
    """The command that scores the dictionary in its network."""
    where = ["--network", o.network, "--read", rows.read, *(["--write", rows.write] if rows.write else [])]
    files = [word for path in o.text or () for word in ("--text", path)]
    length = [] if o.texts.length == TextOptions.length else ["--length", o.texts.length]
    return quoted("monosem", "evaluate", folder, *where, *files, *length)


def _check(o: StreamOptions, rows: RowsOptions, pairing: "Pairing") -> None:
    """--network comes with what it needs, and without what belongs to --data."""
    from monosem.core.pairs import SAE, Crosscoder

    for option, value in (("--read", rows.read), ("--text", o.text)):
        if not value:
            fail(f"--network {o.network} is trained on as it runs; give {option} too")
    given = [one.name for one in fields(RowsOptions) if one.name not in ("read", "write") and getattr(rows, one.name)]
    if given:
        fail(f"--network {o.network} and --{given[0].replace('_', '-')} both say where rows come from; leave one out")
    writes = not isinstance(pairing, SAE | Crosscoder)
    if writes != (rows.write is not None):
        name = type(pairing).__name__
        fail(f"the pairing {name} {'writes other sites; give them with --write' if writes else 'takes no --write'}")
    if o.buffer < 1 or o.batch_tokens < 1:
        fail(f"--buffer {o.buffer} and --batch-tokens {o.batch_tokens}; both are at least 1")


def _held_back(o: StreamOptions, tokenizer: Any, wanted: int) -> dict[int, str]:
    """Documents to score on, by number: so many that they have `wanted` tokens, at most a tenth of all."""
    from monosem.data.texts import sampled

    if wanted < 1:
        return {}
    order = sampled(sum(1 for _ in _documents(o)))
    order = order[: min(len(order) // 10, CANDIDATES)]
    texts, tokens, aside = dict.fromkeys(order, ""), 0, {}
    texts |= {number: text for number, text in enumerate(_documents(o)) if number in texts}
    for number in order:
        if tokens < wanted:
            aside[number] = texts[number]
            tokens += len(tokenizer(texts[number], verbose=False)["input_ids"])
    return aside


def _documents(o: StreamOptions, without: "Iterable[int]" = ()) -> Iterator[str]:
    """The texts of the files, read as they are asked for."""
    from monosem.data.texts import read_documents

    documents = read_documents(o.text or (), o.texts.each, o.texts.text_key)  # type: ignore[arg-type]
    skipped = frozenset(without)
    return (document.text for number, document in enumerate(documents) if number not in skipped)


def _passed(
    source: Any, batches: "Iterable[Any]", keep: "TokenFilter", sites: tuple[str, str | None], most: int
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Raw rows of batches at the sites that are read and written, but those that the source leaves out; `most` of them
    and what the last batch has more."""
    import torch

    from monosem.data.batches import number_documents

    read, write = source.sites_of(sites[0]), None if sites[1] is None else source.sites_of(sites[1])
    for batch in number_documents(batches, keep):
        if most <= 0:
            return
        with torch.inference_mode():
            xs, _ = source.producer.runner.rows(batch)
            xs = [x[source.ordinary(xs).to(x.device)] for x in xs]
        most -= xs[0].shape[0]
        x_p = torch.cat([xs[site].float() for site in read], 1)
        yield x_p, x_p if write is None else torch.cat([xs[site].float() for site in write], 1)

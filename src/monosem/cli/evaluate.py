"""`monosem evaluate`: score a trained model on a task of the bench, or on the network that it was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Group, RenderableType

from monosem.cli.console import err, fail, say, set_threads
from monosem.cli.options import Answer, command_of, opt
from monosem.cli.shared import Dictionary, NetworkOptions, TextOptions, Threads, need

if TYPE_CHECKING:
    from monosem.data.batches import Batch, TokenFilter
    from monosem.networks.network import NetworkScores

_on_task = partial(opt, panel="On a task, whose true features are known")
_site = partial(opt, panel="Network")


@dataclass(frozen=True)
class _Place:
    """A network's name or folder, the sites of a dictionary in it, and the tokens that it was trained on."""

    network: str
    read: str
    write: str | None
    drop: tuple[int, ...] | None = None
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where a dictionary belongs: its network, and the sites that it reads and writes."""

    of: NetworkOptions
    read: Annotated[str | None, _site('Sites to read, as "model.layers.5:out". [default: those of its store]')] = None
    write: Annotated[str | None, _site("Sites to write, where they are others. [default: those of its store]")] = None

    def find(self, dictionary: Path) -> _Place:
        """What is given, and else what `monosem train` noted beside the dictionary about its store."""
        from monosem.data.store import is_store, open_store
        from monosem.data.trained import trained_on

        trained, read, write = trained_on(dictionary), self.read, self.write
        about: dict[str, Any] = {}
        if trained is not None:
            read, write = (trained.read, write or trained.write) if read is None else (read, write)
            about = open_store(trained.store).manifest["about"] if is_store(trained.store) else {}
        named = about.get("model") or []
        network = self.of.network or (named[0] if len(named) == 1 else None)
        if network is None or read is None:
            missing = " and ".join([*(["--network"] * (network is None)), *(["--read"] * (read is None))])
            example = "--network smollm2 --read model.layers.15:out"
            fail(f"{dictionary} does not say where it belongs; give {missing}, as {example}")
        drop = tuple(about["drop"]) if "drop" in about else None
        return _Place(network, read, write, drop, int(about.get("first", 0)))

    def open(self, place: _Place) -> tuple[Any, Any]:
        """(the network, its tokenizer)."""
        return self.of.open(place.network)


@dataclass(frozen=True, kw_only=True)
class _EvaluateOptions:
    """The options of `monosem evaluate`."""

    dictionary: Dictionary
    text: Annotated[
        list[Path] | None, opt("Held-out texts: .txt, .jsonl or .parquet; may be repeated.", "--text", panel="Network")
    ] = None
    place: PlaceOptions
    texts: TextOptions
    task: Annotated[str | None, _on_task("Task to score on; `monosem list tasks` names them.", complete="tasks")] = None
    pairing: Annotated[
        str | None, _on_task("Pairing: sae, transcoder or crosscoder. [default: that of the dictionary's method]")
    ] = None
    world: Annotated[int, _on_task("Seed of the task's world.")] = 0
    held_out: Annotated[
        int | None, _on_task("Number of anchored features that are not scored. [default: the task's]", more=True)
    ] = None
    records: Annotated[
        Path | None, _on_task("Folder for a record, which `monosem report` shows with those of your runs.", "--out")
    ] = None
    rows: Annotated[int, opt("Number of held-out rows, or tokens of the text, to score on.")] = 8192
    threads: Threads = None


@command_of(_EvaluateOptions)
def evaluate(o: _EvaluateOptions) -> Answer:
    """Score a dictionary on a task's true features, or by what its network loses with the reconstruction in place.

    On a task: four similarities, matching, codes, chance and oracle. On a network: FVU, L0, dead latents, cosine;
    cross-entropy and KL of the next token with x_r_hat in the place of x_r; loss recovered against ablation.
    """
    set_threads(o.threads)
    if o.rows < 1:
        fail(f"--rows {o.rows}; it must be at least 1")
    on_network = bool(o.text) or o.place.of.network is not None or o.place.read is not None
    if (o.task is None) != on_network:
        fail("say on what: either --task TASK, or --text FILES with the network's --network and --read")
    if o.task is not None:
        return _on_a_task(o, o.task)
    need("--pairing", o.pairing, "--task", o.task)
    need("--held-out", o.held_out, "--task", o.task)
    need("--out", o.records, "--task", o.task)
    if not o.text:
        fail("no text to score on; give --text FILES that the dictionary was not trained on")
    place = o.place.find(o.dictionary)
    scores = _score_on_network(o, place)
    facts = {"dictionary": str(o.dictionary), "network": place.network, "read": place.read, "write": place.write}
    return Answer(facts | scores.plain(), _network_table(scores, f"{o.dictionary} in {place.network}"))


def _on_a_task(o: _EvaluateOptions, name: str) -> Answer:
    from monosem.bench.foreign import foreign_record, write_foreign
    from monosem.bench.run import pairing_of
    from monosem.bench.tasks import SIDES, TaskSource
    from monosem.bench.tasks import task as find_task
    from monosem.cli.tables import score_table
    from monosem.interop import read

    folder, loaded = o.dictionary, read(o.dictionary)
    spec = str(loaded.metadata.get("method", ""))
    pairing = o.pairing or (pairing_of(spec) if spec else "sae")
    if pairing not in SIDES:
        fail(f"unknown pairing {pairing!r}; choose {', '.join(SIDES)}")
    source = TaskSource(find_task(name, pairing, o.world))
    title = folder.stem if folder.is_file() else folder.resolve().name
    with err().status(f"scoring on {name}"):
        about = spec or f"{loaded.format}(n_q={loaded.model.layout.n_q})"
        record = foreign_record(loaded.model, source, title, about, held_out=o.held_out, rows=o.rows)
    for note in loaded.notes:
        say(note, "yellow")
    if o.records is not None:
        say(f"record   {write_foreign(o.records, record)}")
    scored = source.task.scored(o.held_out).numel()
    facts = {"dictionary": str(folder), "method": spec, "task": name, "pairing": pairing, "world": o.world}
    facts |= {"format": loaded.format, "scored": scored, "metrics": record["metrics"]}
    shown = f"{spec or folder} on {name}, {pairing}, world {o.world}: {scored} features"
    return Answer(facts, score_table(record["metrics"], shown))


def _score_on_network(o: _EvaluateOptions, place: _Place) -> "NetworkScores":
    """Read everything, splice, score."""
    from monosem.data.batches import TokenFilter
    from monosem.data.texts import read_documents, text_batches
    from monosem.interop import load
    from monosem.networks.network import network_scores

    documents = list(read_documents(o.text or (), o.texts.each, o.texts.text_key))  # type: ignore[arg-type]
    model = load(o.dictionary, device=o.place.of.device)
    network, tokenizer = o.place.open(place)
    drop = tuple(sorted(set(tokenizer.all_special_ids))) if place.drop is None else place.drop
    keep = TokenFilter(drop, place.first)
    batches = text_batches(tokenizer, (d.text for d in documents), length=o.texts.length, tokens=1024, keep=keep)
    scored = list(_first(batches, o.rows, keep))
    with err().status(
        f"splicing {o.dictionary} into {place.network}, {sum(batch.tokens for batch in scored):,} tokens"
    ):
        return network_scores(network, model, place.read, scored, place.write)


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
    from monosem.cli.tables import Sheet

    code = Sheet(title, ("tokens", "FVU", "L0", "dead", "cosine"))
    values = (f"{scores.fvu:.4f}", f"{scores.l0:.1f}", f"{scores.dead:.2%}", f"{scores.cosine:.4f}")
    code.add(f"{scores.tokens:,}", *values)
    heads = ("clean", "spliced", "zero", "mean", "KL", "vs zero", "vs mean")
    title = f"cross-entropy and KL, nats per prediction over {scores.predictions:,}"
    losses = Sheet(title, ("replaced", *heads))
    for effect in scores.effects:
        ce = [f"{effect.ce[name]:.4f}" for name in ("clean", "spliced", "zero", "mean")]
        shares = [_share(effect.recovered(name)) for name in ("zero", "mean")]
        losses.add(", ".join(effect.sites), *ce, f"{effect.kl['spliced']:.4f}", *shares)
    note = "vs zero, vs mean: loss recovered, as (zero - spliced) / (zero - clean)"
    return Group(code, losses, note)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"

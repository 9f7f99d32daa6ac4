"""A model on its network, for the commands: where it belongs, the text it is scored on, the table of scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from monosem.cli.console import err, fail

if TYPE_CHECKING:
    from monosem.data.batches import Batch, TokenFilter
    from monosem.networks.network import NetworkScores


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


def score_on_network(
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


def network_table(scores: "NetworkScores", title: str) -> RenderableType:
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

"""What harvesting costs over the bare forward pass, and what reading shuffled rows costs beside a training step.

Each pair is measured interleaved in one process, on one thread; ratios are of medians, in processor time and in wall
time, which other work on the machine stretches. The harvest is the whole of `harvest`: hooks, conversion, writing,
flushing and hashing. The bare pass runs the same batches without hooks: the whole network, and again only as far as
the last site, where `harvest` stops.
"""

import gc
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.contender import Span, clock, timed
from monosem import FitConfig, StoreSource, harvest, open_network, text_batches
from monosem.bench import environment
from monosem.data import TokenFilter, read_documents
from monosem.methods import method
from monosem.networks import capture, find_sites
from monosem.train import fit

RATIOS: Mapping[str, tuple[str, str]] = {
    "harvest / bare pass": ("harvest", "bare pass"),
    "harvest float16 / bare pass": ("harvest, float16", "bare pass"),
    "harvest with the whole pass / bare pass": ("harvest, whole pass", "bare pass"),
    "harvest / pass to the last site": ("harvest", "pass to the last site"),
}
_TOPK = method("topk(k=32)")


def _works(model: Any, batches: Sequence[Any], at: str, home: Path) -> dict[str, Callable[[], object]]:
    """The bare pass, the pass as far as the last site, and harvests: stopping there or not, in two widths."""
    sites = find_sites({"": model}, at)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**batch.inputs)

    def as_far() -> None:
        with capture(model, sites[-1:]) as seen:
            for batch in batches:
                seen.run(model, batch.inputs)

    def stored(**options: Any) -> None:
        harvest(model, at, batches, home / "store", shard_rows=8192, **options)
        shutil.rmtree(home / "store")

    return {
        "bare pass": bare,
        "harvest": stored,
        "harvest, whole pass": lambda: stored(stop=False),
        "pass to the last site": as_far,
        "harvest, float16": lambda: stored(dtype="float16"),
    }


class _Watched(StoreSource):
    """Adds up the time that taking rows needs, while `fit` trains."""

    taking = Span(0.0, 0.0)

    def take(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the source's own."""
        began = clock()
        rows = super().take(index)
        self.taking += clock() - began
        return rows


def _reading(store: Path, read: str, n_q: int, batch: int, steps: int) -> dict[str, Any]:
    """The share of `fit` that taking shuffled rows needs, for stored rows trained in units of their own."""
    source = _Watched(store, read)
    fit(_TOPK, source, n_q, FitConfig(steps=5, batch_size=batch))
    source.taking = Span(0.0, 0.0)
    config = FitConfig(steps=steps, batch_size=batch, sample_rows=batch)
    whole = timed(lambda: fit(_TOPK, source, n_q, config))
    rest = vars(whole - source.taking)
    return {
        "n_q": n_q,
        "batch": batch,
        "steps": steps,
        "rows": source.rows,
        "step_ms": {kind: 1e3 * seconds / steps for kind, seconds in vars(whole).items()},
        "reading_ms": {kind: 1e3 * seconds / (steps + 1) for kind, seconds in vars(source.taking).items()},
        "share": {kind: seconds / rest[kind] for kind, seconds in vars(source.taking).items()},
    }


def measure(
    network: str, text: Path, layer: int, *, batches: int, rounds: int, n_q: int, batch: int, steps: int
) -> dict[str, Any]:
    """Harvest `batches` batches of 4096 tokens at three sites of a layer, then train on what was stored."""
    torch.set_num_threads(1)
    model, tokenizer = open_network(network)
    texts = (document.text for document in read_documents([text]))
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    tokens = list(islice(text_batches(tokenizer, texts, keep=keep), batches))
    name = f"model.layers.{layer}"
    at = f"{name}.mlp:in,out; {name}:out"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        works = _works(model, tokens, at, home)
        times: dict[str, list[Span]] = {what: [] for what in works}
        for _ in range(rounds):
            for what, work in works.items():
                gc.collect()
                times[what].append(timed(work))
        harvest(model, at, tokens, home / "kept", shard_rows=8192)
        reading = _reading(home / "kept", f"{name}:out", n_q, batch, steps)
    seconds = {
        what: {kind: median(getattr(span, kind) for span in spans) for kind in ("cpu", "wall")}
        for what, spans in times.items()
    }
    ratios = {
        what: {kind: seconds[over][kind] / seconds[under][kind] for kind in ("cpu", "wall")}
        for what, (over, under) in RATIOS.items()
    }
    place = {"model": network, "sites": at, "tokens": sum(part.tokens for part in tokens), "rounds": rounds}
    measured = {"seconds": seconds, "ratios": ratios, "reading": reading}
    return {"schema": "monosem.harvest_speed/1", **place, **measured, "threads": 1, "env": environment()}


def lines(record: Mapping[str, Any]) -> list[str]:
    """The record for people."""
    shares = {**record["ratios"], "shuffled reading / rest of a step": record["reading"]["share"]}
    return [f"{what:42} {r['cpu']:.3f} of processor time, {r['wall']:.3f} of wall time" for what, r in shares.items()]

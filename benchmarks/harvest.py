"""What harvesting costs over the bare forward pass, and what reading shuffled rows costs beside a training step.

    python benchmarks/harvest.py --out records/harvest/speed.json [--model stories15m --text stories.jsonl --layer 3]

Each pair is measured in turns in one process, on one thread; ratios are of medians, in processor time (and, beside it,
in wall time, which other work on the machine stretches). The harvest is the whole of `harvest`: hooks, conversion,
writing, flushing and hashing. The bare pass runs the same batches without hooks: the whole network, and again only
as far as the last site, where `harvest` stops.
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from monosem.base.files import write_json
from monosem.bench.records import environment
from monosem.data.batches import TokenFilter
from monosem.data.store_source import StoreSource
from monosem.data.texts import read_documents, text_batches
from monosem.methods import method
from monosem.networks.harvest import harvest
from monosem.networks.models import open_network
from monosem.networks.sites import capture, find_sites
from monosem.train.config import FitConfig, Order
from monosem.train.loop import fit

Times = dict[str, dict[str, list[float]]]


def _timed(work: Callable[[], Any], name: str, times: Times) -> None:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    held = times.setdefault(name, {"cpu": [], "wall": []})
    held["cpu"].append(time.process_time() - cpu)
    held["wall"].append(time.perf_counter() - wall)


def _ratio(times: Times, over: str, under: str) -> dict[str, float]:
    median = {name: {kind: statistics.median(t) for kind, t in held.items()} for name, held in times.items()}
    return {kind: median[over][kind] / median[under][kind] for kind in ("cpu", "wall")}


def _harvesting(model: Any, batches: list[Any], at: str, home: Path, rounds: int) -> tuple[Times, dict[str, Any]]:
    """The bare pass, the pass as far as the last site, and harvests: all of it, stopping early or not."""
    times: Times = {}
    sites = find_sites({"": model}, at)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**batch.inputs)

    def as_far() -> None:
        with capture(model, sites[-1:]) as seen:
            for batch in batches:
                seen.run(model, batch.inputs)

    def stored(name: str, **options: Any) -> None:
        harvest(model, at, batches, home / name, shard_rows=8192, **options)
        shutil.rmtree(home / name)

    for _ in range(rounds):
        _timed(bare, "bare pass", times)
        _timed(lambda: stored("a"), "harvest", times)
        _timed(lambda: stored("b", stop=False), "harvest, whole pass", times)
        _timed(as_far, "pass to the last site", times)
        _timed(lambda: stored("c", dtype="float16"), "harvest, float16", times)
    return times, {
        "harvest / bare pass": _ratio(times, "harvest", "bare pass"),
        "harvest float16 / bare pass": _ratio(times, "harvest, float16", "bare pass"),
        "harvest with the whole pass / bare pass": _ratio(times, "harvest, whole pass", "bare pass"),
        "harvest / pass to the last site": _ratio(times, "harvest", "pass to the last site"),
    }


class _Watched(StoreSource):
    """Adds up the time that taking rows needs, while `fit` trains."""

    cpu = wall = 0.0

    def take(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the source's own."""
        cpu, wall = time.process_time(), time.perf_counter()
        rows = super().take(index)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return rows


def _reading(store: Path, read: str, n_q: int, batch: int, steps: int) -> dict[str, Any]:
    """The share of `fit` that taking shuffled rows needs, for stored rows trained in units of their own."""
    source = _Watched(store, read)
    fit(method("topk(k=32)"), source, n_q, FitConfig(steps=5, batch_size=batch))
    order = Order(source.rows, batch, 0)
    source.cpu = source.wall = 0.0
    cpu, wall = time.process_time(), time.perf_counter()
    fit(method("topk(k=32)"), source, n_q, FitConfig(steps=steps, batch_size=batch, sample_rows=batch))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "n_q": n_q,
        "batch": batch,
        "steps": steps,
        "rows": order.rows,
        "step_ms": {"cpu": 1e3 * cpu / steps, "wall": 1e3 * wall / steps},
        "reading_ms": {"cpu": 1e3 * source.cpu / (steps + 1), "wall": 1e3 * source.wall / (steps + 1)},
        "share": {"cpu": source.cpu / (cpu - source.cpu), "wall": source.wall / (wall - source.wall)},
    }


def main() -> None:
    """Measure both, print them, write one record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stories15m")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--batches", type=int, default=5, help="of 4096 tokens, in one harvest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-q", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = open_network(options.model)
    texts = (document.text for document in read_documents([options.text]))
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    batches = list(islice(text_batches(tokenizer, texts, keep=keep), options.batches))
    layer = f"model.layers.{options.layer}"
    at = f"{layer}.mlp:in,out; {layer}:out"
    home = Path(tempfile.mkdtemp())
    try:
        times, ratios = _harvesting(model, batches, at, home, options.rounds)
        harvest(model, at, batches, home / "kept", shard_rows=8192)
        reading = _reading(home / "kept", f"{layer}:out", options.n_q, options.batch, options.steps)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    record = {
        "schema": "monosem.harvest_speed/1",
        "model": options.model,
        "sites": at,
        "tokens": sum(batch.tokens for batch in batches),
        "rounds": options.rounds,
        "seconds": {name: {kind: statistics.median(t) for kind, t in held.items()} for name, held in times.items()},
        "ratios": ratios,
        "reading": reading,
        "threads": 1,
        "env": environment(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python benchmarks/harvest.py --model {options.model} --layer {options.layer} "
        f"--batches {options.batches} --rounds {options.rounds} --steps {options.steps}",
    }
    write_json(options.out, record)
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio['cpu']:.3f} of processor time, {ratio['wall']:.3f} of wall time")
    cpu, wall = reading["share"]["cpu"], reading["share"]["wall"]
    print(f"{'shuffled reading / rest of a step':42} {cpu:.4f} of processor time, {wall:.4f} of wall time")


if __name__ == "__main__":
    main()

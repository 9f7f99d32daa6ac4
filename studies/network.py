"""What a network loses when it reads a model's reconstruction: loss recovered of an SAE and of transcoders.

Harvests one layer of a language model, trains TopK models on it (an SAE on the layer's output, a transcoder and a skip
transcoder from the input of its MLP to its output), splices each into the network, and scores text that no model was
trained on: FVU, L0, dead share, cosine, cross-entropy and KL, loss recovered against zero and mean ablation.

    python -m studies fetch smollm2 complaints
    python -m studies network --rows 20000 --steps 300                       # some minutes on one core
    python -m studies network --rows 60000 --batch 512 --steps 800 --scored 3000 --out runs/records/network

    python -m studies fetch stories15m
    python -m studies network --network stories15m --layer 3 --n-q 4096      # on stories of its own

Called again, it goes on where it stopped. The first two tokens of a window
are neither harvested, replaced nor counted: in SmolLM2's residual stream they may be a hundred times longer.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig, method
from monosem.base.files import read_json, write_atomic, write_json
from monosem.base.machine import cache_folder
from monosem.base.spec import to_plain
from monosem.bench.records import environment
from monosem.core.io import load_model
from monosem.data.batches import Batch, TokenFilter
from monosem.data.source import StoreSource
from monosem.data.store import Store
from monosem.data.texts import text_batches
from monosem.networks.harvest import harvest
from monosem.networks.models import open_network
from monosem.networks.network import network_scores
from monosem.networks.sampling import sample_texts
from monosem.report.style import GREY, RED, plain_axes, to_svg
from monosem.train.loop import fit
from studies.assets.data import complaints
from studies.page import fill, table
from studies.stored import stored_below

STUDY = "network"
LENGTH = 256
FIRST = 2
"""Places left out at the start of a window: there, tokens of SmolLM2 are a hundred times longer than all others."""
TEXTS = {"smollm2": "consumer complaints", "stories15m": "own samples, T = 1"}
METHODS = ("topk", "topk_transcoder", "topk_skip_transcoder")
TITLES = {"topk": "SAE, layer output", "topk_transcoder": "transcoder, MLP", "topk_skip_transcoder": "skip transcoder"}
LINES = {
    "spliced": ("reconstruction", RED),
    "mean": ("mean ablation", GREY),
    "zero": ("zero ablation", "#b8b8b8"),
}


def _texts(options: argparse.Namespace, network: Any, tokenizer: Any) -> tuple[list[str], list[str]]:
    """(to train on, to score on); no text is in both."""
    if options.network == "smollm2":
        every = complaints().texts
        return every[:10000], every[10000:]
    path = options.text or cache_folder() / "texts" / f"{options.network}-{options.stories}.jsonl"
    if not path.exists():
        lines = (json.dumps({"text": text}) for text in sample_texts(network, tokenizer, options.stories))
        write_atomic(path, "\n".join(lines).encode())
    own = [json.loads(line)["text"] for line in path.read_text().splitlines() if line.strip()]
    return own[: len(own) * 9 // 10], own[len(own) * 9 // 10 :]


def _limited(batches: Iterator[Batch], tokens: int) -> Iterator[Batch]:
    """Batches until so many tokens are counted."""
    count = 0
    for batch in batches:
        yield batch
        assert batch.keep is not None
        count += int(batch.keep.sum())
        if count >= tokens:
            return


def _activations(options: argparse.Namespace, network: Any, tokenizer: Any, sites: str, keep: TokenFilter) -> Store:
    """The store of the layer, harvested once: the network in bfloat16 (it is scored in float32), rows in float16."""
    folder = cache_folder() / "stores" / f"network-{options.network}-{options.layer}-{options.rows}"
    batches = text_batches(tokenizer, _texts(options, network, tokenizer)[0], length=LENGTH, tokens=2048, keep=keep)
    began = time.perf_counter()

    def report(rows: int, _: int) -> None:
        print(f"\rharvested {rows:,} rows, {rows / (time.perf_counter() - began):,.0f} a second", end="", flush=True)

    network.to(torch.bfloat16)
    store = harvest(network, sites, batches, folder, keep=keep, dtype="float16", rows=options.rows, progress=report)
    print(f"\r{store.rows:,} rows of {', '.join(store.sites)} in {folder}")
    return store


def _run(options: argparse.Namespace, name: str, network: Any, store: Store, scored: list[Batch]) -> dict[str, Any]:
    """Train one model, or take the trained one, and score it: its record."""
    mlp, out = f"model.layers.{options.layer}.mlp", f"model.layers.{options.layer}:out"
    at = f"{mlp}:in,out" if "transcoder" in name else out
    source = StoreSource(store, *((f"{mlp}:in", f"{mlp}:out") if "transcoder" in name else (out,)))
    chosen = method(f"{name}(k={options.k})")
    config = FitConfig(steps=options.steps, batch_size=options.batch, lr=options.lr, checkpoint_every=200)
    folder = options.models / f"{options.network}-{options.layer}-{options.rows}-{options.steps}-{name}-{options.n_q}"
    result = fit(chosen, source, options.n_q, config, out=folder, progress=True)
    began = time.perf_counter()
    scores = network_scores(network, load_model(folder), at, scored)
    return {
        "schema": 1,
        "study": STUDY,
        "network": options.network,
        "at": at,
        "text": TEXTS[options.network],
        "method": {"name": name, "spec": to_plain(chosen)},
        "n_q": options.n_q,
        "rows": store.rows,
        "first": FIRST,
        "harvested": "network in bfloat16, rows in float16",
        "data_digest": source.digest,
        "config": to_plain(config),
        "scores": scores.plain(),
        "seconds": {"training_this_call": result.seconds, "scoring": time.perf_counter() - began},
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _scores(records: list[dict[str, Any]]) -> str:
    """The records as a table."""
    head = [
        "network, place",
        "method",
        "n_q",
        "FVU",
        "L0",
        "dead",
        "cosine",
        "cross-entropy",
        "KL",
        "rec. zero",
        "mean",
    ]
    rows = [head]
    for record in records:
        scores, effect = record["scores"], record["scores"]["effects"][0]
        ce = f"{effect['ce']['clean']:.3f} -> {effect['ce']['spliced']:.3f}"
        shares = [effect["recovered"][name] for name in ("zero", "mean")]
        numbers = [f"{scores['fvu']:.4f}", f"{scores['l0']:.1f}", f"{scores['dead']:.1%}", f"{scores['cosine']:.4f}"]
        place = f"{record['network']}, `{record['at']}`"
        recovered = ["-" if share is None else f"{share:.4f}" for share in shares]
        line = [place, TITLES[record["method"]["name"]], str(record["n_q"]), *numbers, ce]
        rows.append([*line, f"{effect['kl']['spliced']:.3f}", *recovered])
    return table(rows, numbers=True)


def _figure(records: list[dict[str, Any]]) -> Figure:
    """What each replacement adds to the cross-entropy, on a logarithmic scale."""
    figure = Figure(figsize=(7.6, 1.1 + 0.55 * len(records)), layout="constrained")
    axes = figure.subplots()
    for row, record in enumerate(records):
        effect = record["scores"]["effects"][0]
        added = {name: effect["ce"][name] - effect["ce"]["clean"] for name in LINES}
        axes.plot([min(added.values()), max(added.values())], [row, row], color="#dddddd", linewidth=2, zorder=1)
        for name, (label, colour) in LINES.items():
            axes.scatter([added[name]], [row], s=40, color=colour, label=label if row == 0 else None, zorder=2)
        share = effect["recovered"]["zero"]
        text = "" if share is None else f"{share:.1%} recovered"
        axes.annotate(text, (added["spliced"], row), (-4, 7), textcoords="offset points", ha="left", fontsize=8)
    axes.set_yticks(range(len(records)), [f"{r['network']}\n{TITLES[r['method']['name']]}" for r in records])
    axes.set(xscale="log", ylim=(len(records) - 0.5, -0.7), xlabel="added to the cross-entropy of the next token, nats")
    plain_axes(axes)
    figure.legend(ncols=3, loc="outside upper left", frameon=False, fontsize=8)
    return figure


def _ordered(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: (record["network"], METHODS.index(record["method"]["name"])))


def _draw(records: list[dict[str, Any]], path: Path) -> None:
    svg = to_svg(_figure(records), "Cross-entropy added by the reconstruction and by ablation")
    write_atomic(path, svg.encode())


def page() -> None:
    """Fill the table of docs/network.md and draw its figure."""
    records = _ordered(stored_below("network"))
    fill("docs/network.md", {"scores": _scores(records)})
    _draw(records, Path("docs/figures/network.svg"))


def main(words: Sequence[str] = ()) -> None:
    """Harvest, train, splice, score, record, draw."""
    parser = argparse.ArgumentParser(prog="python -m studies network")
    parser.add_argument("--network", choices=TEXTS, default="smollm2")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--rows", type=int, default=150_000, help="tokens to train on")
    parser.add_argument("--scored", type=int, default=20_000, help="tokens to score on")
    parser.add_argument("--n-q", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--stories", type=int, default=1200, help="how many the network writes, where it does")
    parser.add_argument("--text", type=Path, help="stories that it has written, .jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path("runs/network"), help="where trained models are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/network/records"), help="where records go")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    network, tokenizer = open_network(options.network)  # float32
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))), FIRST)
    sites = f"model.layers.{options.layer}.mlp:in,out; model.layers.{options.layer}:out"
    store = _activations(options, copy.deepcopy(network), tokenizer, sites, keep)
    windows = text_batches(tokenizer, _texts(options, network, tokenizer)[1], length=LENGTH, tokens=1024, keep=keep)
    scored = list(_limited(windows, options.scored))
    for name in options.methods.split(","):
        record = _run(options, name, network, store, scored)
        path = options.out / f"{options.network}-{options.layer}-{name}-{options.n_q}-{options.k}.json"
        write_json(path, record)
        print(_scores([record]))
    records = _ordered([read_json(path) for path in options.out.glob("*.json")])
    print(_scores(records))
    _draw(records, options.out / "network.svg")

"""Harvest a language model, train every pairing on its store, and score each spliced into the network.

stories15M writes simple stories and knows no other text, so it is harvested on stories that it drew itself (cached, and
not counted in the times). In one forward pass of layer 3 the rows of the residual stream and of the MLP's input and
output are stored; then an SAE and a transcoder are trained, with input normalisation folded into the saved weights. The
last stories are kept from training: FVU, L0, dead share and loss recovered are those of the network on them.

    python -m studies fetch stories15m
    python -m studies stories                                             # 200k tokens, an SAE and a transcoder
    python -m studies stories --also skip,crosscoder,cross_layer          # a second store: all layers, fewer rows
    python -m studies stories --rows 4000 --stories 64 --steps 30 --n-q 256 --scored 2    # a look, in half a minute

Called again, it goes on where it stopped. Times are of this process, wall and processor.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig, fit, load_model, method
from monosem.base.files import read_json, write_atomic, write_json
from monosem.base.machine import cache_folder
from monosem.base.spec import to_plain
from monosem.bench.records import environment
from monosem.data.batches import Batch, TokenFilter
from monosem.data.source import StoreSource
from monosem.data.store import is_store
from monosem.data.texts import pieces, text_batches
from monosem.networks.harvest import harvest
from monosem.networks.models import open_network
from monosem.networks.network import network_scores
from monosem.networks.sampling import sample_texts
from monosem.report.style import GREY, PALETTE, tidy, to_svg
from studies.stored import stored

MAIN = ("sae", "transcoder")
ALL = {
    "sae": ("topk(k={k})", "{layer}:out", None),
    "transcoder": ("topk_transcoder(k={k})", "{layer}.mlp:in", "{layer}.mlp:out"),
    "skip": ("topk_skip_transcoder(k={k})", "{layer}.mlp:in", "{layer}.mlp:out"),
    "crosscoder": ("topk_crosscoder(k={k})", "model.layers.[234]:out", None),
    "cross_layer": ("topk_cross_layer(k={k})", "model.layers.*.mlp:in", "model.layers.*.mlp:out"),
}
TITLES = {
    "sae": "SAE, residual stream",
    "transcoder": "transcoder, MLP",
    "skip": "skip transcoder, MLP",
    "crosscoder": "crosscoder, layers 2 to 4",
    "cross_layer": "cross-layer transcoder, all MLPs",
}


@contextmanager
def _timed(folder: Path, name: str) -> Iterator[None]:
    """Adds a stage's wall and processor time to what earlier calls needed for it, and notes the machine's load."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    path = folder / "seconds.json"
    spent = read_json(path) if path.exists() else {}
    before = spent.get(name, {"wall": 0.0, "cpu": 0.0, "load_average": []})
    spent[name] = {
        "wall": before["wall"] + time.perf_counter() - wall,
        "cpu": before["cpu"] + time.process_time() - cpu,
        "load_average": [*before["load_average"], float(Path("/proc/loadavg").read_text().split()[0])],
    }
    write_json(path, spent)


def _stories(options: argparse.Namespace, network: Any, tokenizer: Any) -> list[str]:
    """What the network wrote, drawn once and kept in the cache."""
    path = options.text or cache_folder() / "texts" / f"stories15m-{options.stories}.jsonl"
    if not path.exists():
        lines = []
        for text in sample_texts(network, tokenizer, options.stories):
            lines.append(json.dumps({"text": text}))
            print(f"\r{len(lines)} of {options.stories} stories drawn", end="", flush=True)
        print()
        write_atomic(path, "\n".join(lines).encode())
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def _store(
    options: argparse.Namespace, network: Any, tokenizer: Any, texts: Iterable[str], sites: str, rows: int, name: str
) -> None:
    """Harvest some sites into a folder of `options.out`, unless it is there."""
    folder = options.out / name
    if is_store(folder) and read_json(folder / "manifest.json")["complete"]:
        return
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    batches = text_batches(tokenizer, texts, keep=keep, together=256)
    began = time.perf_counter()

    def report(done: int, tokens: int) -> None:
        print(f"\r{done:,} rows, {tokens / (time.perf_counter() - began):,.0f} tokens/s", end="", flush=True)

    with _timed(options.out, name):
        about = {"model": ["stories15m"], "text": "own samples, T = 1"}
        words = pieces(tokenizer)
        acts = harvest(network, sites, batches, folder, rows=rows, vocabulary=words, about=about, progress=report)
    print(f"\r{acts.rows:,} rows of {', '.join(acts.sites)} in {acts.folder}")


def _one(options: argparse.Namespace, name: str, network: Any, scored: list[Batch]) -> dict[str, Any]:
    """Train one model, or take the trained one, and score it on the network: its record."""
    layer = f"model.layers.{options.layer}"
    text, read, write = (part and part.format(k=options.k, layer=layer) for part in ALL[name])
    folder = options.out / ("acts" if name in (*MAIN, "skip") else "acts-all")
    source = StoreSource(folder, read, write)
    steps = {"sae": 1.0, "transcoder": 3.0, "skip": 3.0}.get(name, 0.5)
    n_q = options.n_q if name != "cross_layer" else options.n_q // 2 // 6 * 6
    config = FitConfig(
        steps=round(steps * options.steps), batch_size=options.batch, lr=options.lr, checkpoint_every=200
    )
    with _timed(options.out / name, "train"):
        result = fit(method(str(text)), source, n_q, config, out=options.out / name, progress=True)
    write_json(options.out / name / "source.json", {"store": str(folder), "read": source.read, "write": source.write})
    with _timed(options.out / name, "score"):
        scores = network_scores(network, load_model(options.out / name), str(read), scored, write)
    seconds = read_json(options.out / name / "seconds.json") | {
        "harvest": read_json(options.out / "seconds.json")[folder.name]
    }
    record = {
        "schema": "monosem.stories/1",
        "network": "stories15m",
        "text": "own samples, T = 1; the last ones kept from training",
        "pairing": name,
        "method": text,
        "read": source.read,
        "write": source.write,
        "n_q": n_q,
        "rows": source.rows,
        "data_digest": source.digest,
        "config": to_plain(config),
        "training": {key: [entry[key] for entry in result.log] for key in ("step", "fvu", "dead")},
        "scores": scores.plain(),
        "seconds": seconds,
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    whole = scores.effects[-1]
    shown = f"FVU {scores.fvu:.3f}  L0 {scores.l0:.1f}  dead {scores.dead:.1%}"
    shares = "  ".join(f"{by} {share:.3f}" for by in ("zero", "mean") if (share := whole.recovered(by)) is not None)
    print(f"{TITLES[name]}: {shown}  loss recovered against {shares}; {seconds['train']['cpu']:.0f} s of one core")
    return record


def _figure(records: list[dict[str, Any]]) -> Figure:
    """FVU over training by pairing, and where the processor time went."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = dict(zip(ALL, PALETTE, strict=False))
    for record in records:
        name = record["pairing"]
        step, fvu = record["training"]["step"], record["training"]["fvu"]
        left.plot(step, fvu, color=colours[name], label=TITLES[name], linewidth=1.5)
        left.scatter(step[-1:], [record["scores"]["fvu"]], color=colours[name], zorder=3, s=28)
    left.axhline(0.2, color=GREY, linewidth=0.8, linestyle=":")
    tidy(left, "step", "FVU (line: batches of training,\ndot: held-out stories)")
    left.set(ylim=(0, 1), xlim=(0, None))
    spent = {"harvest": records[0]["seconds"]["harvest"]["cpu"]}
    spent |= {f"train {TITLES[r['pairing']].partition(',')[0]}": r["seconds"]["train"]["cpu"] for r in records}
    right.barh(list(spent), list(spent.values()), color=[GREY, *(colours[r["pairing"]] for r in records)])
    for row, value in enumerate(spent.values()):
        right.annotate(f"{value:.0f} s", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    tidy(right, "seconds of one core", "", legend=False)
    right.invert_yaxis()
    return figure


def _draw(records: list[dict[str, Any]], path: Path) -> None:
    svg = to_svg(_figure(records), "Error over training by pairing, and seconds of one core by stage")
    write_atomic(path, svg.encode())


def page() -> None:
    """Draw the figure of docs/walkthrough.md."""
    records = (stored(f"stories/{name}") for name in ALL)
    _draw([record for record in records if record is not None], Path("docs/figures/stories.svg"))


def main(words: Sequence[str] = ()) -> None:
    """Stories, stores, models, records, figure."""
    parser = argparse.ArgumentParser(prog="python -m studies stories")
    parser.add_argument("--stories", type=int, default=1088, help="how many the network draws")
    parser.add_argument("--text", type=Path, help="stories that it has drawn, .jsonl")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--n-q", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1500, help="of the SAE; a transcoder takes three times as many")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--only", default="sae,transcoder", help="of the two on the layer")
    parser.add_argument("--also", default="", help="of skip, crosscoder, cross_layer")
    parser.add_argument("--scored", type=int, default=40, help="stories kept from training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/stories"))
    parser.add_argument("--records", type=Path, help="where records go [default: OUT/records]")
    parser.add_argument("--figure", type=Path, help="where the figure goes [default: OUT/stories.svg]")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    wanted = [name for name in ALL if name in f"{options.only},{options.also}".split(",")]
    network, tokenizer = open_network("stories15m")
    texts = _stories(options, network, tokenizer)
    training, kept = texts[: -options.scored], texts[-options.scored :]
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    scored = list(text_batches(tokenizer, kept, tokens=2048, keep=keep))
    records_folder = options.records or options.out / "records"

    layer = f"model.layers.{options.layer}"
    _store(options, network, tokenizer, training, f"{layer}.mlp:in,out; {layer}:out", options.rows, "acts")
    if {"crosscoder", "cross_layer"} & set(wanted):
        every = "model.layers.*.mlp:in,out; model.layers.[234]:out"
        _store(options, network, tokenizer, training, every, options.rows // 4, "acts-all")
    for name in wanted:
        path = records_folder / f"{name}.json"
        if not path.exists():
            write_json(path, _one(options, name, network, scored))
    records = [read_json(records_folder / f"{name}.json") for name in ALL if (records_folder / f"{name}.json").exists()]
    total = records[0]["seconds"]["harvest"]["cpu"] + sum(
        r["seconds"]["train"]["cpu"] for r in records if r["pairing"] in MAIN
    )
    print(f"harvest, SAE and transcoder: {total:.0f} s of one core")
    _draw(records, options.figure or options.out / "stories.svg")

"""What a network loses when it reads a model's reconstruction: two studies that harvest, train, splice and score.

`network` harvests one layer of a language model, trains TopK models on it (an SAE on the layer's output, a transcoder
and a skip transcoder from the input of its MLP to its output), splices each into the network, and scores text that no
model was trained on: FVU, L0, dead share, cosine, cross-entropy and KL, loss recovered against zero and mean ablation.

    python -m studies fetch smollm2 complaints
    python -m studies network --rows 20000 --steps 300                       # some minutes on one core
    python -m studies network --rows 60000 --batch 512 --steps 800 --scored 3000 --out runs/records/network

    python -m studies fetch stories15m
    python -m studies network --network stories15m --layer 3 --n-q 4096      # on stories of its own

The first two tokens of a window are neither harvested, replaced nor counted: in SmolLM2's residual stream they may be
a hundred times longer.

`stories` trains every pairing on one store of stories15M. It writes simple stories and knows no other text, so it is
harvested on stories that it drew itself (cached, and not counted in the times). In one forward pass of layer 3 the rows
of the residual stream and of the MLP's input and output are stored; then an SAE and a transcoder are trained, with
input normalisation folded into the saved weights. The last stories are kept from training: FVU, L0, dead share and loss
recovered are those of the network on them. Times are of this process, wall and processor.

    python -m studies stories                                             # 200k tokens, an SAE and a transcoder
    python -m studies stories --also skip,crosscoder,cross_layer          # a second store: all layers, fewer rows
    python -m studies stories --rows 4000 --stories 64 --steps 30 --n-q 256 --scored 2    # a look, in half a minute

Called again, each goes on where it stopped.
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import FitConfig, StoreSource, fit, harvest, load_model, method, network_scores, open_network, text_batches
from monosem.base import cache_folder, read_json, to_plain, write_atomic, write_json
from monosem.bench import environment
from monosem.data import Batch, Store, TokenFilter, is_store, pieces
from monosem.networks import NetworkScores, sample_texts
from monosem.report import GREY, PALETTE, RED, fill, plain_axes, table, tidy, write_figure
from studies.assets.data import complaints
from studies.options import Options
from studies.stored import stored, stored_below

Record = dict[str, Any]


def drawn_texts(path: Path | None, network: Any, tokenizer: Any, count: int) -> list[str]:
    """What stories15M wrote, drawn once and kept in a file, by default of the cache."""
    path = path or cache_folder() / "texts" / f"stories15m-{count}.jsonl"
    if not path.exists():
        lines = []
        for text in sample_texts(network, tokenizer, count):
            lines.append(json.dumps({"text": text}))
            print(f"\r{len(lines)} of {count} stories drawn", end="", flush=True)
        print()
        write_atomic(path, "\n".join(lines).encode())
    return [json.loads(line)["text"] for line in path.read_text().splitlines() if line.strip()]


def _harvested(network: Any, sites: str, batches: Iterator[Batch], folder: Path, **more: Any) -> Store:
    """The store of some sites, with the pace on the way."""
    began = time.perf_counter()

    def report(rows: int, tokens: int) -> None:
        print(f"\r{rows:,} rows, {tokens / (time.perf_counter() - began):,.0f} tokens/s", end="", flush=True)

    acts = harvest(network, sites, batches, folder, progress=report, **more)
    print(f"\r{acts.rows:,} rows of {', '.join(acts.sites)} in {acts.folder}")
    return acts


def special(tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's own tokens, which are no text."""
    return tuple(sorted(set(tokenizer.all_special_ids)))


def _config(options: argparse.Namespace, share: float = 1.0) -> FitConfig:
    steps = round(share * options.steps)
    return FitConfig(steps=steps, batch_size=options.batch, lr=options.lr, checkpoint_every=200)


def _record(n_q: int, source: StoreSource, config: FitConfig, scores: NetworkScores) -> Record:
    """What the records of both studies hold."""
    return {
        "n_q": n_q,
        "rows": source.rows,
        "data_digest": source.digest,
        "config": to_plain(config),
        "scores": scores.plain(),
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _options(study: str, layer: int, n_q: int, batch: int, lr: float, out: str) -> Options:
    """The options that both studies take."""
    options = Options(study, layer=layer, n_q=n_q, k=32, batch=batch, lr=lr, threads=1)
    options.path("--text", None, "stories that the network has drawn, .jsonl")
    options.path("--out", out)
    return options


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
    own = drawn_texts(options.text, network, tokenizer, options.stories)
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


def _activations(options: argparse.Namespace, network: Any, tokenizer: Any, texts: list[str], sites: str) -> Store:
    """The store of the layer, harvested once: the network in bfloat16 (it is scored in float32), rows in float16."""
    folder = cache_folder() / "stores" / f"network-{options.network}-{options.layer}-{options.rows}"
    keep = TokenFilter(special(tokenizer), FIRST)
    batches = text_batches(tokenizer, texts, length=LENGTH, tokens=2048, keep=keep)
    network = copy.deepcopy(network).to(torch.bfloat16)
    return _harvested(network, sites, batches, folder, keep=keep, dtype="float16", rows=options.rows)


def _run(options: argparse.Namespace, name: str, network: Any, store: Store, scored: list[Batch]) -> Record:
    """Train one model, or take the trained one, and score it: its record."""
    mlp, out = f"model.layers.{options.layer}.mlp", f"model.layers.{options.layer}:out"
    at = f"{mlp}:in,out" if "transcoder" in name else out
    source = StoreSource(store, *((f"{mlp}:in", f"{mlp}:out") if "transcoder" in name else (out,)))
    chosen, config = method(f"{name}(k={options.k})"), _config(options)
    folder = options.models / f"{options.network}-{options.layer}-{options.rows}-{options.steps}-{name}-{options.n_q}"
    result = fit(chosen, source, options.n_q, config, out=folder, progress=True)
    began = time.perf_counter()
    scores = network_scores(network, load_model(folder), at, scored)
    return _record(options.n_q, source, config, scores) | {
        "schema": 1,
        "study": "network",
        "network": options.network,
        "at": at,
        "text": TEXTS[options.network],
        "method": {"name": name, "spec": to_plain(chosen)},
        "first": FIRST,
        "harvested": "network in bfloat16, rows in float16",
        "seconds": {"training_this_call": result.seconds, "scoring": time.perf_counter() - began},
    }


_HEAD = "network, place | method | n_q | FVU | L0 | dead | cosine | cross-entropy | KL | rec. zero | mean"


def _scores(records: list[Record]) -> str:
    """The records as a table."""
    rows = [_HEAD.split(" | ")]
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


def _figure(records: list[Record]) -> Figure:
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


def _ordered(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record["network"], METHODS.index(record["method"]["name"])))


def _draw(records: list[Record], path: Path) -> None:
    write_figure(path, _figure(records), "Cross-entropy added by the reconstruction and by ablation")


def page() -> None:
    """Fill the table of docs/network.md and draw its figure."""
    records = _ordered(stored_below("network"))
    fill("docs/network.md", {"scores": _scores(records)})
    _draw(records, Path("docs/figures/network.svg"))


def main(words: Sequence[str] = ()) -> None:
    """Harvest, train, splice, score, record, draw."""
    parser = _options("network", 15, 4608, 256, 1e-3, "runs/network/records")
    parser.add_argument("--network", choices=TEXTS, default="smollm2")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.number("--rows", 150_000, "tokens to train on")
    parser.number("--scored", 20_000, "tokens to score on")
    parser.number("--steps", 3000, "of every model")
    parser.number("--stories", 1200, "how many the network writes, where it does")
    parser.path("--models", "runs/network", "where trained models are kept")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    network, tokenizer = open_network(options.network)  # float32
    training, kept = _texts(options, network, tokenizer)
    sites = f"model.layers.{options.layer}.mlp:in,out; model.layers.{options.layer}:out"
    store = _activations(options, network, tokenizer, training, sites)
    keep = TokenFilter(special(tokenizer), FIRST)
    scored = list(_limited(text_batches(tokenizer, kept, length=LENGTH, tokens=1024, keep=keep), options.scored))
    for name in options.methods.split(","):
        record = _run(options, name, network, store, scored)
        path = options.out / f"{options.network}-{options.layer}-{name}-{options.n_q}-{options.k}.json"
        write_json(path, record)
        print(_scores([record]))
    records = _ordered([read_json(path) for path in options.out.glob("*.json")])
    print(_scores(records))
    _draw(records, options.out / "network.svg")


_MAIN = ("sae", "transcoder")
PAIRINGS = {
    "sae": ("topk(k={k})", "{layer}:out", None),
    "transcoder": ("topk_transcoder(k={k})", "{layer}.mlp:in", "{layer}.mlp:out"),
    "skip": ("topk_skip_transcoder(k={k})", "{layer}.mlp:in", "{layer}.mlp:out"),
    "crosscoder": ("topk_crosscoder(k={k})", "model.layers.[234]:out", None),
    "cross_layer": ("topk_cross_layer(k={k})", "model.layers.*.mlp:in", "model.layers.*.mlp:out"),
}
PAIRING_TITLES = {
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


def _store(
    options: argparse.Namespace, network: Any, tokenizer: Any, texts: list[str], sites: str, rows: int, name: str
) -> None:
    """Harvest some sites into a folder of `options.out`, unless it is there."""
    folder = options.out / name
    if is_store(folder) and read_json(folder / "manifest.json")["complete"]:
        return
    batches = text_batches(tokenizer, texts, keep=TokenFilter(special(tokenizer)), together=256)
    about = {"model": ["stories15m"], "text": "own samples, T = 1"}
    with _timed(options.out, name):
        _harvested(network, sites, batches, folder, rows=rows, vocabulary=pieces(tokenizer), about=about)


def _pairing(options: argparse.Namespace, name: str, network: Any, scored: list[Batch]) -> Record:
    """Train one model, or take the trained one, and score it on the network: its record."""
    layer, out = f"model.layers.{options.layer}", options.out / name
    text, read, write = (part and part.format(k=options.k, layer=layer) for part in PAIRINGS[name])
    folder = options.out / ("acts" if name in (*_MAIN, "skip") else "acts-all")
    source = StoreSource(folder, read, write)
    n_q = options.n_q if name != "cross_layer" else options.n_q // 2 // 6 * 6
    config = _config(options, {"sae": 1.0, "transcoder": 3.0, "skip": 3.0}.get(name, 0.5))
    with _timed(out, "train"):
        result = fit(method(str(text)), source, n_q, config, out=out, progress=True)
    write_json(out / "source.json", {"store": str(folder), "read": source.read, "write": source.write})
    with _timed(out, "score"):
        scores = network_scores(network, load_model(out), str(read), scored, write)
    seconds = read_json(out / "seconds.json") | {"harvest": read_json(options.out / "seconds.json")[folder.name]}
    whole = scores.effects[-1]
    shown = f"FVU {scores.fvu:.3f}  L0 {scores.l0:.1f}  dead {scores.dead:.1%}"
    shares = "  ".join(f"{by} {share:.3f}" for by in ("zero", "mean") if (share := whole.recovered(by)) is not None)
    print(
        f"{PAIRING_TITLES[name]}: {shown}  loss recovered against {shares}; {seconds['train']['cpu']:.0f} s of one core"
    )
    return _record(n_q, source, config, scores) | {
        "schema": "monosem.stories/1",
        "network": "stories15m",
        "text": "own samples, T = 1; the last ones kept from training",
        "pairing": name,
        "method": text,
        "read": source.read,
        "write": source.write,
        "training": {key: [entry[key] for entry in result.log] for key in ("step", "fvu", "dead")},
        "seconds": seconds,
    }


def _stories_figure(records: list[Record]) -> Figure:
    """FVU over training by pairing, and where the processor time went."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = dict(zip(PAIRINGS, PALETTE, strict=False))
    for record in records:
        name = record["pairing"]
        step, fvu = record["training"]["step"], record["training"]["fvu"]
        left.plot(step, fvu, color=colours[name], label=PAIRING_TITLES[name], linewidth=1.5)
        left.scatter(step[-1:], [record["scores"]["fvu"]], color=colours[name], zorder=3, s=28)
    left.axhline(0.2, color=GREY, linewidth=0.8, linestyle=":")
    tidy(
        left, "step", "FVU (line: batches of training,\ndot: held-out stories)", "The SAE explains most of the variance"
    )
    left.set(ylim=(0, 1), xlim=(0, None))
    spent = {"harvest": records[0]["seconds"]["harvest"]["cpu"]}
    spent |= {f"train {PAIRING_TITLES[r['pairing']].partition(',')[0]}": r["seconds"]["train"]["cpu"] for r in records}
    right.barh(list(spent), list(spent.values()), color=[GREY, *(colours[r["pairing"]] for r in records)])
    for row, value in enumerate(spent.values()):
        right.annotate(f"{value:.0f} s", (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    tidy(right, "seconds of one core", "", "Each stage takes minutes at most", legend=False)
    right.invert_yaxis()
    return figure


def _draw_stories(records: list[Record], path: Path) -> None:
    write_figure(path, _stories_figure(records), "Error over training by pairing, and seconds of one core by stage")


def stories_page() -> None:
    """Draw the figure of docs/walkthrough.md."""
    records = (stored(f"stories/{name}") for name in PAIRINGS)
    _draw_stories([record for record in records if record is not None], Path("docs/figures/stories.svg"))


def stories(words: Sequence[str] = ()) -> None:
    """Stories, stores, models, records, figure."""
    parser = _options("stories", 3, 4096, 1024, 3e-3, "runs/stories")
    parser.number("--stories", 1088, "how many the network draws")
    parser.number("--rows", 200_000, "tokens to train on")
    parser.number("--steps", 1500, "of the SAE; a transcoder takes three times as many")
    parser.add_argument("--only", default="sae,transcoder", help="of the two on the layer")
    parser.add_argument("--also", default="", help="of skip, crosscoder, cross_layer")
    parser.number("--scored", 40, "stories kept from training")
    parser.path("--records", None, "where records go [default: OUT/records]")
    parser.path("--figure", None, "where the figure goes [default: OUT/stories.svg]")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    wanted = [name for name in PAIRINGS if name in f"{options.only},{options.also}".split(",")]
    network, tokenizer = open_network("stories15m")
    texts = drawn_texts(options.text, network, tokenizer, options.stories)
    training, kept = texts[: -options.scored], texts[-options.scored :]
    scored = list(text_batches(tokenizer, kept, tokens=2048, keep=TokenFilter(special(tokenizer))))
    folder, layer = options.records or options.out / "records", f"model.layers.{options.layer}"
    _store(options, network, tokenizer, training, f"{layer}.mlp:in,out; {layer}:out", options.rows, "acts")
    if {"crosscoder", "cross_layer"} & set(wanted):
        every = "model.layers.*.mlp:in,out; model.layers.[234]:out"
        _store(options, network, tokenizer, training, every, options.rows // 4, "acts-all")
    for name in wanted:
        if not (folder / f"{name}.json").exists():
            write_json(folder / f"{name}.json", _pairing(options, name, network, scored))
    records = [read_json(path) for name in PAIRINGS if (path := folder / f"{name}.json").exists()]
    trained = sum(r["seconds"]["train"]["cpu"] for r in records if r["pairing"] in _MAIN)
    print(f"harvest, SAE and transcoder: {records[0]['seconds']['harvest']['cpu'] + trained:.0f} s of one core")
    _draw_stories(records, options.figure or options.out / "stories.svg")

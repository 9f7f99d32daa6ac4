"""Does training that ends in the network close the gap in cross-entropy? SAE and transcoder of stories15M, three arms.

    python -m studies finetuned                  # every arm that the record lacks, on the committed stories

    monosem sample --network stories15m --dtype bfloat16 --seed 1 --documents 896 --out more.jsonl
    python -m studies finetuned --more more.jsonl --record finetuned/more --activation batch_topk --share 0.2 \\
        --steps 1200 --beta2 0.99 --tokens 384 --arms kl30,plain

    monosem sample --network stories15m --seed 1 --documents 2100 --out more.jsonl
    python -m studies finetuned --more more.jsonl --record finetuned/after --activation batch_topk --beta2 0.99 \\
        --tune 150 --arms plain,kl10

`plain` trains on the rows alone; the others add `in_network` over the last `--share` of the same steps, one batch of
training text a step. With `--tune` a finished model is the start of every arm, which takes that many more steps, at a
third of the rate at first and none at last. All arms see the same rows in the same order and are scored on the last of
the committed stories, which are kept from training. The gap is the cross-entropy with the reconstruction in place less
that without.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from monosem import FitConfig, StoreSource, fit, harvest, method, network_scores, open_network, text_batches
from monosem.bench import environment
from monosem.data import TokenFilter, is_store
from monosem.networks import in_network
from monosem.report import fill, table
from monosem.train import WarmupDecay
from studies.network import PAIRING_TITLES, PAIRINGS, drawn_texts, special
from studies.options import Options
from studies.stored import run_missing, stored

NAME, PAGE = "finetuned", Path("docs/network.md")
ARMS: Mapping[str, tuple[str, float]] = {
    "plain": ("", 0.0),
    "kl": ("kl", 1.0),
    "kl30": ("kl", 0.3),
    "kl10": ("kl", 0.1),
    "ce10": ("ce", 0.1),
}
"""What is added, and its weight beside the squared error of equal value."""
LONGER = {"sae": 1, "transcoder": 3}
"""How many times --steps each takes."""
TITLES = {"plain": "rows alone", "ce10": "cross-entropy, weight .1"}
TITLES |= {"kl": "KL, weight 1", "kl30": "KL, weight .3", "kl10": "KL, weight .1"}


def main(words: Sequence[str] = ()) -> None:
    """Train and score what the record lacks."""
    parser = Options(NAME, layer=3, n_q=4096, k=32, batch=1024, lr=3e-3, beta2=0.999, share=0.05, seeds=1, threads=1)
    parser.number("--steps", 1500, "of the SAE; a transcoder takes three times as many")
    parser.number("--tune", 0, "more steps of every arm, from one finished model")
    parser.number("--scored", 40, "stories kept from training, the last ones")
    parser.number("--tokens", 1024, "of a batch that is spliced")
    parser.path("--text", "studies/assets/stories.jsonl", "stories that the network has drawn")
    parser.path("--more", None, "more of them, all to train on")
    parser.path("--store", None, "the harvested rows [default: runs/RECORD/acts]")
    parser.add_argument("--record", default=NAME, help="its name")
    parser.add_argument("--activation", default="topk", help="topk or batch_topk")
    parser.add_argument("--only", default=",".join(LONGER), help="of sae, transcoder")
    parser.add_argument("--arms", default="plain,kl,kl10,ce10", help=f"of {', '.join(ARMS)}")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    about = {"command": f"python -m studies {NAME}", "options": _facts(options), "env": environment()}
    run_missing(options.record, about, _runs(options))


def _facts(options: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _runs(options: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    network, tokenizer = open_network("stories15m")
    texts = drawn_texts(options.text, network, tokenizer, 0)
    more = drawn_texts(options.more, network, tokenizer, 0) if options.more else []
    kept, texts = texts[-options.scored :], texts[: -options.scored] + more
    keep = TokenFilter(special(tokenizer))
    training = list(text_batches(tokenizer, texts, tokens=options.tokens, keep=keep))
    scored = list(text_batches(tokenizer, kept, tokens=2048, keep=keep))
    store = options.store or Path("runs") / options.record / "acts"
    if not is_store(store):
        layer = f"model.layers.{options.layer}"
        harvest(network, f"{layer}.mlp:in,out; {layer}:out", text_batches(tokenizer, texts, keep=keep), store)
    for seed in range(options.seeds):
        for name in options.only.split(","):
            for arm in options.arms.split(","):

                def run(name: str = name, arm: str = arm, seed: int = seed) -> dict[str, Any]:
                    return _run(options, store, network, training, scored, name, arm, seed)

                yield f"{name}/{arm}/{seed}", run


def _run(
    options: Any, store: Path, network: Any, training: list[Any], scored: list[Any], name: str, arm: str, seed: int
) -> dict[str, Any]:
    """One training, scored on the network."""
    layer = f"model.layers.{options.layer}"
    text, read, write = (part and part.format(k=options.k, layer=layer) for part in PAIRINGS[name])
    source = StoreSource(store, read, write)
    plain = method(str(text).replace("topk", options.activation))
    steps, betas = LONGER[name] * options.steps, (0.9, options.beta2)
    config = FitConfig(steps=steps, batch_size=options.batch, lr=options.lr, betas=betas, seed=seed)
    start = None
    if options.tune:  # the folder holds the finished model, which the other arms read
        start = fit(plain, source, options.n_q, config, out=Path("runs") / options.record / f"{name}-{seed}").model
        config = replace(config, steps=options.tune, lr=options.lr / 3, schedule=WarmupDecay(0.05, 0.9), seed=seed + 1)
    began, chosen, (against, weight) = time.process_time(), plain, ARMS[arm]
    if against:
        begin = 0.0 if options.tune else 1 - options.share
        more: dict[str, Any] = {"to": write, "units": source.units, "begin": begin, "seed": seed}
        term = in_network(network, str(read), training, against=against, weight=weight, **more)  # type: ignore[arg-type]
        chosen = replace(plain, terms=(*plain.terms, term))
    result = fit(chosen, source, options.n_q, config, start=start)
    seconds, scores = time.process_time() - began, network_scores(network, result.model, str(read), scored, write)
    whole = scores.effects[-1]
    return {
        "fvu": scores.fvu,
        "l0": scores.l0,
        "dead": scores.dead,
        "rows": source.rows,
        "clean": whole.ce["clean"],
        "spliced": whole.ce["spliced"],
        "recovered": whole.recovered("zero"),
        "seconds": seconds,
    }


def page() -> None:
    """Fill the tables of docs/network.md."""
    for name in (NAME, f"{NAME}/more", f"{NAME}/after"):
        record = stored(name)
        fill(PAGE, {name.replace("/", "-"): "Not run yet." if record is None else _table(record)})


def _table(record: dict[str, Any]) -> str:
    """One row per model and arm: the gap, and what share of the plain arm's is closed."""
    rows: list[tuple[str, ...]] = [
        ("model", "last steps", "FVU", "gap, nats", "closed", "loss recovered against zero", "seconds of one core")
    ]
    for key, run in record["runs"].items():
        name, arm, seed = key.split("/")
        plain, gap = record["runs"].get(f"{name}/plain/{seed}", run), run["spliced"] - run["clean"]
        closed = 1 - gap / (plain["spliced"] - plain["clean"])
        share = "" if plain is run else f"{closed:.0%}"
        numbers = f"{run['fvu']:.3f}", f"{gap:.3f}", share, f"{run['recovered']:.3f}", f"{run['seconds']:.0f}"
        rows.append((PAIRING_TITLES[name], TITLES[arm], *numbers))
    return table(rows)

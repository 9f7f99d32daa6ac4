"""Does training that ends in the network close the gap in cross-entropy? SAE and transcoder of stories15M, three arms.

    python -m studies stories                    # draws the stories and harvests their rows, if that is not done
    python -m studies finetuned                  # every arm that the record lacks

`plain` trains on the rows alone; the others add `in_network` over the last `--share` of the same steps, one batch of
training text a step. All arms see the same rows in the same order and are scored on the stories kept from training.
The gap is the cross-entropy with the reconstruction in place less that without.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from monosem import FitConfig, StoreSource, fit, method, network_scores, open_network, text_batches
from monosem.bench import environment
from monosem.data import TokenFilter
from monosem.networks import in_network
from monosem.report import fill, table
from studies.network import PAIRING_TITLES, PAIRINGS, drawn_texts, special
from studies.options import Options
from studies.stored import run_missing, stored

NAME, PAGE = "finetuned", Path("docs/network.md")
ARMS: Mapping[str, tuple[str, float]] = {
    "plain": ("", 0.0),
    "kl": ("kl", 1.0),
    "kl10": ("kl", 0.1),
    "ce10": ("ce", 0.1),
}
"""What is added, and its weight beside the squared error of equal value."""
STEPS = {"sae": 1500, "transcoder": 4500}
TITLES = {"plain": "rows alone", "kl": "KL, weight 1", "kl10": "KL, weight .1", "ce10": "cross-entropy, weight .1"}


def main(words: Sequence[str] = ()) -> None:
    """Train and score what the record lacks."""
    parser = Options(NAME, layer=3, n_q=4096, k=32, batch=1024, lr=3e-3, beta2=0.999, share=0.05, seeds=1, threads=1)
    parser.number("--stories", 1088, "how many the network draws")
    parser.number("--scored", 40, "stories kept from training")
    parser.path("--text", None, "stories that the network has drawn, .jsonl")
    parser.path("--store", "runs/stories/acts", "the harvested rows")
    parser.add_argument("--only", default=",".join(STEPS), help="of sae, transcoder")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    about = {"command": f"python -m studies {NAME}", "options": _facts(options), "env": environment()}
    run_missing(NAME, about, _runs(options))


def _facts(options: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _runs(options: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    network, tokenizer = open_network("stories15m")
    texts = drawn_texts(options.text, network, tokenizer, options.stories)
    keep = TokenFilter(special(tokenizer))
    training = list(text_batches(tokenizer, texts[: -options.scored], tokens=options.batch, keep=keep))
    scored = list(text_batches(tokenizer, texts[-options.scored :], tokens=2048, keep=keep))
    for seed in range(options.seeds):
        for name in options.only.split(","):
            for arm in ARMS:

                def run(name: str = name, arm: str = arm, seed: int = seed) -> dict[str, Any]:
                    return _run(options, network, training, scored, name, arm, seed)

                yield f"{name}/{arm}/{seed}", run


def _run(
    options: Any, network: Any, training: list[Any], scored: list[Any], name: str, arm: str, seed: int
) -> dict[str, Any]:
    """One training, scored on the network."""
    layer = f"model.layers.{options.layer}"
    text, read, write = (part and part.format(k=options.k, layer=layer) for part in PAIRINGS[name])
    source, began = StoreSource(options.store, read, write), time.process_time()
    chosen = method(str(text))
    against, weight = ARMS[arm]
    if against:
        more: dict[str, Any] = {"to": write, "units": source.units, "begin": 1 - options.share, "seed": seed}
        term = in_network(network, str(read), training, against=against, weight=weight, **more)  # type: ignore[arg-type]
        chosen = replace(chosen, terms=(*chosen.terms, term))
    betas = (0.9, options.beta2)
    config = FitConfig(steps=STEPS[name], batch_size=options.batch, lr=options.lr, betas=betas, seed=seed)
    result = fit(chosen, source, options.n_q, config)
    seconds, scores = time.process_time() - began, network_scores(network, result.model, str(read), scored, write)
    whole = scores.effects[-1]
    return {
        "fvu": scores.fvu,
        "l0": scores.l0,
        "clean": whole.ce["clean"],
        "spliced": whole.ce["spliced"],
        "recovered": whole.recovered("zero"),
        "seconds": seconds,
    }


def page() -> None:
    """Fill the table of docs/network.md."""
    record = stored(NAME)
    fill(PAGE, {"finetuned": "Not run yet." if record is None else _table(record)})


def _table(record: dict[str, Any]) -> str:
    """One row per model and arm: the gap, and what share of the plain arm's is closed."""
    rows: list[tuple[str, ...]] = [
        ("model", "last steps", "FVU", "gap, nats", "closed", "loss recovered against zero", "seconds of one core")
    ]
    for key, run in record["runs"].items():
        name, arm, seed = key.split("/")
        plain, gap = record["runs"][f"{name}/plain/{seed}"], run["spliced"] - run["clean"]
        closed = 1 - gap / (plain["spliced"] - plain["clean"])
        share = "" if arm == "plain" else f"{closed:.0%}"
        numbers = f"{run['fvu']:.3f}", f"{gap:.3f}", share, f"{run['recovered']:.3f}", f"{run['seconds']:.0f}"
        rows.append((PAIRING_TITLES[name], TITLES[arm], *numbers))
    return table(rows)

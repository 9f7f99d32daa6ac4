"""From a language model to scored dictionaries: harvest it, train an SAE and a transcoder, splice each back into it.

    python -m studies fetch stories15m                            # once; any transformers folder does for --network
    python examples/stories.py --rows 4000 --texts 64 --steps 30 --n-q 256     # a look, in half a minute

stories15M writes simple stories and knows no other text, so it writes its own. One forward pass of a layer stores the
rows of the residual stream and of the MLP's input and output. The last texts are kept from training: on them the scores
say how much of the rows is explained, and what the network loses when it reads the reconstruction. Called again, it
goes on where it stopped. `python -m studies stories` is the measured run of the documentation.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from monosem import FitConfig, StoreSource, fit, harvest, load_model, method, network_scores, open_network, text_batches
from monosem.base import write_atomic
from monosem.data import TokenFilter
from monosem.networks import sample_texts


def written_texts(path: Path, network: Any, tokenizer: Any, count: int) -> list[str]:
    """What the network writes from nothing, kept in a file."""
    if not path.exists():
        lines = (json.dumps({"text": text}) for text in sample_texts(network, tokenizer, count))
        write_atomic(path, "\n".join(lines).encode())
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def main() -> None:
    """Harvest, train, splice, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="stories15m", help="a name in the cache, or a transformers folder")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--text", type=Path, help="texts, .jsonl [default: the network writes them]")
    parser.add_argument("--texts", type=int, default=1088, help="how many it writes")
    parser.add_argument("--kept", type=int, default=40, help="texts kept from training")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--n-q", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("runs/stories"))
    options = parser.parse_args()

    network, tokenizer = open_network(options.network)
    texts = written_texts(options.text or options.out / "texts.jsonl", network, tokenizer, options.texts)
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))  # special tokens are no rows
    layer = f"model.layers.{options.layer}"
    batches = text_batches(tokenizer, texts[: -options.kept], keep=keep, together=256)
    acts = harvest(network, f"{layer}.mlp:in,out; {layer}:out", batches, options.out / "acts", rows=options.rows)
    print(f"{acts.rows:,} rows of {', '.join(acts.sites)}")

    scored = list(text_batches(tokenizer, texts[-options.kept :], tokens=2048, keep=keep))
    config = FitConfig(steps=options.steps, batch_size=min(1024, acts.rows), lr=3e-3, checkpoint_every=200)
    pairings = {"topk": (f"{layer}:out", None), "topk_transcoder": (f"{layer}.mlp:in", f"{layer}.mlp:out")}
    for name, (read, write) in pairings.items():
        folder, source = options.out / name, StoreSource(acts, read, write)
        fit(method(f"{name}(k={options.k})"), source, options.n_q, config, out=folder, progress=True)
        scores = network_scores(network, load_model(folder), read, scored, write)
        recovered = scores.effects[-1].recovered("zero")
        print(
            f"{name}: FVU {scores.fvu:.3f}, L0 {scores.l0:.1f}, dead {scores.dead:.1%}, loss recovered {recovered:.3f}"
        )


if __name__ == "__main__":
    main()

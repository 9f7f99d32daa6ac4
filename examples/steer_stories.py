"""Turn one latent of a language model up and down, and read what the network then writes.

    python examples/stories.py                                    # an SAE of the layer's output, in runs/stories/topk
    python examples/steer_stories.py runs/stories/topk            # a latent that promotes words
    python examples/steer_stories.py runs/stories/topk --latent 7

The logit effect of a latent says which words its decoder column promotes. Zeroed, the latent is silent; clamped, it
fires at a strength of its own. `python -m studies steering` draws the curves of the documentation.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from monosem import SDL, clamp, load_model, open_network, open_store, steer
from monosem.networks import LogitEffect, logit_effect


def firing(sae: SDL, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each latent fires, and the largest value that it takes."""
    with torch.no_grad():
        z = sae.encode(rows).to_dense()
    return (z > 0).double().mean(0), z.amax(0)


def choose(rate: torch.Tensor, highest: torch.Tensor, effect: LogitEffect, tokenizer: Any) -> int:
    """Among latents that fire for 0.1 % to 2 % of the tokens, the one that pushes a word hardest."""
    push = (highest * effect.top_values[:, 0]).where((rate >= 0.001) & (rate <= 0.02), 0.0)
    for latent in push.argsort(descending=True).tolist():
        words = [tokenizer.decode([token]).strip() for token in effect.top[latent, :3].tolist()]
        if all(word.isalpha() and len(word) > 2 for word in words):
            return int(latent)
    return int(push.argmax())


@torch.no_grad()
def story(network: Any, tokenizer: Any, prompt: str) -> str:
    """The likeliest story from a prompt."""
    ids = tokenizer(prompt, return_tensors="pt")
    mask = ids["attention_mask"]
    tokens = network.generate(ids["input_ids"], attention_mask=mask, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))


def main() -> None:
    """Choose a latent, and write with it as it is, zeroed and clamped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an SAE of the layer's output")
    parser.add_argument("--data", type=Path, default=Path("runs/stories/acts"), help="rows of that layer")
    parser.add_argument("--network", default="stories15m")
    parser.add_argument("--read", default="model.layers.3:out")
    parser.add_argument("--latent", type=int, help="[default: one that promotes words]")
    parser.add_argument("--prompt", default="Once upon a time, there was a")
    options = parser.parse_args()

    network, tokenizer = open_network(options.network)
    sae, store = load_model(options.model), open_store(options.data)
    rate, highest = firing(sae, store.table(options.read).take(torch.arange(min(20_000, store.rows))))
    effect = logit_effect(sae, network)
    latent = choose(rate, highest, effect, tokenizer) if options.latent is None else options.latent
    words = [tokenizer.decode([token]).strip() for token in effect.top[latent].tolist()]
    print(f"latent {latent}, at most {highest[latent]:.2f}, promotes {', '.join(words)}")
    print(f"\nas it is\n{story(network, tokenizer, options.prompt)}")
    for name, value in (("zeroed", 0.0), ("clamped to its highest", float(highest[latent]))):
        with steer(network, sae, options.read, clamp(latent, value)):
            print(f"\n{name}\n{story(network, tokenizer, options.prompt)}")


if __name__ == "__main__":
    main()

"""A latent of a language model that writes stories, turned up and down: what the network then expects, and writes.

Trains a small SAE on the residual stream of stories15M, takes a latent that fires rarely and promotes some words (or
--latent), and clamps it to several values: on stories that nothing was trained on, the probability of the words it
promotes and the cross-entropy; and one story as the network writes it, with the latent zeroed, and clamped.

    python -m studies fetch stories15m
    python -m studies steering                         # some minutes on one core, most of them writing stories
    python -m studies steering --text stories.jsonl --latent 7

Stories are the network's own, the only text that it knows; `monosem sample` writes them too.
"""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem import SDL, FitConfig, StoreSource, clamp, fit, harvest, load_model, open_network, steer, text_batches
from monosem.data import TokenFilter
from monosem.networks import LogitEffect, logit_effect
from monosem.report import plain_axes, write_figure
from studies.network import drawn_texts
from studies.options import Options

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""Values that the latent is clamped to, as shares of the largest that it takes by itself."""
_KEEP = TokenFilter((0, 1, 2), 1)


def _trained(options: argparse.Namespace, network: Any, tokenizer: Any, texts: list[str], site: str) -> tuple[SDL, Any]:
    """An SAE of the site, and its codes on the rows that it was trained on."""
    batches = text_batches(tokenizer, texts, tokens=4096, keep=_KEEP)
    source = StoreSource(harvest(network, site, batches, options.out / "store", rows=options.rows))
    config = FitConfig(steps=options.steps, batch_size=256, checkpoint_every=500)
    model = (
        load_model(options.model)
        if options.model
        else fit("topk(k=16)", source, options.n_q, config, out=options.out / "sae", progress=True).model
    )
    some = torch.arange(min(20_000, source.store.rows))
    with torch.no_grad():
        return model, model.encode(source.store.table(site).take(some))


def _choose(code: Any, effect: LogitEffect, tokenizer: Any) -> int:
    """The latent that pushes a word hardest at its strongest, among those that fire for 0.1 % to 2 % of the tokens."""
    rate = code.latent_sum((code.values > 0).double()) / code.batch
    high = torch.zeros(code.n_q).scatter_reduce(0, code.at.col, code.values, "amax")
    push = high * effect.top_values[:, 0]
    for latent in push.argsort(descending=True).tolist():
        words = [tokenizer.decode([token]).strip() for token in effect.top[latent, :3].tolist()]
        if 0.001 <= float(rate[latent]) <= 0.02 and all(word.isalpha() and len(word) > 2 for word in words):
            return int(latent)
    return int(push.argmax())


@torch.no_grad()
def _curves(
    network: Any, sae: SDL, site: str, latent: int, top: float, words: torch.Tensor, batches: list[Any]
) -> tuple[list[float], list[float]]:
    """For every strength: the probability of the words, and the cross-entropy, over all predictions."""
    mass, loss = [], []
    for strength in STRENGTHS:
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            with steer(network, sae, site, clamp(latent, strength * top)):
                log_p = network(**batch.inputs).logits[:, :-1].log_softmax(-1)
            pairs = batch.keep[:, :-1] & batch.keep[:, 1:]
            target = batch.token[:, 1:]
            ce = -log_p.gather(2, target[..., None])[..., 0]
            likely = log_p[..., words].exp().sum(-1)
            sums += torch.stack([pairs.sum(), likely[pairs].sum(), ce[pairs].sum()]).double()
        mass.append(float(sums[1] / sums[0]))
        loss.append(float(sums[2] / sums[0]))
        shown = f"words {mass[-1]:.4f}, cross-entropy {loss[-1]:.3f}"
        print(f"clamped at {strength:4.2f} of its highest: {shown}", flush=True)
    return mass, loss


@torch.no_grad()
def _written(network: Any, tokenizer: Any, sae: SDL, site: str, prompt: str, *edits: Any) -> str:
    """The likeliest story from a prompt."""
    ids = tokenizer(prompt, return_tensors="pt")
    given = {"attention_mask": ids["attention_mask"], "max_new_tokens": 60, "do_sample": False}
    with steer(network, sae, site, *edits):
        tokens = network.generate(ids["input_ids"], **given)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))


def _figure(title: str, mass: list[float], loss: list[float], texts: dict[str, str]) -> Figure:
    """Two curves over the strength, and the stories below."""
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.0, 1.15))
    for column, values, label in ((0, mass, "probability of its words"), (1, loss, "cross-entropy, nats")):
        axes = figure.add_subplot(grid[0, column])
        axes.plot([100 * s for s in STRENGTHS], values, marker="o", color="#1d4ed8")
        axes.set(xlabel="latent clamped to, % of its highest", ylabel=label, ylim=(0, 1.15 * max(values)))
        plain_axes(axes)
    shown = figure.add_subplot(grid[1, :])
    shown.axis("off")
    place = 1.0
    for name, text in texts.items():
        lines = textwrap.wrap(text.replace("\n", " "), 122)
        shown.text(0, place, name, weight="bold", fontsize=9, va="top", transform=shown.transAxes)
        shown.text(0, place - 0.075, "\n".join(lines), fontsize=8.5, va="top", transform=shown.transAxes)
        place -= 0.12 + 0.075 * len(lines)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def main(words: Sequence[str] = ()) -> None:
    """Train, choose, steer, draw."""
    parser = Options("steering", layer=3, n_q=1536, steps=1000)
    parser.number("--rows", 60_000, "tokens to train on")
    parser.path("--model", None, "an SAE of the layer's output, trained already")
    parser.number("--latent", None, "[default: one that pushes words]")
    parser.add_argument("--prompt", default="Once upon a time, there was a")
    parser.path("--text", None, "stories that the network wrote, .jsonl")
    parser.number("--stories", 384, "how many it writes, without --text")
    parser.path("--out", "runs/steer")
    parser.path("--figure", None, "[default: steer.svg in --out]")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    network, tokenizer = open_network("stories15m")
    site, texts = f"model.layers.{options.layer}:out", drawn_texts(options.text, network, tokenizer, options.stories)
    cut = len(texts) - max(1, len(texts) // 10)
    sae, code = _trained(options, network, tokenizer, texts[:cut], site)
    effect = logit_effect(sae, network)
    latent = _choose(code, effect, tokenizer) if options.latent is None else options.latent
    highest = float(code.to_dense()[:, latent].max())
    words = [tokenizer.decode([token]).strip() for token in effect.top[latent].tolist()]
    print(f"latent {latent}, at most {highest:.2f}, promotes {', '.join(words)}")
    kept = list(text_batches(tokenizer, texts[cut : cut + 32], keep=_KEEP))
    mass, loss = _curves(network, sae, site, latent, highest, effect.top[latent], kept)
    edits = {"as it is": (), "latent zeroed": (clamp(latent, 0.0),)}
    edits |= {"latent clamped to its highest": (clamp(latent, highest),)}
    stories = {name: _written(network, tokenizer, sae, site, options.prompt, *edit) for name, edit in edits.items()}
    for name, text in stories.items():
        print(f"\n{name}\n{text}")
    figure = _figure(f"latent {latent}: {', '.join(words[:6])}", mass, loss, stories)
    label = "What the network expects and writes with one latent clamped"
    write_figure(options.figure or options.out / "steer.svg", figure, label)

"""Dead latents on a real network: what AuxK, resampling and anchoring do about them (Tang et al. 2025, figure 7).

TopK sparse autoencoders on the residual stream of SmolLM2-135M (after layer 15, consumer complaints as text), five
ways, the same rows and seeds: no remedy, resampling of dead latents, AuxK, anchors at the mean rows of frequent tokens,
and encoder rows that start along their decoder columns. All others start with encoder rows of their own: with tied
ones hardly a latent dies at this size, which would leave nothing to remedy.

    monosem fetch smollm2 complaints
    python examples/real_resampling.py                              # a small run, some minutes on one core
    python examples/real_resampling.py --rows 100000 --n-q 4608 --seeds 3

Run again, it goes on where it stopped; --report only prints the table and draws the figure. A latent is dead when it
has not fired for --window tokens. Rows a hundred times longer than the others (the first token's of every text, and a
few) are left out: one of them would outweigh all others of a batch.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem import FitConfig, TensorSource, class_means, method
from monosem.anchoring.anchors import Anchors
from monosem.bench.real import RealRun, code_scores, run_real
from monosem.bench.records import read_records
from monosem.losses.resample import Resample
from monosem.methods import Method, with_resampling
from monosem.report.interval import interval
from monosem.representations.assets import cache_folder
from monosem.representations.assets_data import complaints
from monosem.representations.assets_models import smollm2
from monosem.representations.batches import TokenFilter
from monosem.representations.harvest import harvest
from monosem.representations.store import Store, open_store

STUDY = "real-resampling"
ARMS = ("no remedy", "resampling", "AuxK", "anchoring", "tied start")
SITE = "model.layers.14:out"
LENGTH = 256


def batches(tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Texts cut at LENGTH tokens, sixteen at a time, of like length."""
    texts = complaints().texts
    for start in range(0, len(texts), 256):
        part = [tokenizer(text)["input_ids"][:LENGTH] for text in texts[start : start + 256]]
        part = sorted((tokens for tokens in part if len(tokens) >= 16), key=len)
        for first in range(0, len(part), 16):
            group = part[first : first + 16]
            ids = torch.zeros(len(group), len(group[-1]), dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, tokens in enumerate(group):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
            yield {"input_ids": ids, "attention_mask": mask}


def activations(rows: int) -> Store:
    """Rows of the residual stream, harvested once (the network in bfloat16, rows kept in float16)."""
    folder = cache_folder() / "stores" / f"smollm2-complaints-l15-{rows}"
    if (folder / "manifest.json").exists():
        return open_store(folder)
    network, tokenizer = smollm2()
    network = network.to(torch.bfloat16)
    told = {"next": 0}

    def progress(done: int, _: int) -> None:
        if done >= told["next"]:
            print(f"harvested {done:,} of {rows:,} rows", flush=True)
            told["next"] += 20_000

    keep = TokenFilter(first=1)
    return harvest(network, SITE, batches(tokenizer), folder, keep=keep, dtype="float16", rows=rows, progress=progress)


def prepared(store: Store) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows in float16, their tokens): centred, mean norm sqrt(n_p); without the few that are ten times too long."""
    rows = torch.cat([part for _, part in store.table(SITE).chunks()])
    norms = rows.norm(dim=1)
    keep = norms < 10 * norms.median()
    print(f"{int((~keep).sum())} of {store.rows:,} rows are longer than ten times the median: left out", flush=True)
    rows = rows[keep] - rows[keep].mean(0)
    rows *= rows.shape[1] ** 0.5 / rows.norm(dim=1).mean()
    tokens = torch.from_numpy(np.asarray(store.tokens[0 : store.rows]).astype(np.int64))
    return rows.half(), tokens[keep]


def token_anchors(rows: torch.Tensor, tokens: torch.Tensor, k: int) -> Anchors:
    """Centred mean rows of the k most frequent tokens."""
    known, count = torch.unique(tokens, return_counts=True)
    frequent = known[count.argsort(descending=True)[:k]]
    inside = torch.isin(tokens, frequent)
    return class_means(rows[inside].float(), tokens[inside])


def arm_method(arm: str, k: int, steps: int) -> Method:
    """The method of an arm."""
    built = method(f"topk(k={k})" if arm == "AuxK" else f"topk(k={k}, aux=0.0)")
    if arm != "tied start":
        built = replace(built, init=replace(built.init, encoder="random"))
    return with_resampling(built, Resample(every=max(1, steps // 6))) if arm == "resampling" else built


def study(options: argparse.Namespace) -> None:
    """Train every arm with every seed, seed by seed."""
    store = activations(options.rows)
    rows, tokens = prepared(store)
    held = rows.shape[0] // 10
    train, fresh = rows[:-held], rows[-held:][:8192].float()
    source = TensorSource(train, digest=str(store.manifest["shards"][0]["sha256"]))
    anchors = token_anchors(train, tokens[:-held], options.anchors)
    spec = {"model": "SmolLM2-135M-Instruct", "site": SITE, "text": "complaints", "held_out_rows": held}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in ARMS:
            config = FitConfig(
                steps=options.steps,
                batch_size=options.batch,
                lr=options.lr,
                seed=seed,
                dead_window=options.window,
                log_every=max(1, options.steps // 50),
                checkpoint_every=max(1, options.steps // 4),
                threads=1,
            )
            run = RealRun(
                STUDY,
                "smollm2-l15",
                spec,
                source,
                arm_method(arm, options.k, options.steps),
                options.n_q,
                config,
                anchors if arm == "anchoring" else None,
                arm.replace(" ", "_"),
            )
            record = run_real(
                run,
                options.out,
                lambda result: {"value": code_scores(result.model, fresh, fresh)},
                Path("runs") / STUDY,
            )
            scores = {name: row["value"] for name, row in record["metrics"].items()}
            dead = record["training"]["dead"][-1]
            print(f"{arm:<12} seed {seed}  fresh rows: FVU {scores['fvu']:.4f}  dead at the end {dead:.1%}", flush=True)


def arm_records(records: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """The records of an arm, by seed."""
    own = [r for r in records if r["method"]["name"].partition("-")[2] == arm.replace(" ", "_")]
    return sorted(own, key=lambda record: record["seed"]["train"])


def report(records: list[dict[str, Any]]) -> str:
    """Markdown: per arm what died and what it cost, at the end of training and on fresh rows."""
    lines = [
        "| arm | dead, highest | dead, at the end | never fire on fresh rows | FVU, fresh rows | against no remedy |",
        "|---|---|---|---|---|---|",
    ]
    plain = arm_records(records, ARMS[0])
    for arm in ARMS:
        own = arm_records(records, arm)
        cells = [
            interval([max(r["training"]["dead"]) for r in own]),
            interval([r["training"]["dead"][-1] for r in own]),
            interval([r["metrics"]["dead"]["value"] for r in own]),
            interval([r["metrics"]["fvu"]["value"] for r in own]),
        ]
        pairs = zip(own, plain, strict=False)
        gain = interval([a["metrics"]["fvu"]["value"] - p["metrics"]["fvu"]["value"] for a, p in pairs])
        against = gain.text(sign=True) if arm != ARMS[0] else ""
        lines.append(f"| {arm} | {' | '.join(cell.text() for cell in cells)} | {against} |")
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Two panels over training: the share of dead latents, and the error on the rows of the step."""
    from matplotlib.figure import Figure

    from monosem.report.style import plain_axes, styles, to_svg

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for arm, style in zip(ARMS, styles(len(ARMS)), strict=True):
        own = [record["training"] for record in arm_records(records, arm)]
        for axes, name in ((left, "dead"), (right, "fvu")):
            values = np.array([training[name] for training in own])
            axes.plot(own[0]["step"], values.mean(0), color=style.colour, label=arm)
            axes.fill_between(own[0]["step"], values.min(0), values.max(0), color=style.colour, alpha=0.2, linewidth=0)
    left.set(xlabel="step", ylabel="share of latents that are dead", ylim=(0, None))
    right.set(xlabel="step", ylabel="FVU of the step's rows", yscale="log")
    right.set_yticks([0.3, 0.4, 0.6, 1.0, 2.0], ["0.3", "0.4", "0.6", "1", "2"])
    right.minorticks_off()
    for axes in (left, right):
        plain_axes(axes)
    left.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_svg(figure, "Dead latents and error over training, with no remedy and with four"))


def main() -> None:
    """Harvest, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--n-q", type=int, default=1152)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--window", type=int, default=10_000, help="tokens without firing that make a latent dead")
    parser.add_argument("--anchors", type=int, default=64, help="frequent tokens that anchor latents")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-resampling"))
    parser.add_argument("--figure", type=Path, help="default: figure.svg in --out")
    parser.add_argument("--report", action="store_true", help="only the table and the figure of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        study(options)
    records = [record for record in read_records(options.out) if record["study"] == STUDY]
    print(f"\n{report(records)}")
    draw(records, options.figure or options.out / "figure.svg")


if __name__ == "__main__":
    main()

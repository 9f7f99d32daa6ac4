"""The search that froze lrb/mini-hard: where plain training neither fails nor saturates, method by method.

python -m tools.search_mini_hard            writes records/search-mini-hard.json (a run already in it is kept)

Worlds differ in superposition (n), true L0, the cap on interference M, and the number of rows (null: endless).
One thread, seed 100, 1500 steps of 256 rows at lr 0.01, noise-free; scored: every feature, decoder columns.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from monosem.base.files import write_json
from monosem.bench.metrics import score
from monosem.bench.run import pairing_of
from monosem.bench.tasks import TaskSource, task
from monosem.bench.world import Independent, WorldSpec
from monosem.train.config import FitConfig
from monosem.train.loop import fit

OUT = Path("records/search-mini-hard.json")
SEED = 100
WORLDS = (  # n, L0, M, rows
    (1000, 20, 0.15, None),
    (500, 15, 0.13, None),
    (250, 5, 0.12, None),
    (400, 10, 0.13, 3000),
    (300, 6, 0.12, 1400),
)


def methods(l0: int) -> tuple[str, ...]:
    """One specification per method, its sparsity set from the world's true L0."""
    half = max(2, l0 // 2)
    return (
        f"topk(k={l0})",
        f"batch_topk(k={half})",
        f"matryoshka(k={half})",
        "relu_l1(l1=1.0)",
        "jumprelu(l0=0.5, theta=0.5, bandwidth=1.0)",
        f"topk_crosscoder(k={l0})",
    )


def main() -> None:
    """Run what is missing, one run after the other."""
    torch.set_num_threads(1)
    done = json.loads(OUT.read_text()) if OUT.exists() else {}
    config = FitConfig(steps=1500, batch_size=256, lr=1e-2, seed=SEED)
    for n, l0, cap, rows in WORLDS:
        world = WorldSpec(n, (96, 96), cap, Independent(1 - l0 / n), rows=rows, seed=SEED)
        for spec in methods(l0):
            name = f"n={n} L0={l0} M={cap} rows={rows} {spec}"
            if name in done:
                continue
            source = TaskSource(replace(task("lrb/mini", pairing_of(spec), SEED), world=world))
            model = fit(spec, source, 2000, config).model
            W_E, W_D = model.W_E.detach(), model.W_D.detach()
            p_widths, r_widths = source.p_widths, source.r_widths
            scores = score(W_E, W_D, source.W_p, source.W_r, p_widths=p_widths, r_widths=r_widths)
            found = scores["decoder_cosine"]
            done[name] = {"M_GT@0.95": found["M_GT"]["0.95"], "M_IP": found["M_IP"]}
            write_json(OUT, done)
            print(name, done[name], flush=True)


if __name__ == "__main__":
    main()

"""Figure 7's question for every kind of threshold: does a latent that resampling draws anew come back, and stay?

`python -m studies revival` trains ReLU, JumpReLU and Gated on lrb/nano, four times as wide as the task asks for and
under penalties that kill, with and without resampling (a run already in the record `revival` is kept); docs/real/
resampling.md shows it. One thread, seeds 0, 1 and 2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monosem.bench.records import environment
from monosem.bench.task_scores import evaluate_model
from monosem.bench.tasks import TaskSource, task
from monosem.core.model import SDL
from monosem.losses.resample import Resample
from monosem.methods import method, with_resampling
from monosem.report.interval import interval
from monosem.report.markdown import table
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from monosem.train.state import Run
from studies.stored import run_missing, stored

RECORD, TASK, SEEDS = "revival", "lrb/nano", (0, 1, 2)
METHODS = ("relu_l1(l1=2)", "jumprelu(l0=3)", "gated(l1=2)")
EVERY, WITHIN, N_Q, WINDOW = 100, 90, 192, 5120
CONFIG = FitConfig(900, 512, 1e-2, log_every=10, dead_window=WINDOW, threads=1)


@dataclass(frozen=True)
class _Watched(Resample):
    """Resampling that remembers whom it drew anew."""

    drawn: list[Tensor] = field(default_factory=list)

    def apply(self, model: SDL, x_p: Tensor, x_r: Tensor, dead: Tensor, generator: torch.Generator) -> None:
        """Draw, and keep the mask."""
        self.drawn.append(dead.clone())
        super().apply(model, x_p, x_r, dead, generator)


def main(words: Sequence[str] = ()) -> None:
    """Run what is missing, one run after the other."""
    torch.set_num_threads(1)
    run_missing(RECORD, {"task": TASK, "command": "python -m studies revival", "env": environment()}, _runs())


def _runs() -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
    """Every seed, method and arm."""
    for seed in SEEDS:
        for name in METHODS:
            for revive in (False, True):
                key = f"{name} {'resampling' if revive else 'none'} seed={seed}"
                yield key, lambda name=name, seed=seed, revive=revive: _run(name, seed, revive)  # type: ignore[misc]


def _run(name: str, seed: int, revive: bool) -> dict[str, float]:
    """One training, and what became of the latents that died."""
    source, plan = TaskSource(task(TASK, "sae", seed)), _Watched(every=EVERY, begin=0.0, end=0.8, rows=2048)
    fired: list[Tensor] = []

    def look(run: Run, entry: dict[str, float]) -> None:
        if plan.drawn and run.step % EVERY == WITHIN and len(fired) < len(plan.drawn):
            fired.append(run.tracker.since[plan.drawn[-1]] < WITHIN * CONFIG.batch_size)

    made = with_resampling(method(name), plan) if revive else method(name)
    config = FitConfig(**{**vars(CONFIG), "seed": seed})
    result = fit(made, source, N_Q, config, callbacks=[look])
    scores = evaluate_model(result.model, source, source.task.scored(0), 2048)
    every = torch.cat(fired) if fired else torch.zeros(0)
    drawn = {"drawn": every.numel()} | ({"fired": float(every.float().mean())} if every.numel() else {})
    return drawn | {
        "dead": result.log[-1]["dead"],
        "fvu": scores["fvu"],
        "l0": scores["l0"],
        "M_GT": scores["decoder_cosine"]["M_GT"]["0.95"],
    }


def generated() -> str:
    """The table of the page."""
    runs = (stored(RECORD) or {"runs": {}})["runs"]
    rows: list[list[object]] = [
        ["method", "remedy", "drawn anew", "fire within 90 steps", "dead at the end", "FVU", "L0", "M_GT(.95)"]
    ]
    for name in METHODS:
        for arm in ("none", "resampling"):
            of = [run for key, run in runs.items() if key.startswith(f"{name} {arm} ")]
            if of:
                fired = [run["fired"] for run in of if "fired" in run]
                numbers = [interval(run[column] for run in of) for column in ("dead", "fvu", "l0", "M_GT")]
                share = f"{sum(fired) / len(fired):.3f}" if fired else "-"
                drawn = f"{sum(run['drawn'] for run in of) / len(of):.0f}" if arm == "resampling" else "-"
                rows.append([f"`{name}`", arm, drawn, share, *("-" if n is None else n.text() for n in numbers)])
    return table(rows)

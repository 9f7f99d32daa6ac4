"""Is the number of active latents that a method is asked for reached? Every penalty, worlds and real rows, no tuning.

`python -m studies target_l0 [DATA ...]` runs what the record lacks; `python -m studies pages target_l0` prints it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from monosem import SDL, FitConfig, TensorSource, task
from monosem.base import ArgumentError, check
from monosem.bench import TaskSource, environment
from monosem.data import Source
from monosem.train import fit
from studies.page import provenance, write_generated
from studies.stored import run_missing, stored

TARGETS, STEPS = (8, 16, 32), 300
SEEDS = {"lrb/mini": (0, 1), "pictures": (0, 1, 2), "digits": (0, 1, 2)}
DRAWN = ("relu_l1(l1=to_l0(8))", "jumprelu(l0=to_l0(8))")
TEXTS = (
    "relu_l1(l1=to_l0({}))",
    "relu + tanh(to_l0({}))",
    "p_anneal(lp=to_l0({}))",
    "gated(l1=to_l0({}))",
    "jumprelu(l0=to_l0({}))",
    "jumprelu + l0(1.0, target={})",
    "gemma_scope_2(l0={})",
    "anthropic_jan25(sparsity=to_l0({}))",
    "binary(l0=to_l0({}))",
    "lista(l1=to_l0({}))",
)


@dataclass(frozen=True)
class Data:
    """Rows of training, rows that it never sees, and how it trains: 300 steps at a usual rate."""

    source: Source
    others: Tensor
    n_q: int
    config: FitConfig


@cache
def _digits() -> Data:
    """scikit-learn's handwritten digits, 8 x 8."""
    from sklearn.datasets import load_digits

    x = torch.from_numpy(load_digits().data).float() / 16
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return _split(x, 1437)


@cache
def _pictures() -> Data:
    """8 x 8 patches of scikit-learn's two photographs, grey, at random places."""
    from sklearn.datasets import load_sample_image

    generator, patches = torch.Generator().manual_seed(0), []
    for name in ("china.jpg", "flower.jpg"):
        grey = torch.from_numpy(load_sample_image(name).copy()).float().mean(2)
        places = ((grey - grey.mean()) / grey.std()).unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)
        patches.append(places[torch.randperm(len(places), generator=generator)[:40_000]])
    x = torch.cat(patches)
    return _split(x[torch.randperm(len(x), generator=generator)], 60_000)


def _split(x: Tensor, rows: int) -> Data:
    config = FitConfig(steps=STEPS, batch_size=128, lr=3e-3, log_every=STEPS, threads=1)
    return Data(TensorSource(x[:rows]), x[rows:], 256, config)


@cache
def _mini() -> Data:
    """The bench's world lrb/mini, seed 100."""
    source = TaskSource(task("lrb/mini", seed=100))
    others, _ = source.pair(source.held_out(50_000))
    config = FitConfig(steps=STEPS, batch_size=256, lr=1e-2, log_every=STEPS, threads=1)
    return Data(source, others, source.task.n_q, config)


DATA = {"lrb/mini": _mini, "pictures": _pictures, "digits": _digits}
_WORDS = {
    "lrb/mini": "the bench's world, seed 100: 100,000 rows of 96 numbers, 2,000 latents. LISTA ran at 8 alone, where "
    "all of its latents die at this learning rate ([field.md](field.md)): it counts among the runs, and has no row",
    "pictures": "60,000 patches of 8 x 8 from two photographs of scikit-learn, 256 latents",
    "digits": "1,437 handwritten digits of 8 x 8, 256 latents",
}


def run(data: Data, text: str, target: int, seed: int) -> dict[str, float]:
    """L0 on the rows of the training and on other rows; FVU on the latter."""
    made = fit(text.format(target), data.source, data.n_q, FitConfig(**vars(data.config) | {"seed": seed})).model
    own, other = _passed(made, data.source.take(torch.arange(data.source.rows or 0))[0]), _passed(made, data.others)
    return {"l0": own["l0"], "l0_others": other["l0"], "error": other["error"], "fvu": other["fvu"]}


@torch.no_grad()
def _passed(model: SDL, x: Tensor) -> dict[str, float]:
    error, counts = 0.0, []
    for part in torch.split(x, 512):
        out = model(part)
        error += float((part - out.x_r_hat).double().pow(2).sum())
        counts.append((out.code.to_dense() != 0).sum(1))
    active, spread = torch.cat(counts).double(), float((x - x.mean(0)).double().pow(2).sum())
    return {"l0": float(active.mean()), "error": float(active.std()) / len(x) ** 0.5, "fvu": error / spread}


class _Watched(TaskSource):
    """A task's rows, and which of them were taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drawn = torch.zeros(self.rows or 0, dtype=torch.bool)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.drawn[index] = True
        return super().take(index)


def run_drawn(text: str, seed: int) -> dict[str, dict[str, float]]:
    """L0 by row of lrb/mini: rows of the training that the steps drew, those that they did not, and 400,000 others.

    300 steps of 256 rows draw no row twice.
    """
    source, after = _Watched(task("lrb/mini", seed=100)), []
    config = FitConfig(**vars(_mini().config) | {"seed": seed})
    model = fit(text, source, source.task.n_q, config, callbacks=[lambda *_: after.append(source.drawn.clone())]).model
    every, drawn = torch.arange(source.rows or 0), after[-1]
    parts = {name: _passed(model, source.take(every[mask])[0]) for name, mask in (("drawn", drawn), ("left", ~drawn))}
    fresh = [
        _passed(model, source.pair(source.held_out(50_000, start=start))[0]) for start in range(50_000, 450_000, 50_000)
    ]
    mean = {name: sum(part[name] for part in fresh) / len(fresh) for name in ("l0", "error", "fvu")}
    return parts | {"others": mean | {"error": mean["error"] / len(fresh) ** 0.5}}


def _name(data: str) -> str:
    return "target_l0/" + data.replace("/", "-")


def main(names: Sequence[str] = ()) -> None:
    """Run what the records lack."""
    unknown = sorted(set(names) - set(DATA))
    check(not unknown, f"no data {', '.join(unknown)}; known: {', '.join(DATA)}", ArgumentError)
    for data in names or DATA:
        rows = DATA[data]()
        cases = [(text, target, seed) for text in TEXTS for target in TARGETS for seed in SEEDS[data]]
        runs = [(" ".join(map(str, case)), partial(run, rows, *case)) for case in cases]
        run_missing(_name(data), {"env": environment()}, runs)
    if not names or "lrb/mini" in names:
        again = [(f"{text} {seed}", partial(run_drawn, text, seed)) for text in DRAWN for seed in SEEDS["lrb/mini"]]
        run_missing(_name("lrb/mini") + "-drawn", {"env": environment()}, again)


_INTRODUCTION = f"""\
How many latents of a row are active when a text asks for 8, 16 or 32 ([methods.md](methods.md)), over what is
asked; the seed of three (of two on lrb/mini) that is farthest from 1. No argument is tuned: `to_l0` has its
defaults, every run has {STEPS} steps. First on the rows of the training, then on rows that it never saw.
Thresholds fit the rows that they were counted on, the more so the fewer these are; and a mean over rows of
which a few have hundreds of active latents is known to a per cent or two only, which is said beside it."""
_WHY = """\
Why other rows have more: L0 on rows of the training that the steps drew, once each, on those that no step drew,
and on 400,000 others, with the standard error of each mean; all rows of the training have 8.00 together. Rows
that were drawn have fewer, and the 100,000 rows are a sample with a mean of its own. Thresholds counted on the
rows that no step drew would leave the others above 8 by the ratio of the last two columns, and the rows of the
training below it: no better bargain, so that all of them are counted."""


def page() -> None:
    """docs/target_l0.md."""
    records = {data: record for data in DATA if (record := stored(_name(data))) is not None}
    lines = [
        "# A number of active latents, asked for and reached",
        "",
        _INTRODUCTION,
        "",
        *(f"- **{data}**: {_WORDS[data]}." for data in records),
        "",
        provenance(records.values()) if records else "Not run.",
    ]
    for data, record in records.items():
        lines += ["", *_table(data, record["runs"])]
        if (drawn := stored(_name(data) + "-drawn")) is not None:
            lines += ["", *_drawn_table(drawn["runs"])]
    write_generated("docs/target_l0.md", "target_l0", "\n".join(lines) + "\n")


_Runs = dict[str, dict[str, float]]


def _table(data: str, runs: _Runs) -> Iterator[str]:
    yield _summary(data, "rows of the training", runs, "l0")
    yield ""
    yield _summary(data, "other rows", runs, "l0_others")
    yield ""
    yield f"| method | {' | '.join(f'asked {target}' for target in TARGETS)} | FVU |"
    yield "| --- |" + " ---: |" * (len(TARGETS) + 1)
    for text in TEXTS:
        if f"{text} {TARGETS[-1]} {SEEDS[data][-1]}" in runs:
            yield f"| `{text.format('L0')}` | {' | '.join(_cells(runs, text, SEEDS[data]))} |"


def _cells(runs: _Runs, text: str, seeds: Sequence[int]) -> Iterator[str]:
    """The ratios of a method that are farthest from 1, by target, and its FVU on other rows with the first seed."""
    for target in TARGETS:
        both = [_ratios(runs, text, target, seeds, what) for what in ("l0", "l0_others")]
        yield " / ".join(f"{max(ratios, key=lambda ratio: abs(ratio - 1)):.3f}" for ratios in both)
    yield ", ".join(f"{runs[f'{text} {target} {seeds[0]}']['fvu']:.2f}" for target in TARGETS)


def _ratios(runs: _Runs, text: str, target: int, seeds: Sequence[int], what: str) -> list[float]:
    return [runs[f"{text} {target} {seed}"][what] / target for seed in seeds]


def _drawn_table(runs: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    yield _WHY
    yield ""
    yield "| method | seed | drawn | not drawn | others |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, parts in runs.items():
        text, seed = name.rsplit(" ", 1)
        cells = [f"{part['l0']:.2f} +- {part['error']:.2f}" for part in parts.values()]
        yield f"| `{text}` | {seed} | {' | '.join(cells)} |"


def _summary(data: str, where: str, runs: _Runs, what: str) -> str:
    ratios = [run[what] / int(name.rsplit(" ", 2)[1]) for name, run in runs.items()]
    near = sum(abs(ratio - 1) <= 0.02 for ratio in ratios)
    errors = [run["error"] / int(name.rsplit(" ", 2)[1]) for name, run in runs.items()]
    known = f"; the standard error of such a mean is {min(errors):.3f} to {max(errors):.3f}" * (what == "l0_others")
    span = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"**{data}**, {where}: {near} of {len(ratios)} runs within 2 %; {span}{known}."

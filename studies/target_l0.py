"""Is the number of active latents that a method is asked for reached? Every penalty, worlds and real rows, no tuning.

`python -m studies target_l0 [DATA ...]` runs what the record lacks; `python -m studies pages target_l0` prints it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from monosem import SDL, FitConfig, task
from monosem.base import ArgumentError, check
from monosem.bench import TaskSource, environment
from monosem.data import Source, open_rows
from monosem.train import fit
from studies.page import provenance, write_generated
from studies.stored import run_missing, stored

TARGETS, STEPS, OTHERS = (8, 16, 32), 300, 400_000
SEEDS = {"lrb/mini": (0, 1), "pictures": (0, 1, 2), "digits": (0, 1, 2)}
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
    """The first rows through the front door, which sets a tenth of them aside as `monosem train` does."""
    config = FitConfig(steps=STEPS, batch_size=128, lr=3e-3, log_every=STEPS, threads=1)
    source = open_rows(x[:rows])
    source.set_aside()
    return Data(source, x[rows:], 256, config)


@cache
def _mini() -> Data:
    """The bench's world lrb/mini, seed 100."""
    source = TaskSource(task("lrb/mini", seed=100))
    others, _ = source.pair(source.held_out(OTHERS))
    config = FitConfig(steps=STEPS, batch_size=256, lr=1e-2, log_every=STEPS, threads=1)
    return Data(source, others, source.task.n_q, config)


DATA = {"lrb/mini": _mini, "pictures": _pictures, "digits": _digits}
_WORDS = {
    "lrb/mini": "the bench's world, seed 100: 100,000 rows of 96 numbers, 2,000 latents; 262,144 fresh rows "
    "counted. LISTA has no run of this length here",
    "pictures": "54,000 patches of 8 x 8 from two photographs of scikit-learn, 256 latents; 6,000 more counted",
    "digits": "1,294 handwritten digits of 8 x 8, 256 latents; 143 more counted, whose mean is known to few per cent",
}


def run(data: Data, text: str, target: int, seed: int) -> dict[str, float]:
    """L0 on the rows of the training and on other rows, what the latter is known to, and FVU on them."""
    result = fit(text.format(target), data.source, data.n_q, FitConfig(**vars(data.config) | {"seed": seed}))
    own = _passed(result.model, data.source.take(torch.arange(data.source.rows or 0))[0])
    other, counted = _passed(result.model, data.others), result.about["settled"]["rows"]
    error = other["spread"] * (1 / counted + 1 / len(data.others)) ** 0.5
    return {"l0": own["l0"], "l0_others": other["l0"], "error": error, "counted": counted, "fvu": other["fvu"]}


@torch.no_grad()
def _passed(model: SDL, x: Tensor) -> dict[str, float]:
    error, counts = 0.0, []
    for part in torch.split(x, 512):
        out = model(part)
        error += float((part - out.x_r_hat).double().pow(2).sum())
        counts.append((out.code.to_dense() != 0).sum(1))
    active, spread = torch.cat(counts).double(), float((x - x.mean(0)).double().pow(2).sum())
    return {"l0": float(active.mean()), "spread": float(active.std()), "fvu": error / spread}


def _name(data: str) -> str:
    return "target_l0/" + data.replace("/", "-")


def main(names: Sequence[str] = ()) -> None:
    """Run what the records lack."""
    unknown = sorted(set(names) - set(DATA))
    check(not unknown, f"no data {', '.join(unknown)}; known: {', '.join(DATA)}", ArgumentError)
    for data in names or DATA:
        rows = DATA[data]()
        cases = [(text, target, seed) for seed in SEEDS[data] for text in TEXTS for target in TARGETS]
        runs = [(" ".join(map(str, case)), partial(run, rows, *case)) for case in cases]
        run_missing(_name(data), {"env": environment()}, runs)


_INTRODUCTION = f"""\
How many latents of a row are active when a text asks for 8, 16 or 32 ([methods.md](methods.md)), over what is
asked, on rows that training never saw, for one seed; the farthest from 1 where there are several. No argument is
tuned: `to_l0` has its defaults, every run has {STEPS} steps. A run fits its rows: on others more latents are
active. So the last shift of the thresholds counts rows that training never saw, none of which is scored here:
fresh ones of a task's law, or the tenth of a file that is set aside. A mean over rows of which a few have
hundreds of active latents is known to a per cent or two only, and less on few rows; its standard error, with
that of the count, is said beside it. Behind the stroke: the rows of the training."""


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
    write_generated("docs/target_l0.md", "target_l0", "\n".join(lines) + "\n")


_Runs = dict[str, dict[str, float]]


def _table(data: str, runs: _Runs) -> Iterator[str]:
    yield _summary(data, runs)
    yield ""
    yield f"| method | {' | '.join(f'asked {target}' for target in TARGETS)} | FVU |"
    yield "| --- |" + " ---: |" * (len(TARGETS) + 1)
    for text in TEXTS:
        seeds = [seed for seed in SEEDS[data] if all(f"{text} {target} {seed}" in runs for target in TARGETS)]
        if seeds:
            yield f"| `{text.format('L0')}` | {' | '.join(_cells(runs, text, seeds))} |"


def _cells(runs: _Runs, text: str, seeds: Sequence[int]) -> Iterator[str]:
    """The ratios of a method that are farthest from 1, by target, and its FVU on other rows with the first seed."""
    for target in TARGETS:
        both = [_ratios(runs, text, target, seeds, what) for what in ("l0_others", "l0")]
        yield " / ".join(f"{max(ratios, key=lambda ratio: abs(ratio - 1)):.3f}" for ratios in both)
    yield ", ".join(f"{runs[f'{text} {target} {seeds[0]}']['fvu']:.2f}" for target in TARGETS)


def _ratios(runs: _Runs, text: str, target: int, seeds: Sequence[int], what: str) -> list[float]:
    return [runs[f"{text} {target} {seed}"][what] / target for seed in seeds]


def _summary(data: str, runs: _Runs) -> str:
    off = {name: run["l0_others"] / int(name.rsplit(" ", 2)[1]) - 1 for name, run in runs.items()}
    known = {name: run["error"] / int(name.rsplit(" ", 2)[1]) for name, run in runs.items()}
    near = sum(abs(part) <= 0.02 for part in off.values())
    about = sum(abs(part) <= max(0.02, 2 * known[name]) for name, part in off.items())
    span = f"{min(off.values()):+.1%} to {max(off.values()):+.1%}"
    errors = f"{min(known.values()):.1%} to {max(known.values()):.1%}"
    return (
        f"**{data}**: {near} of {len(off)} runs within 2 % on rows that training never saw, {about} within 2 % or two "
        f"standard errors (these are {errors}); {span}."
    )

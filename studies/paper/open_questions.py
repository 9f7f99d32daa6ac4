"""What the paper leaves open: how many samples recovery takes, and how it moves beside the loss during training."""

from collections.abc import Iterator
from dataclasses import replace

from monosem.bench import PAPER_ROWS
from studies.engine.bench import BenchRun, arms
from studies.engine.figures import convergence_figure, curve_figure
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study
from studies.engine.words import statements


def _sizes(scale: Scale) -> Iterator[Entry]:
    """Recovery against the number of rows that training sees over and over."""
    for times in (4, 10, 30, 100, 300):
        for name in ("relu_l1", "topk", "batch_topk"):
            task = scale.vary(rows=times * scale.base.world.n)
            yield from arms(scale, f"{times} n rows, {name}", name, task, ("ours", "ours+discovered"))


def _about_samples() -> str:
    return (
        "The paper leaves open how many samples recovery takes (its appendix F). Here training sees the same rows over "
        "and over, from 4 to 300 per true direction; discovery sees exactly those rows too."
    )


SAMPLES = Study(
    "samples",
    "Recovery against the number of samples",
    _sizes,
    about=_about_samples,
    says=statements,
    figure=curve_figure("rows over n", log=True),
)


def _watched(scale: Scale) -> Iterator[Entry]:
    """Recovery and loss against steps, scored twenty times on the way."""
    every = max(1, scale.config.steps // 20)
    for name in PAPER_ROWS:
        for entry in arms(scale, name, name, scale.base, ("ours", "ours+discovered")):
            assert isinstance(entry.run, BenchRun)
            yield replace(entry, run=replace(entry.run, watch=True, config=replace(entry.run.config, log_every=every)))


def _about_steps() -> str:
    return (
        "Recovery and loss need not move together: M_GT(.95) of the scored features above, fraction of variance "
        "unexplained below, scored twenty times during training."
    )


CONVERGENCE = Study(
    "convergence",
    "Recovery and loss against steps",
    _watched,
    about=_about_steps,
    says=statements,
    figure=convergence_figure,
)

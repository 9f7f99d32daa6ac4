"""How recovery and the loss move during training, which the paper leaves open."""

from collections.abc import Iterator
from dataclasses import replace

from monosem.bench import PAPER_ROWS
from studies.engine.bench import BenchRun, arms
from studies.engine.figures import convergence_figure
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study
from studies.engine.words import statements


def _runs(scale: Scale) -> Iterator[Entry]:
    """Recovery and loss against steps, scored twenty times on the way."""
    every = max(1, scale.config.steps // 20)
    for name in PAPER_ROWS:
        for entry in arms(scale, name, name, scale.base, ("ours", "ours+discovered")):
            assert isinstance(entry.run, BenchRun)
            yield replace(entry, run=replace(entry.run, watch=True, config=replace(entry.run.config, log_every=every)))


def _about() -> str:
    return (
        "Recovery and loss need not move together: M_GT(.95) of the scored features above, fraction of variance "
        "unexplained below, scored twenty times during training."
    )


STUDY = Study(
    "convergence", "Recovery and loss against steps", _runs, about=_about, says=statements, figure=convergence_figure
)

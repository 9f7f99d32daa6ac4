"""What a bench runs: methods, plain and anchored, in several worlds, as jobs."""

from collections.abc import Sequence
from dataclasses import replace

from monosem.anchors.term import Anchoring
from monosem.base.errors import ArgumentError, check
from monosem.bench.defaults import PAPER_ROWS, fit_config, recipe
from monosem.bench.run import Job
from monosem.bench.tasks import TASKS
from monosem.methods import method


def resolve(name: str, task: str) -> str:
    """A method's whole text: a bare name takes the task's documented defaults. Raises: as `methods.method`."""
    return method(recipe(task, name)).spec


def plan(
    task: str,
    methods: Sequence[str] = (),
    *,
    anchors: int | None = None,
    plain: bool = True,
    anchored: bool = True,
    seeds: int = 3,
    steps: int | None = None,
    checkpoint_every: int | None = None,
    anchoring: Anchoring | None = None,
    among: Sequence[str] = ("all",),
) -> list[Job]:
    """Jobs in the order in which they start: world by world, each with every method, plain and anchored.

    `methods` are names or texts (none: the seven of the paper's table 1), `anchors` the number of anchored features
    (None: the task's), which no run is scored on, plain ones neither; `steps` and
    `checkpoint_every` override the task's, `anchoring` the usual form. Each of `among` is an anchored run of its own
    that takes only those features: a hierarchy has "parents" and "children".
    """
    usual = TASKS[task].anchors
    count = usual if anchors is None else anchors
    check(seeds >= 1, f"seeds = {seeds}; run at least one")
    if not plain and not anchored:
        raise ArgumentError("neither plain nor anchored runs are wanted; ask for one of them")
    check(not anchored or count >= 1, f"anchors = {count}; anchored runs need at least one, or ask for plain runs only")
    TASKS[task].scored(count)
    for group in among:
        TASKS[task].anchored(count, group)
    specs = list(dict.fromkeys(resolve(name, task) for name in methods or PAPER_ROWS))
    jobs = []
    for seed in range(seeds):
        config = fit_config(task, seed, steps)
        if checkpoint_every is not None:
            config = replace(config, checkpoint_every=checkpoint_every)
        for spec in specs:
            bare = Job(task, spec, seed, config, held_out=count, anchoring=anchoring or Anchoring())
            jobs += [bare] * plain
            jobs += [replace(bare, anchors=count, among=group) for group in among if anchored]
    return jobs

"""Which jobs of a bench may train side by side, as one stack."""

from collections.abc import Sequence
from dataclasses import replace

from monosem.base.errors import check
from monosem.base.spec import canonical
from monosem.bench.run import Job
from monosem.methods import Method
from monosem.train.stack_fit import worth_stacking

__all__ = ["stacks_of"]


def _without_weights(method: Method) -> Method:
    """What two methods must have in common to share a stack."""
    terms = tuple(replace(term, weight=1.0) for term in method.terms)
    return replace(method, terms=terms, anchoring=replace(method.anchoring, weight=1.0), spec="")


def _shape(job: Job) -> str | None:
    """What the jobs of a stack have in common; None for a job that is run alone."""
    config, task = job.config, job.task_value
    known = job.given != "discovered"  # how many anchors are found is not known before
    if not known or config.checkpoint_every is not None or config.selection != "fp32" or config.dense != "fp32":
        return None
    k = task.anchored(job.anchors, job.among).numel() if job.anchored else None
    sizes = [task.n_q, task.pairing, list(task.world.widths), k]
    return canonical([sizes, _without_weights(job.built), replace(config, seed=0)])


def _worth(job: Job) -> int:
    task = job.task_value
    n_p, n_r = (sum(task.world.widths[source] for source in side) for side in (task.reads, task.writes))
    return worth_stacking(task.n_q, n_p, n_r, job.config.batch_size, job.config.device)


def stacks_of(jobs: Sequence[Job], most: int | None) -> list[list[int]]:
    """The numbers of the jobs in groups of at most `most` that may share a stack, in the order of their first.

    1: every job alone; None: as many as pay at their size and on their device (`worth_stacking`). Jobs share one where
    sizes, number of anchors, method (but for the weights of its terms) and configuration (but for its seed) agree.
    """
    check(most is None or most >= 1, f"stack={most}; put at least one run in a stack")
    groups: list[list[int]] = []
    open_: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        room = (1 if most == 1 else _worth(job)) if most is None or most == 1 else most
        shape = _shape(job) if room > 1 else None
        group = open_.get(shape) if shape is not None else None
        if group is None or len(group) >= room:
            group = []
            groups.append(group)
            if shape is not None:
                open_[shape] = group
        group.append(number)
    return groups

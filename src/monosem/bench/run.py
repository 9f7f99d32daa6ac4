"""Jobs of the bench: train one method on one task with one seed, score it, write its record; and many at once."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from monosem.anchors.term import Anchoring
from monosem.base.errors import MonosemError, check
from monosem.base.files import claim
from monosem.base.plugins import loaded
from monosem.base.spec import to_plain
from monosem.bench.anchor_sets import FOUND_COSINE, anchor_set, anchors_against_truth
from monosem.bench.defaults import PAPER_ROWS, fit_config, recipe
from monosem.bench.metrics import TAUS, flatten
from monosem.bench.pool import NO_CALLBACKS, Event, JobCallbacks, run_all
from monosem.bench.records import SCHEMA, SUFFIX, finished, metrics_table, record_name, write_record
from monosem.bench.task_scores import anchors_alone, chance, evaluate_model, oracle, similarity_map
from monosem.bench.tasks import Task, TaskSource, named_task, task
from monosem.bench.tune import Evidence, disagreement
from monosem.core.pairs import SAE, Transcoder
from monosem.methods import Method, method, name_of, numerics, with_anchoring
from monosem.train.config import FitConfig
from monosem.train.loop import Callback, fit
from monosem.train.state import Run


def pairing_of(spec: str) -> str:
    """The task pairing that a method asks for; layers of a cross-layer transcoder are a crosscoder's sources.

    Example:
        >>> pairing_of("topk_skip_transcoder"), pairing_of("topk"), pairing_of("topk(k=4) @ crosscoder(private=0.1)")
        ('transcoder', 'sae', 'crosscoder')
    """
    pairing = method(spec).pairing
    return "sae" if isinstance(pairing, SAE) else "transcoder" if isinstance(pairing, Transcoder) else "crosscoder"


@dataclass(frozen=True)
class Job:
    """One run. The first `anchors` features of the order are anchored (0: plain), those `among` them that are named.

    Features after the first `held_out` are scored. A hierarchy can anchor "parents" or "children" only. `given` says
    where the anchors come from (anchor_sets). `task` is a registered name, or a task of its own, whose world takes the
    job's seed. `watch`: score the recovery at every logged step of training too, not at the end only. `twin`: train
    again in the same world from another start, and score how far the two dictionaries agree.
    """

    task: str | Task
    method: str
    seed: int
    config: FitConfig
    anchors: int = 0
    held_out: int = 0
    among: str = "all"
    anchoring: Anchoring = field(default_factory=Anchoring)
    n_q: int | None = None
    study: str = "bench"
    given: str = "true"
    watch: bool = False
    twin: bool = False

    @property
    def built(self) -> Method:
        """The method with this job's way of anchoring."""
        return with_anchoring(method(self.method), self.anchoring)

    @property
    def task_value(self) -> Task:
        """The task in this job's world."""
        named, pairing = self.task, pairing_of(self.method)
        base = task(named, pairing, self.seed) if isinstance(named, str) else replace(named, pairing=pairing)
        base = base.with_seed(self.seed)
        return base if self.n_q is None else replace(base, n_q=self.n_q)

    @property
    def anchored(self) -> bool:
        """Whether there are anchors: a number of features, or a set that tells its own number."""
        return self.anchors > 0 or self.given != "true"

    @property
    def arm(self) -> str:
        """ "plain", "anchored", or what is anchored."""
        if not self.anchored:
            return "plain"
        kind = "" if self.among == "all" else f"{self.among} "
        return f"{kind}anchored" if self.given == "true" else f"{kind}anchored, {self.given}"

    @property
    def anchor_kind(self) -> str:
        """Where the anchors come from, in a record's words."""
        true = "true_features" if self.among == "all" else f"true_{self.among}"
        return true if self.given == "true" else self.given if self.among == "all" else f"{self.given} of {true}"

    @property
    def title(self) -> str:
        """A line for people."""
        return f"{self.method}  {self.arm}  seed {self.seed}"


def job_head(job: Job, source: TaskSource | None) -> dict[str, Any]:
    """What identifies a run, in the record's form; the digest of its data only where the source is at hand."""
    value = job.task_value
    plan = job.anchoring
    anchors = {
        "kind": job.anchor_kind,
        "k": value.anchored(job.anchors, job.among).numel(),
        "weight": to_plain(plan.weight),
        "form": f"{plan.form}/{plan.sides}" + ("/hard" if plan.hard else ""),
        "init": plan.init,
    }
    return {
        "schema": SCHEMA,
        "study": job.study,
        "task": {
            "name": value.name,
            "version": value.version,
            "spec": to_plain(value),
            "hash": value.digest,
            "data_digest": source.digest if source else "",
            "pairing": value.pairing,
        },
        "method": {"name": name_of(job.method), "spec": method(job.method).spec} | loaded(),
        "numerics": numerics(job.method),
        "anchors": anchors if job.anchored else None,
        "seed": {"world": job.seed, "train": job.config.seed},
        "config": to_plain(job.config) | {"held_out": job.held_out} | ({"twin": True} if job.twin else {}),
    }


def job_record_name(job: Job) -> str:
    """The file name of the record that a job writes, known before it runs."""
    return record_name(job_head(job, None))


@lru_cache(maxsize=4)
def _source(value: Task) -> TaskSource:
    return TaskSource(value)


@lru_cache(maxsize=16)
def _baselines(value: Task, held_out: int) -> dict[str, dict[str, Any]]:
    source = _source(value)
    return {"chance": chance(source, features=value.scored(held_out)), "oracle": oracle(source, rows=1024)}


_ANOTHER, _ALIVE = 1_000_000, 4096
"""What a twin adds to the seed of training; held-out rows on which latents that are compared fire."""


def _watch(true: Tensor, run: Run, entry: dict[str, float]) -> None:
    """Recovery of unit features by decoder columns, at |cos| > .95 and on average, into the log."""
    with torch.no_grad():
        columns = torch.nn.functional.normalize(run.model.W_D.detach(), dim=0)
        best = (torch.nn.functional.normalize(true, dim=0).T @ columns).abs().amax(1)
    entry["M_GT"], entry["M_IP"] = float((best > FOUND_COSINE).float().mean()), float(best.mean())


def run_job(job: Job, folder: str | Path, progress: bool = False, on_step: Callable[[int], None] | None = None) -> Path:
    """Train, score, and write the record; with checkpoints, the run's own files lie under runs/.

    `on_step` is called with the step at every entry of the log. Raises: as the job's task, method and anchors do.
    """
    folder, value = Path(folder), job.task_value
    source, features = _source(value), value.scored(job.held_out)
    head = job_head(job, source)
    name = record_name(head)
    for partial_file in folder.glob(f".{name}.*.part"):  # a kill inside the write of this record
        partial_file.unlink()
    anchors = anchor_set(job.given, source, value.anchored(job.anchors, job.among), folder) if job.anchored else None
    callbacks: list[Callback] = [partial(_watch, source.W_r[:, features])] if job.watch else []
    if on_step is not None:
        callbacks.insert(0, lambda run, entry: on_step(run.step))
    work = folder / "runs" / name.removesuffix(SUFFIX) if job.config.checkpoint_every else None
    result = fit(job.built, source, value.n_q, job.config, anchors, out=work, progress=progress, callbacks=callbacks)
    scores = evaluate_model(result.model, source, features)
    if job.twin:
        again = replace(job.config, seed=job.config.seed + _ANOTHER, checkpoint_every=None)
        other = fit(job.built, source, value.n_q, again, anchors)
        x_p, x_r = source.pair(source.held_out(_ALIVE))
        scores["stability"] = 1.0 - disagreement(Evidence(result.model, other.model, x_p, x_r, source.rows or 0))
    numbers, baselines = scores, _baselines(value, job.held_out)
    if anchors is not None:
        numbers = scores | {"anchors": anchors_against_truth(anchors, source)}
        alone = anchors_alone(source, anchors.p, anchors.r, features=features)["held_out"]
        baselines = baselines | {"anchors_alone": alone}
    curves = {"tau": list(TAUS), **flatten(scores)[1]}
    similarity = similarity_map(result.model.W_D.detach(), source.W_r, features)
    watched = ("M_GT", "M_IP") if job.watch else ()
    record = finished(head, result, metrics_table(numbers, **baselines), curves, similarity, watched)
    return write_record(folder, record)


def _resolve(name: str, task: str) -> str:
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
    twins: bool = False,
) -> list[Job]:
    """Jobs in the order in which they start: world by world, each with every method, plain and anchored.

    `methods` are names or texts (none: the seven of the paper's table 1), `anchors` the number of anchored features
    (None: the task's), which no run is scored on, plain ones neither; `steps` and
    `checkpoint_every` override the task's, `anchoring` the usual form. Each of `among` is an anchored run of its own
    that takes only those features: a hierarchy has "parents" and "children". `twins`: see `Job.twin`.
    """
    base = named_task(task)
    count = base.anchors if anchors is None else anchors
    check(seeds >= 1, f"seeds = {seeds}; run at least one")
    check(plain or anchored, "neither plain nor anchored runs are wanted; ask for one of them")
    check(not anchored or count >= 1, f"anchors = {count}; anchored runs need at least one, or ask for plain runs only")
    base.scored(count)
    for group in among:
        base.anchored(count, group)
    specs = list(dict.fromkeys(_resolve(name, task) for name in methods or PAPER_ROWS))
    jobs = []
    for seed in range(seeds):
        config = fit_config(task, seed, steps)
        config = config if checkpoint_every is None else replace(config, checkpoint_every=checkpoint_every)
        for spec in specs:
            bare = Job(task, spec, seed, config, held_out=count, anchoring=anchoring or Anchoring(), twin=twins)
            jobs += [bare] * plain
            jobs += [replace(bare, anchors=count, among=group) for group in among] * anchored
    return jobs


@runtime_checkable
class Executor(Protocol):
    """What runs jobs elsewhere: submitit's executors, those of concurrent.futures, a Dask client."""

    def submit(self, work: Callable[[Job], None], job: Job, /) -> Any:
        """Run `work(job)` some time; the answer has a method `result`, which waits, and raises what `work` raised."""


def _work(folder: Path, shared: bool, job: Job, on_step: Callable[[int], None] | None = None) -> None:
    """Run a job; in a shared folder its record is claimed first, and left alone if another process has written it."""
    torch.set_num_threads(1)
    name = job_record_name(job)
    with claim(folder / ".claims" / name) if shared else nullcontext():
        if not (shared and (folder / name).exists()):
            run_job(job, folder, on_step=on_step)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    callbacks: JobCallbacks = NO_CALLBACKS,
    *,
    executor: Executor | None = None,
    shared: bool = False,
) -> list[Path]:
    """Run every job whose record is not there yet, in single-threaded processes; returns the paths of all records.

    A run in such a process gives the same bits as running it alone. `workers` defaults to the number of cores.
    `callbacks` are called for jobs that have their record already, that start, reach a step, finish or fail (the
    others go on). Without a callback for errors they are raised together at the end.
    `executor`: where the jobs run instead, as on a cluster that shares `folder`. `shared`: other calls write records
    there at the same time, as the tasks of an array do. Both claim record by record, where the folder is claimed else.
    Raises: OutputError when the folder cannot be written, or another process writes records there.
    """
    folder, apart = Path(folder), shared or executor is not None
    work = partial(_work, folder, apart)
    count = workers or len(os.sched_getaffinity(0))
    events = partial(run_all, work, workers=count) if executor is None else partial(_submitted, executor, work)
    with nullcontext() if apart else claim(folder):
        return _run_missing(jobs, folder, events, callbacks)


def _submitted(executor: Executor, work: Callable[[Job], None], jobs: Sequence[Job]) -> Generator[Event]:
    """Hand out every job, then wait for one after the other; one that fails does not end the others."""
    waiting = [executor.submit(work, job) for job in jobs]
    for number, one in enumerate(waiting):
        try:
            one.result()
        except Exception as error:  # whatever the cluster says: a lost node, a limit, the job's own error
            yield Event("error", number, f"{type(error).__name__}: {error}")
        else:
            yield Event("done", number)


def _run_missing(
    jobs: Sequence[Job],
    folder: Path,
    running: Callable[[Sequence[Job]], Generator[Event]],
    callbacks: JobCallbacks,
) -> list[Path]:
    paths = [folder / job_record_name(job) for job in jobs]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    failed: list[str] = []
    for i in sorted(set(range(len(jobs))) - set(todo)):
        callbacks.tell(Event("done", i, paths[i]))
    with closing(running([jobs[i] for i in todo])) as events:
        for event in events:
            number = todo[event.job]
            if event.kind == "error":
                failed.append(f"{jobs[number].title}: {event.value}")
            callbacks.tell(Event(event.kind, number, paths[number] if event.kind == "done" else event.value))
    if failed and callbacks.error is None:
        raise MonosemError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")
    return paths

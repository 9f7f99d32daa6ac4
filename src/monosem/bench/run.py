"""Run jobs of the bench: train one method on one task with one seed, score it, write its record."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.anchoring.anchors import Anchors
from monosem.anchoring.term import Anchoring
from monosem.base.errors import MonosemError
from monosem.base.spec import parse_call, to_plain
from monosem.bench.absorption import Families, absorption
from monosem.bench.anchor_sets import FOUND_COSINE, anchor_set, anchors_against_truth
from monosem.bench.baselines import anchors_alone, chance, oracle
from monosem.bench.folds import Coded, evaluate
from monosem.bench.laws import Hierarchy
from monosem.bench.maps import similarity_map
from monosem.bench.metrics import TAUS, flatten, score
from monosem.bench.pool import run_all
from monosem.bench.records import SCHEMA, environment, metrics_table, record_name, write_record
from monosem.bench.tasks import Task, TaskSource, task
from monosem.bench.world import Truth
from monosem.core.model import SDL, Forward
from monosem.methods import Method, method, with_anchoring
from monosem.train.config import FitConfig
from monosem.train.loop import Callback, fit
from monosem.train.state import Run

__all__ = ["EVAL_ROWS", "Job", "evaluate_model", "job_head", "job_record_name", "pairing_of", "run_job", "run_jobs"]

EVAL_ROWS = 8192
"""Rows of the held-out stream that FVU, L0 and dead latents are measured on."""
_SERIES = ("step", "loss", "fvu", "l0", "dead")
_WATCHED = ("M_GT", "M_IP")


def pairing_of(spec: str) -> str:
    """The task pairing that a method's name asks for: "topk_transcoder(k=4)" -> "transcoder".

    Example:
        >>> pairing_of("topk_skip_transcoder"), pairing_of("topk")
        ('transcoder', 'sae')
    """
    name = parse_call(spec)[0]
    return "transcoder" if name.endswith("transcoder") else "crosscoder" if name.endswith("crosscoder") else "sae"


@dataclass(frozen=True)
class Job:
    """One run. The first `anchors` features of the order are anchored (0: plain), those `among` them that are named.

    Features after the first `held_out` are scored. A hierarchy can anchor "parents" or "children" only. `given` says
    where the anchors come from (anchor_sets). `task` is a registered name, or a task of its own, whose world takes the
    job's seed. `watch`: score the recovery at every logged step of training too, not at the end only.
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
    def title(self) -> str:
        """A line for people."""
        return f"{self.method}  {self.arm}  seed {self.seed}"


def _kind(job: Job) -> str:
    """Where the anchors come from, in a record's words."""
    true = "true_features" if job.among == "all" else f"true_{job.among}"
    return true if job.given == "true" else job.given if job.among == "all" else f"{job.given} of {true}"


def job_head(job: Job, source: TaskSource | None) -> dict[str, Any]:
    """What identifies a run, in the record's form; the digest of its data only where the source is at hand."""
    value = job.task_value
    plan = job.anchoring
    anchors = {
        "kind": _kind(job),
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
        "method": {"name": parse_call(job.method)[0], "spec": method(job.method).spec},
        "anchors": anchors if job.anchored else None,
        "seed": {"world": job.seed, "train": job.config.seed},
        "config": to_plain(job.config) | {"held_out": job.held_out},
    }


def job_record_name(job: Job) -> str:
    """The file name of the record that a job writes, known before it runs."""
    return record_name(job_head(job, None))


@lru_cache(maxsize=4)
def _source(value: Task) -> TaskSource:
    return TaskSource(value)


@lru_cache(maxsize=16)
def _beside(value: Task, held_out: int) -> dict[str, dict[str, Any]]:
    source = _source(value)
    return {"chance": chance(source, features=value.scored(held_out)), "oracle": oracle(source, rows=1024)}


def evaluate_model(model: SDL, source: TaskSource, features: torch.Tensor, rows: int = EVAL_ROWS) -> dict[str, Any]:
    """Every metric of a trained model on a task: recovery of `features`, codes on held-out rows.

    In a hierarchy also absorption: of the families that are scored, and of those that are not.
    """

    def outputs() -> Iterable[tuple[Truth, Tensor, Forward]]:
        for start in range(0, rows, 1024):
            truth = source.held_out(min(1024, rows - start), start=start)
            x_p, x_r = source.pair(truth)
            with torch.no_grad():
                out = model(x_p)
            yield truth, x_r, out

    W_E, W_D = model.W_E.detach(), model.W_D.detach()
    p_widths, r_widths = source.p_widths, source.r_widths
    found = score(W_E, W_D, source.W_p, source.W_r, p_widths=p_widths, r_widths=r_widths, features=features)
    found |= evaluate(Coded(x_r, out.x_r_hat, out.code, truth.features.l0) for truth, x_r, out in outputs())
    law = source.task.world.law
    if isinstance(law, Hierarchy):
        codes = ((out.code, truth.features) for truth, _, out in outputs())
        found |= absorption(Families.of(W_D, source.W_r, law), codes, features)
    return found


def _watch(true: Tensor, run: Run, entry: dict[str, float]) -> None:
    """Recovery of unit features by decoder columns, at |cos| > .95 and on average, into the log."""
    with torch.no_grad():
        columns = torch.nn.functional.normalize(run.model.W_D.detach(), dim=0)
        best = (torch.nn.functional.normalize(true, dim=0).T @ columns).abs().amax(1)
    entry["M_GT"], entry["M_IP"] = float((best > FOUND_COSINE).float().mean()), float(best.mean())


def run_job(job: Job, folder: str | Path, progress: bool = False, told: Callable[[int], None] | None = None) -> Path:
    """Train, score, and write the record; with checkpoints, the run's own files lie under runs/."""
    folder = Path(folder)
    value = job.task_value
    source = _source(value)
    features = value.scored(job.held_out)
    anchors: Anchors | None = None
    alone: dict[str, Any] = {}
    given: dict[str, Any] = {}
    if job.anchored:
        anchors = anchor_set(job.given, source, value.anchored(job.anchors, job.among), folder)
        beside = anchors_alone(source, anchors.p, anchors.r, features=features)
        alone = {"anchors_alone": beside["held_out"]}
        given = {"anchors": anchors_against_truth(anchors, source)}
    head = job_head(job, source)
    for stale in folder.glob(f".{record_name(head)}.*.part"):  # a kill inside the write of this record
        stale.unlink()
    work = folder / "runs" / record_name(head).removesuffix(".record.json") if job.config.checkpoint_every else None
    callbacks: list[Callback] = [] if told is None else [lambda run, entry: told(run.step)]
    callbacks += [partial(_watch, source.W_r[:, features])] if job.watch else []
    result = fit(job.built, source, value.n_q, job.config, anchors, out=work, progress=progress, callbacks=callbacks)
    metrics = evaluate_model(result.model, source, features)
    record = head | {
        "metrics": metrics_table(metrics | given, **_beside(value, job.held_out), **alone),
        "curves": {"tau": list(TAUS), **flatten(metrics)[1]},
        "similarity": similarity_map(result.model.W_D.detach(), source.W_r, features),
        "training": {
            name: [entry[name] for entry in result.log] for name in (*_SERIES, *(_WATCHED if job.watch else ()))
        },
        "env": environment(),
        "wall_time_s": result.seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return write_record(folder, record)


def _work(folder: Path, job: Job, told: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    run_job(job, folder, told=told)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    workers: int | None = None,
    on_start: Callable[[int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_done: Callable[[int, Path], None] | None = None,
    on_error: Callable[[int, str], None] | None = None,
) -> list[Path]:
    """Run every job whose record is not there yet, in single-threaded processes; returns the paths of all records.

    A run in such a process gives the same bits as running it alone. `workers` defaults to the number of cores.
    The callbacks hear job numbers: when found done, started or finished, how far each has come, and why one failed
    (the others go on). Without `on_error`, failures are raised together at the end.
    """
    folder = Path(folder)
    paths = [folder / job_record_name(job) for job in jobs]
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    failed: list[str] = []
    for i in sorted(set(range(len(jobs))) - set(todo)):
        if on_done:
            on_done(i, paths[i])
    count = min(workers or len(os.sched_getaffinity(0)), len(todo))
    with closing(run_all(partial(_work, folder), [jobs[i] for i in todo], count)) as events:
        for event in events:
            number = todo[event.job]
            if event.kind == "start" and on_start:
                on_start(number)
            elif event.kind == "step" and on_step:
                on_step(number, event.value)
            elif event.kind == "done" and on_done:
                on_done(number, paths[number])
            elif event.kind == "error":
                failed.append(f"{jobs[number].title}: {event.value}")
                if on_error:
                    on_error(number, event.value)
    if failed and on_error is None:
        raise MonosemError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")
    return paths

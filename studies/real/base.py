"""What an experiment on real rows is: jobs at one of several sizes, run by processes, with a record each."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from monosem.base.errors import ArgumentError
from monosem.base.registry import Registry
from monosem.base.spec import to_plain
from monosem.bench.pool import NO_CALLBACKS, JobCallbacks, run_all
from monosem.methods import Method
from monosem.train.config import FitConfig

Told = Callable[[str], None]
"""Hears a line of text for people."""


@dataclass(frozen=True)
class RealJob(ABC):
    """One run on real rows, a value that a process can be given; `study` is what its records call the study."""

    study: ClassVar[str]
    data: str
    method: str
    arm: str
    seed: int
    config: FitConfig
    n_q: int

    @property
    @abstractmethod
    def name(self) -> str:
        """What its records call the method."""

    @property
    @abstractmethod
    def built(self) -> Method:
        """The method as it is trained."""

    @property
    @abstractmethod
    def anchored(self) -> bool:
        """Whether it has anchors."""

    @abstractmethod
    def prepare(self, told: Told) -> None:
        """Make what its rows need (vectors, a harvest), which the cache keeps."""

    @abstractmethod
    def run(self, folder: Path, told: Callable[[int], None] | None = None) -> Path:
        """Train, score, write the record; returns its path, which may be that of a record that was there."""


@dataclass(frozen=True)
class RealStudy:
    """A table or figure of the paper on real rows.

    `jobs(scale, seeds)` are its runs, of the first so many seeds (None: the scale's own); `refused` says why a scale
    cannot be run.
    """

    name: str
    title: str
    jobs: Callable[[str, int | None], Sequence[RealJob]]
    refused: Mapping[str, str]

    def at(self, scale: str, seeds: int | None = None) -> Sequence[RealJob]:
        """The runs at a scale. Raises: ArgumentError: this study has none there, with the reason."""
        if scale in self.refused:
            raise ArgumentError(f"{self.name} has no runs at scale {scale}: {self.refused[scale]}")
        return self.jobs(scale, seeds)


REAL_STUDIES: Registry[RealStudy] = Registry("study on real rows")


def record_of(job: RealJob, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The record of a job, found without its rows: by study, data, size, method, anchors, seed and training."""
    usual, spec, config = to_plain(FitConfig()), to_plain(job.built), to_plain(job.config)
    for record in records:
        task, learned, told = record["task"], record["method"], record["config"]
        if (
            (record["study"], task["name"], task["spec"].get("n_q")) == (job.study, f"real/{job.data}", job.n_q)
            and (learned["name"], learned["spec"]) == (job.name, spec)
            and (record["anchors"] is not None, record["seed"]["train"]) == (job.anchored, job.seed)
            and {name: told.get(name, usual[name]) for name in usual} == config
        ):
            return record
    return None


def run_real_jobs(
    jobs: Sequence[RealJob], folder: str | Path, workers: int | None = None, callbacks: JobCallbacks = NO_CALLBACKS
) -> None:
    """Run every job in single-threaded processes; one whose record is there is not trained again.

    `callbacks` hears of each job, also why one failed (the others go on).
    """
    count = max(1, min(workers or len(os.sched_getaffinity(0)), len(jobs)))
    with closing(run_all(partial(_work, Path(folder)), jobs, count)) as events:
        for event in events:
            callbacks.tell(event)


def _work(folder: Path, job: RealJob, told: Callable[[int], None]) -> Path:
    torch.set_num_threads(1)
    return job.run(folder, told)

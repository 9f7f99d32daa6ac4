"""Runs on real rows: what tells them apart, and how one is trained and recorded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from monosem import SDL, Anchors, FitConfig, TensorSource
from monosem.base import canonical, to_plain
from monosem.bench import RealRun, record_name, run_real
from monosem.methods import Method, name_of
from studies.engine.records import Record, Records
from studies.engine.study import Progress


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows to train on and rows that no step sees, directions to anchor at, and what a record says of all that."""

    source: TensorSource
    fresh: Tensor
    anchors: Anchors
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Rows(ABC):
    """A set of real rows, of which `limit` are used: what the runs on them need, made once and kept in the cache."""

    data: str
    limit: int | None

    @property
    def title(self) -> str:
        """For people."""
        return f"rows of {self.data}"

    @abstractmethod
    def make(self, folder: Path, progress: Progress) -> None:
        """Compute or harvest what the cache does not hold."""

    @abstractmethod
    def prepared(self) -> Prepared:
        """The rows, ready for training."""

    @abstractmethod
    def scores(self, model: SDL, anchored: bool) -> Mapping[str, Mapping[str, Any]]:
        """What is measured of a trained model, as `run_real` takes it."""


@dataclass(frozen=True)
class RowsRun:
    """One run on real rows; `study` is what its records call the study, `change` what is changed in the method."""

    study: str
    needs: Rows
    method: str
    arm: str
    seed: int
    config: FitConfig
    n_q: int
    built: Method
    anchored: bool
    change: str = ""

    @property
    def key(self) -> str:
        """Study, data, size, method, anchors, seed and training; known without the rows."""
        return self._key(self.anchored)

    @property
    def plain_key(self) -> str:
        """The key of the same run without anchors."""
        return self._key(anchored=False)

    def _key(self, anchored: bool) -> str:
        name = f"{name_of(self.method)}{'-' * bool(self.change)}{self.change}"
        task, spec, config = f"real/{self.needs.data}", to_plain(self.built), to_plain(self.config)
        return canonical([self.study, task, self.n_q, name, spec, anchored, self.seed, config])

    def find(self, records: Records) -> Record | None:
        """Its record."""
        return records.by(_keys).get(self.key)

    def run(self, folder: Path, progress: Progress) -> Path:
        """Train, score, write the record; a run that is there is not trained again. Checkpoints lie under runs/."""
        rows = self.needs.prepared()
        work = folder / "runs" / self.study if self.config.checkpoint_every else None
        anchors = rows.anchors if self.anchored else None
        data, spec, n_q = self.needs.data, rows.spec, self.n_q
        one = RealRun(self.study, data, spec, rows.source, self.built, n_q, self.config, anchors, self.change)
        steps = [lambda run, entry: progress(run.step)]
        record = run_real(one, folder, lambda result: self.needs.scores(result.model, self.anchored), work, steps)
        return folder / record_name(record)


def _keys(record: Record) -> list[str]:
    task, method, usual = record["task"], record["method"], to_plain(FitConfig())
    config = {name: record["config"].get(name, value) for name, value in usual.items()}
    size, anchored, seed = task["spec"].get("n_q"), record["anchors"] is not None, record["seed"]["train"]
    return [canonical([record["study"], task["name"], size, method["name"], method["spec"], anchored, seed, config])]

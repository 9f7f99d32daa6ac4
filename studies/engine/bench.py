"""Runs on the bench: their keys, the anchors that they share, and the arms of the paper's tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch

from monosem import FitConfig
from monosem.anchors import PRINTED
from monosem.base import canonical, to_plain
from monosem.bench import Job, Task, TaskSource, discovered_anchors, job_head, run_job
from studies.engine.records import Record, Records
from studies.engine.scale import Scale
from studies.engine.study import Entry, Progress

ARMS: Mapping[str, str] = MappingProxyType(
    {
        "paper": "the paper's settings as far as they can be inferred, no anchors",
        "paper+anchors": "the same with true anchors, both sides held by a penalty, no start there: as printed",
        "ours": "our defaults, no anchors",
        "ours+anchors": "our defaults with true anchors: start there, decoder columns held",
        "ours+discovered": "our defaults with anchors found in the rows alone, no labels",
    }
)
"""The arms of the paper's tables."""
_TRAINED = ("steps", "batch_size", "lr", "selection", "dense", "held_out")
"""What of a configuration tells runs of a study apart; fields that a later version adds leave old runs known."""
_WATCHED = " watched"
"""What a key ends in where the recovery during training is wanted too."""
_WIDE = 12.8
"""k over L0 of the paper's TopK family where it does not say: of table 7's rows k = 128 is nearest to table 1."""


@dataclass(frozen=True)
class Discovery:
    """The anchors that are discovered in one world, for all runs there."""

    task: Task

    @property
    def title(self) -> str:
        """For people."""
        return f"anchors of world {self.task.world.seed} ({self.task.name}, {self.task.pairing})"

    def make(self, folder: Path, progress: Progress) -> None:
        """Discover them on one thread; the folder keeps them."""
        torch.set_num_threads(1)
        discovered_anchors(TaskSource(self.task), folder)


@dataclass(frozen=True)
class BenchRun(Job):
    """A job of the bench as a run of a study."""

    @cached_property
    def key(self) -> str:
        """Task, method, anchors, seeds and how it was trained; whether its recovery is watched."""
        return run_key(job_head(self, None)) + _WATCHED * self.watch

    @property
    def plain_key(self) -> str:
        """The key of the same run without anchors."""
        return replace(self, anchors=0, given="true", among="all").key

    @property
    def needs(self) -> Discovery | None:
        """The discovered anchors of its world, where it is given these."""
        return Discovery(self.task_value) if self.given == "discovered" else None

    def find(self, records: Records) -> Record | None:
        """Its record; one that was watched serves either way."""
        return records.by(_keys).get(self.key)

    def run(self, folder: Path, progress: Progress) -> Path:
        """Train, score and write the record."""
        return run_job(self, folder, on_step=progress)


def run_key(head: Record) -> str:
    """What makes two runs the same cell of a study: task, method, anchors, seeds and how it was trained."""
    task, method = head["task"], head["method"]["spec"]
    config = to_plain(FitConfig()) | head["config"]  # an older record lacks what then was the only way
    return canonical(
        [task["hash"], task["pairing"], method, head["anchors"], head["seed"], [config.get(name) for name in _TRAINED]]
    )


def _keys(record: Record) -> list[str]:
    key = run_key(record)
    return [key, key + _WATCHED] if "M_GT" in record["training"] else [key]


def inferred(scale: Scale, name: str) -> str:
    """A method's text with the paper's settings as far as they can be inferred (docs/paper/settings.md)."""
    if "topk" in name or name == "matryoshka":
        return f"{name}(k={scale.k(10 * _WIDE)}, aux=0.0)"
    return {"relu_l1": "relu_l1(l1=1.0)", "jumprelu": "jumprelu(l0=0.5, theta=0.001, bandwidth=0.001)"}[name]


def arms(
    scale: Scale, row: str, name: str, task: Task, wanted: Sequence[str], printed_anchors: int = 100, text: str = ""
) -> Iterator[Entry]:
    """The runs of one method on one task in the arms that are wanted.

    Runs with the paper's settings are scored on the features beyond its number of anchors, plain ones too; ours beyond
    the task's; a run with discovered anchors beyond those as well, so that all of ours share their features: its score
    over every feature stands next to it (`all.`). `text` replaces both recipes.
    """
    few, usual = min(scale.count(printed_anchors), task.world.n - 1), task.anchors
    printed = BenchRun(task, text or inferred(scale, name), 0, scale.config, held_out=few, study="paper")
    ours = BenchRun(task, text or scale.recipe(name), 0, scale.fit(name), held_out=usual, study="paper")
    made = {
        "paper": printed,
        "paper+anchors": replace(printed, anchors=few, anchoring=PRINTED),
        "ours": ours,
        "ours+anchors": replace(ours, anchors=usual),
        "ours+discovered": replace(ours, given="discovered"),
    }
    for arm in wanted:
        yield Entry(row, arm, made[arm])

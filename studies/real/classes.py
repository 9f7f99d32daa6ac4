"""Table 2 on real labelled rows: do anchors at half of the classes help to find the other half?

Class means stand in for true features (Tang et al. 2025, section 4). They are centred on the mean of all class means,
for anchors and for scores alike: raw ones nearly coincide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.bench.real import RealRun, class_scores, code_scores, run_real
from monosem.bench.records import record_name
from monosem.core.pairs import TensorSource
from monosem.data.class_means import class_anchors
from monosem.data.source import FileSource
from monosem.data.table import Labels, Table
from monosem.methods import Method, method
from monosem.train.config import FitConfig
from monosem.train.loop import Result
from studies.real.base import REAL_STUDIES, RealJob, RealStudy, Told

CLASS_METHODS = ("topk", "batch_topk", "matryoshka")
CLASS_ARMS = ("plain", "anchored")

_Data = tuple[Tensor, Labels]


def _digits(_: int | None, told: Told) -> _Data:
    """1,797 images of digits [rows, 64], ten classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.data).float(), Labels(torch.from_numpy(found.target).long(), tuple("0123456789"))


def _ada40(_: int | None, told: Told) -> _Data:
    """10,000 embeddings [rows, 1536] of trivia questions and their 40 categories."""
    from studies.assets.data import ada40

    return ada40()


def _newsgroups(limit: int | None, told: Told) -> _Data:
    """MiniLM vectors [rows, 384] of posts and their 20 groups; the first call computes them (minutes)."""
    from studies.assets.data import text_vectors

    rows, texts = text_vectors(
        "newsgroups", limit or 10_000, lambda done, of: told(f"encoded {done:,} of {of:,} posts")
    )
    return rows, texts.single()


def _cifar10(limit: int | None, told: Told) -> _Data:
    """ResNet-50 features [rows, 2048] of CIFAR-10's test images at 128 pixels; the first call computes them."""
    from studies.assets.data import image_vectors

    return image_vectors(limit or 5_000, progress=lambda done, of: told(f"encoded {done:,} of {of:,} images"))


CLASS_SETS: Mapping[str, Callable[[int | None, Told], _Data]] = MappingProxyType(
    {"ada40": _ada40, "newsgroups": _newsgroups, "cifar10": _cifar10, "digits": _digits}
)
"""Labelled rows by name; all but digits are fetched by `python -m studies fetch`."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    source: TensorSource
    held: Tensor
    means: Anchors
    anchored: Tensor
    anchors: Anchors
    spec: Mapping[str, Any]


@lru_cache(maxsize=1)
def _prepared(data: str, limit: int | None) -> _Prepared:
    """Rows in a keyed order, centred, of mean squared norm n_p; the last tenth is held out, half of the classes too."""
    rows, labels = CLASS_SETS[data](limit, lambda line: None)
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(0))[:limit]
    rows, labels = rows[order], Labels(labels.codes[order], labels.names)
    rows = rows - rows.mean(0)
    rows = rows * (rows.shape[1] / rows.square().sum(1).mean()).sqrt()
    held = rows.shape[0] // 10
    table = FileSource(Table(rows, Path(data)))
    means = class_anchors(table, labels)
    anchored = torch.randperm(means.k, generator=torch.Generator().manual_seed(1))[: means.k // 2].sort().values
    names = [labels.names[c] for c in anchored.tolist()]
    spec = {"classes": means.k, "anchored": names, "held_out_rows": held}
    source = TensorSource(rows[:-held], digest=table.digest)
    return _Prepared(source, rows[-held:], means, anchored, class_anchors(table, labels, names), spec)


@dataclass(frozen=True)
class ClassJob(RealJob):
    """One method, plain or anchored at half of the classes, with one seed; `limit` uses only so many rows."""

    study: ClassVar[str] = "real-classes"
    limit: int | None = None

    @property
    def built(self) -> Method:
        """The method, with the usual way of anchoring."""
        return method(self.method)

    @property
    def name(self) -> str:
        """The method's name in the record."""
        return self.method.partition("(")[0]

    @property
    def anchored(self) -> bool:
        """Whether half of the classes anchor latents."""
        return self.arm == "anchored"

    def prepare(self, told: Told) -> None:
        """Vectors of texts and images are computed once."""
        CLASS_SETS[self.data](self.limit, told)

    def run(self, folder: Path, told: Callable[[int], None] | None = None) -> Path:
        """Train, score on held-out, anchored and all classes apart, write the record."""
        ready = _prepared(self.data, self.limit)
        anchors = ready.anchors if self.anchored else None
        run = RealRun(self.study, self.data, ready.spec, ready.source, self.built, self.n_q, self.config, anchors)

        def scores(result: Result) -> dict[str, Any]:
            found: dict[str, Any] = dict(class_scores(result.model, ready.means, ready.anchored))
            found["value"] = found["value"] | code_scores(result.model, ready.held, ready.held)
            if not self.anchored:
                del found["anchors_alone"]
            return found

        heard = [] if told is None else [lambda run, entry: told(run.step)]
        return folder / record_name(run_real(run, folder, scores, callbacks=heard))


@dataclass(frozen=True)
class ClassSize:
    """Table 2 at one size: one set of labelled rows, how large the models are and how they are trained."""

    data: str
    n_q: int = 1024
    k: int = 16
    steps: int = 400
    batch: int = 256
    lr: float = 1e-3
    seeds: int = 5
    rows: int | None = None


CLASS_SIZES: Mapping[str, tuple[ClassSize, ...]] = MappingProxyType(
    {
        "nano": (ClassSize("digits", n_q=64, k=4, steps=40, seeds=2, rows=500),),
        "mini": (ClassSize("ada40"), ClassSize("newsgroups"), ClassSize("cifar10", n_q=512, steps=300)),
    }
)
_REFUSED = {
    "paper": "CLIP embeddings of ImageNet-1K are in no package registry; use mini, or anchor your own embeddings with "
    "`monosem anchors from-classes`",
    "mini-hard": "it has one size on real rows; use mini",
}


def class_jobs(size: ClassSize, first: int = 0) -> list[ClassJob]:
    """Seed by seed every method, plain and anchored."""
    return [
        ClassJob(
            size.data,
            f"{name}(k={size.k})",
            arm,
            seed,
            FitConfig(size.steps, size.batch, size.lr, seed=seed, threads=1),
            size.n_q,
            size.rows,
        )
        for seed in range(first, first + size.seeds)
        for name in CLASS_METHODS
        for arm in CLASS_ARMS
    ]


def _jobs(scale: str, seeds: int | None) -> Sequence[RealJob]:
    sizes = [replace(size, seeds=seeds or size.seeds) for size in CLASS_SIZES[scale]]
    return [job for size in sizes for job in class_jobs(size)]


REAL_STUDIES.add("table2", RealStudy("table2", "Table 2: anchors from classes, on real labelled rows", _jobs, _REFUSED))

"""Figure 7 on a real network: what resampling, AuxK and anchoring do about latents that die in training.

TopK autoencoders on rows of one site, five ways, the same rows and seeds: no remedy, resampling of dead latents, AuxK,
anchors at the mean rows of frequent tokens, and encoder rows that start along their decoder columns. All others start
with encoder rows of their own: with tied ones hardly a latent dies at these sizes, which would leave nothing to remedy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors, class_means
from monosem.base.machine import cache_folder
from monosem.base.spec import digest
from monosem.bench.real import RealRun, code_scores, run_real
from monosem.bench.records import record_name
from monosem.core.pairs import TensorSource
from monosem.data.batches import TokenFilter
from monosem.data.store import Store, open_store
from monosem.losses.resample import Resample
from monosem.methods import Method, method, with_resampling
from monosem.networks.harvest import harvest
from monosem.train.config import FitConfig
from studies.real.base import REAL_STUDIES, RealJob, RealStudy, Told

REMEDIES = ("no remedy", "resampling", "AuxK", "anchoring", "tied start")
_SITE = "model.layers.14:out"
_LENGTH = 256


def _batches(tokenizer: Any) -> Iterator[dict[str, Tensor]]:
    """Texts cut at _LENGTH tokens, sixteen at a time, of like length."""
    from studies.assets.data import complaints

    texts = complaints().texts
    for start in range(0, len(texts), 256):
        part = [tokenizer(text)["input_ids"][:_LENGTH] for text in texts[start : start + 256]]
        part = sorted((tokens for tokens in part if len(tokens) >= 16), key=len)
        for first in range(0, len(part), 16):
            group = part[first : first + 16]
            ids = torch.zeros(len(group), len(group[-1]), dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, tokens in enumerate(group):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
            yield {"input_ids": ids, "attention_mask": mask}


def _activations(rows: int, told: Told) -> Store:
    """Rows of SmolLM2's residual stream, harvested once (the network in bfloat16, rows kept in float16)."""
    from studies.assets.models import smollm2

    folder = cache_folder() / "stores" / f"smollm2-complaints-l15-{rows}"
    if (folder / "manifest.json").exists():
        return open_store(folder)
    network, tokenizer = smollm2()
    network = network.to(torch.bfloat16)
    following = [0]

    def progress(done: int, _: int) -> None:
        if done >= following[0]:
            told(f"harvested {done:,} of {rows:,} rows")
            following[0] += 20_000

    keep = TokenFilter(first=1)
    return harvest(
        network, _SITE, _batches(tokenizer), folder, keep=keep, dtype="float16", rows=rows, progress=progress
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of mean norm sqrt(n_p), centred, kept in float16, and a kind for each (its token, or its class)."""

    rows: Tensor
    kinds: Tensor
    digest: str
    spec: Mapping[str, Any]


def _smollm2(limit: int, told: Told) -> _Rows:
    store = _activations(limit, told)
    rows = torch.cat([part for _, part in store.table(_SITE).chunks()])
    norms = rows.norm(dim=1)
    keep = norms < 10 * norms.median()  # one row a hundred times longer would outweigh all others of a batch
    told(f"{int((~keep).sum())} of {store.rows:,} rows are longer than ten times the median: left out")
    rows = rows[keep] - rows[keep].mean(0)
    rows *= rows.shape[1] ** 0.5 / rows.norm(dim=1).mean()
    tokens = torch.from_numpy(np.asarray(store.tokens[0 : store.rows]).astype(np.int64))[keep]
    spec = {"model": "SmolLM2-135M-Instruct", "site": _SITE, "text": "complaints"}
    return _Rows(rows.half(), tokens, str(store.manifest["shards"][0]["sha256"]), spec)


def _digits(limit: int, told: Told) -> _Rows:
    """scikit-learn's images of digits, for a run without a download; a row's kind is its class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rows = torch.from_numpy(found.data).float()[:limit]
    rows = rows - rows.mean(0)
    rows *= rows.shape[1] ** 0.5 / rows.norm(dim=1).mean()
    name = "scikit-learn digits"
    return _Rows(rows.half(), torch.from_numpy(found.target).long()[:limit], digest([name, limit]), {"set": name})


_SETS: Mapping[str, Callable[[int, Told], _Rows]] = MappingProxyType({"smollm2-l15": _smollm2, "digits": _digits})


@dataclass(frozen=True, eq=False)
class _Prepared:
    source: TensorSource
    fresh: Tensor
    anchors: Anchors
    spec: Mapping[str, Any]


@lru_cache(maxsize=1)
def _prepared(data: str, limit: int, k: int) -> _Prepared:
    found = _SETS[data](limit, lambda line: None)
    held = found.rows.shape[0] // 10
    train, kinds = found.rows[:-held], found.kinds[:-held]
    known, count = torch.unique(kinds, return_counts=True)
    inside = torch.isin(kinds, known[count.argsort(descending=True)[:k]])
    anchors = class_means(train[inside].float(), kinds[inside])
    source = TensorSource(train, digest=found.digest)
    return _Prepared(source, found.rows[-held:][:8192].float(), anchors, dict(found.spec) | {"held_out_rows": held})


@dataclass(frozen=True)
class RemedyJob(RealJob):
    """One remedy with one seed; `anchors` frequent kinds anchor some latents, `limit` rows are used."""

    study: ClassVar[str] = "real-resampling"
    anchors: int
    limit: int

    @property
    def built(self) -> Method:
        """The method with its start and remedy."""
        made = method(self.method)
        if self.arm != "tied start":
            made = replace(made, init=replace(made.init, encoder="random"))
        every = max(1, self.config.steps // 6)
        return with_resampling(made, Resample(every=every)) if self.arm == "resampling" else made

    @property
    def name(self) -> str:
        """The method and remedy in the record."""
        return f"topk-{self.arm.replace(' ', '_')}"

    @property
    def anchored(self) -> bool:
        """Whether frequent kinds anchor latents."""
        return self.arm == "anchoring"

    def prepare(self, told: Told) -> None:
        """Rows are harvested once."""
        _SETS[self.data](self.limit, told)

    def run(self, folder: Path, told: Callable[[int], None] | None = None) -> Path:
        """Train, score on rows no step saw, write the record; checkpoints lie under runs/."""
        ready = _prepared(self.data, self.limit, self.anchors)
        anchors = ready.anchors if self.anchored else None
        arm = self.arm.replace(" ", "_")
        run = RealRun(self.study, self.data, ready.spec, ready.source, self.built, self.n_q, self.config, anchors, arm)
        heard = [] if told is None else [lambda run, entry: told(run.step)]
        work = folder / "runs" / self.study

        def scores(result: Any) -> dict[str, Any]:
            return {"value": code_scores(result.model, ready.fresh, ready.fresh)}

        return folder / record_name(run_real(run, folder, scores, work, heard))


@dataclass(frozen=True)
class RemedySize:
    """Figure 7 at one size. A latent is dead when it has not fired for `window` rows."""

    data: str = "smollm2-l15"
    rows: int = 100_000
    n_q: int = 4608
    k: int = 8
    steps: int = 250
    batch: int = 256
    lr: float = 3e-3
    window: int = 10_000
    anchors: int = 64
    seeds: int = 3


REMEDY_SIZES: Mapping[str, RemedySize] = MappingProxyType(
    {
        "nano": RemedySize("digits", 1_797, 128, 4, 80, 64, 3e-3, 256, 5, 2),
        "mini": RemedySize(),
    }
)


def remedy_jobs(size: RemedySize, first: int = 0) -> list[RemedyJob]:
    """Seed by seed every remedy."""
    jobs = []
    for seed in range(first, first + size.seeds):
        config = FitConfig(
            steps=size.steps,
            batch_size=size.batch,
            lr=size.lr,
            seed=seed,
            dead_window=size.window,
            log_every=max(1, size.steps // 50),
            checkpoint_every=max(1, size.steps // 4),
            threads=1,
        )
        for arm in REMEDIES:
            text = f"topk(k={size.k})" if arm == "AuxK" else f"topk(k={size.k}, aux=0.0)"
            jobs.append(RemedyJob(size.data, text, arm, seed, config, size.n_q, size.anchors, size.rows))
    return jobs


def _jobs(scale: str, seeds: int | None) -> Sequence[RealJob]:
    size = REMEDY_SIZES[scale]
    return remedy_jobs(replace(size, seeds=seeds or size.seeds))


REAL_STUDIES.add(
    "figure7",
    RealStudy(
        "figure7",
        "Figure 7: dead latents on a real network, and what is done about them",
        _jobs,
        {
            "paper": "Llama-3.1-8B is in no package registry and n_q = 131072 wants a GPU; use mini, or "
            "--scale mini, which takes a smaller one",
            "mini-hard": "it has one size on real rows; use mini",
        },
    ),
)

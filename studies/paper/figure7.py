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
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import SDL, FitConfig, TensorSource, class_means, harvest, open_store
from monosem.base import cache_folder, digest
from monosem.bench import code_scores
from monosem.data import Store, TokenFilter
from monosem.methods import Method, method, with_resampling
from monosem.report import Arm, interval, paired, plain_axes, styles
from monosem.train import Resample
from studies.engine.cells import Cell, Results
from studies.engine.rows import Prepared, Rows, RowsRun
from studies.engine.study import Entry, Progress, Study
from studies.engine.tables import NONE, Table

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


def _activations(rows: int, progress: Progress) -> Store:
    """Rows of SmolLM2's residual stream, harvested once (the network in bfloat16, rows kept in float16)."""
    from studies.assets.models import smollm2

    folder = cache_folder() / "stores" / f"smollm2-complaints-l15-{rows}"
    if (folder / "manifest.json").exists():
        return open_store(folder)
    network, tokenizer = smollm2()
    network = network.to(torch.bfloat16)
    following = [0]

    def say(done: int, _: int) -> None:
        if done >= following[0]:
            progress(f"harvested {done:,} of {rows:,} rows")
            following[0] += 20_000

    keep = TokenFilter(first=1)
    return harvest(network, _SITE, _batches(tokenizer), folder, keep=keep, dtype="float16", rows=rows, progress=say)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of mean norm sqrt(n_p), centred, kept in float16, and a kind for each (its token, or its class)."""

    rows: Tensor
    kinds: Tensor
    digest: str
    spec: Mapping[str, Any]


def _smollm2(limit: int, progress: Progress) -> _Rows:
    store = _activations(limit, progress)
    rows = torch.cat([part for _, part in store.table(_SITE).chunks()])
    norms = rows.norm(dim=1)
    keep = norms < 10 * norms.median()  # one row a hundred times longer would outweigh all others of a batch
    progress(f"{int((~keep).sum())} of {store.rows:,} rows are longer than ten times the median: left out")
    rows = rows[keep] - rows[keep].mean(0)
    rows *= rows.shape[1] ** 0.5 / rows.norm(dim=1).mean()
    tokens = torch.from_numpy(np.asarray(store.tokens[0 : store.rows]).astype(np.int64))[keep]
    spec = {"model": "SmolLM2-135M-Instruct", "site": _SITE, "text": "complaints"}
    return _Rows(rows.half(), tokens, str(store.manifest["shards"][0]["sha256"]), spec)


def _digits(limit: int, progress: Progress) -> _Rows:
    """scikit-learn's images of digits, for a run without a download; a row's kind is its class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = torch.from_numpy(digits.data).float()[:limit]
    rows = rows - rows.mean(0)
    rows *= rows.shape[1] ** 0.5 / rows.norm(dim=1).mean()
    name = "scikit-learn digits"
    return _Rows(rows.half(), torch.from_numpy(digits.target).long()[:limit], digest([name, limit]), {"set": name})


_SETS: Mapping[str, Callable[[int, Progress], _Rows]] = MappingProxyType({"smollm2-l15": _smollm2, "digits": _digits})


@lru_cache(maxsize=1)
def _prepared(data: str, limit: int, k: int) -> Prepared:
    whole = _SETS[data](limit, lambda line: None)
    tenth = whole.rows.shape[0] // 10
    train, kinds = whole.rows[:-tenth], whole.kinds[:-tenth]
    known, count = torch.unique(kinds, return_counts=True)
    inside = torch.isin(kinds, known[count.argsort(descending=True)[:k]])
    anchors = class_means(train[inside].float(), kinds[inside])
    source = TensorSource(train, digest=whole.digest)
    return Prepared(source, whole.rows[-tenth:][:8192].float(), anchors, dict(whole.spec) | {"held_out_rows": tenth})


@dataclass(frozen=True)
class NetworkRows(Rows):
    """Rows of one site of a network; `anchors` frequent kinds can anchor latents."""

    limit: int
    anchors: int

    def make(self, folder: Path, progress: Progress) -> None:
        """Harvest what the cache does not hold."""
        _SETS[self.data](self.limit, progress)

    def prepared(self) -> Prepared:
        """The rows, ready for training."""
        return _prepared(self.data, self.limit, self.anchors)

    def scores(self, model: SDL, anchored: bool) -> Mapping[str, Mapping[str, Any]]:
        """The error and dead latents on rows no step saw."""
        fresh = self.prepared().fresh
        return {"value": code_scores(model, fresh, fresh)}


def _built(text: str, arm: str, steps: int) -> Method:
    """The method with its start and remedy."""
    made = method(text)
    if arm != "tied start":
        made = replace(made, init=replace(made.init, encoder="random"))
    return with_resampling(made, Resample(every=max(1, steps // 6))) if arm == "resampling" else made


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

    def entries(self) -> Iterator[Entry]:
        """Every remedy."""
        rows = NetworkRows(self.data, self.rows, self.anchors)
        config = FitConfig(
            steps=self.steps,
            batch_size=self.batch,
            lr=self.lr,
            dead_window=self.window,
            log_every=max(1, self.steps // 50),
            checkpoint_every=max(1, self.steps // 4),
            threads=1,
        )
        for arm in REMEDIES:
            text = f"topk(k={self.k})" if arm == "AuxK" else f"topk(k={self.k}, aux=0.0)"
            built, change = _built(text, arm, self.steps), arm.replace(" ", "_")
            anchored = arm == "anchoring"
            run = RowsRun("real-resampling", rows, text, arm, 0, config, self.n_q, built, anchored, change)
            yield Entry(self.data, arm, run)


SIZES: Mapping[str, RemedySize] = MappingProxyType(
    {"nano": RemedySize("digits", 1_797, 128, 4, 80, 64, 3e-3, 256, 5), "mini": RemedySize()}
)


def tables(results: Results) -> Sequence[Table]:
    """Per arm what died and what it cost, at the end of training and on fresh rows, with 95 % t intervals."""
    plain = next((cell.ran for cell in results.ran if cell.arm == REMEDIES[0]), None)
    lines = [(cell.row, cell.arm, cell.runs, *_numbers(cell, plain)) for cell in results.cells if results.ran]
    head = ("row", "arm", "runs", "highest", "at the end", "silent", "FVU", "against none")
    return [Table("Dead latents", head, tuple(lines))]


def _numbers(cell: Cell, plain: Arm | None) -> list[str]:
    if cell.ran is None:
        return [NONE] * 5
    dead = [record["training"]["dead"] for record in cell.ran.records]
    died, left = interval(map(max, dead)), interval(series[-1] for series in dead)
    shown = [died, left, cell.value("dead"), cell.value("fvu")]
    against = paired(plain.by_seed("fvu"), cell.ran.by_seed("fvu")) if plain and plain is not cell.ran else None
    numbers = [NONE if value is None else value.text() for value in shown]
    return [*numbers, NONE if against is None else against.text(sign=True)]


def figure(results: Results) -> Figure | None:
    """Two panels over training: the share of dead latents, and the error on the rows of the step."""
    cells = {cell.arm: cell.ran for cell in results.ran}
    if not cells:
        return None
    canvas = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for arm, style in zip(REMEDIES, styles(len(REMEDIES)), strict=True):
        ran = cells.get(arm)
        if ran is None:
            continue
        series = [record["training"] for record in ran.records]
        for axes, name in ((left, "dead"), (right, "fvu")):
            values, step = np.array([one[name] for one in series]), series[0]["step"]
            axes.plot(step, values.mean(0), color=style.colour, label=arm)
            axes.fill_between(step, values.min(0), values.max(0), color=style.colour, alpha=0.2, linewidth=0)
    left.set(xlabel="step", ylabel="share of latents that are dead", ylim=(0, None))
    right.set(xlabel="step", ylabel="FVU of the step's rows", yscale="log")
    right.set_yticks([0.3, 0.4, 0.6, 1.0, 2.0], ["0.3", "0.4", "0.6", "1", "2"])
    right.minorticks_off()
    for axes in (left, right):
        plain_axes(axes)
    left.set_title("Resampled latents mostly die again", loc="left")
    right.set_title("Resampling and a tied start end lowest", loc="left")
    canvas.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    return canvas


STUDY = Study(
    "figure7",
    "Figure 7: dead latents on a real network, and what is done about them",
    lambda scale: SIZES[scale.name].entries(),
    tables=tables,
    columns={
        "highest, at the end": "the share of latents that are dead, that have not fired for the window",
        "silent": "the share of latents that never fire on rows no step saw",
        "FVU": "fraction of variance unexplained on those rows",
        "against none": "FVU minus that of no remedy, paired by seed, ± half the 95 % t interval",
    },
    figure=figure,
    refused={
        "paper": "Llama-3.1-8B is in no package registry and n_q = 131072 wants a GPU; use mini, a smaller network",
        "mini-hard": "it has one size on real rows; use mini",
    },
    seeds=(0, 1, 2),
    packed="real-resampling",
)

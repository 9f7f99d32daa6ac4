"""Table 2 on real labelled rows: do anchors at half of the classes help to find the other half?

Class means stand in for true features (Tang et al. 2025, section 4). They are centred on the mean of all class means,
for anchors and for scores alike: raw ones nearly coincide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monosem import SDL, Anchors, FitConfig, TensorSource
from monosem.bench import class_scores, code_scores
from monosem.data import FileSource, Labels, class_anchors
from monosem.data import Table as RowTable
from monosem.methods import method
from monosem.report import GREY, PALETTE, plain_axes
from studies.engine.cells import Cell, Results
from studies.engine.rows import Prepared, Rows, RowsRun
from studies.engine.scale import Scale
from studies.engine.study import Entry, Progress, Study
from studies.engine.tables import NONE, Table, printed_text

METHODS = ("topk", "batch_topk", "matryoshka")
ARMS = ("plain", "anchored")
PRINTED = {
    ("topk", "plain"): (0.0, 0.517),
    ("topk", "anchored"): (24.13, 0.851),
    ("batch_topk", "plain"): (0.0, 0.508),
    ("batch_topk", "anchored"): (24.13, 0.847),
    ("matryoshka", "plain"): (0.0, 0.683),
    ("matryoshka", "anchored"): (24.45, 0.858),
}
"""CLIP embeddings of ImageNet-1K, 30 anchors. Source: Tang et al. (arXiv 2512.05534 v3), table 2."""

_Data = tuple[Tensor, Labels]


def _digits(_: int | None, progress: Progress) -> _Data:
    """1,797 images of digits [rows, 64], ten classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.data).float(), Labels(torch.from_numpy(digits.target).long(), tuple("0123456789"))


def _ada40(_: int | None, progress: Progress) -> _Data:
    """10,000 embeddings [rows, 1536] of trivia questions and their 40 categories."""
    from studies.assets.data import ada40

    return ada40()


def _newsgroups(limit: int | None, progress: Progress) -> _Data:
    """MiniLM vectors [rows, 384] of posts and their 20 groups; the first call computes them (minutes)."""
    from studies.assets.data import text_vectors

    rows, texts = text_vectors(
        "newsgroups", limit or 10_000, lambda done, of: progress(f"encoded {done:,} of {of:,} posts")
    )
    return rows, texts.single()


def _cifar10(limit: int | None, progress: Progress) -> _Data:
    """ResNet-50 features [rows, 2048] of CIFAR-10's test images at 128 pixels; the first call computes them."""
    from studies.assets.data import image_vectors

    return image_vectors(limit or 5_000, progress=lambda done, of: progress(f"encoded {done:,} of {of:,} images"))


SETS: Mapping[str, Callable[[int | None, Progress], _Data]] = MappingProxyType(
    {"ada40": _ada40, "newsgroups": _newsgroups, "cifar10": _cifar10, "digits": _digits}
)
"""Labelled rows by name; all but digits are fetched by `python -m studies fetch`."""


@dataclass(frozen=True, eq=False)
class _Classes(Prepared):
    """Labelled rows: the means of all classes, and which of them anchor latents."""

    means: Anchors
    anchored: Tensor


@lru_cache(maxsize=3)
def _prepared(data: str, limit: int | None) -> _Classes:
    """Rows in a keyed order, centred, of mean squared norm n_p; the last tenth is held out, half of the classes too."""
    rows, labels = SETS[data](limit, lambda line: None)
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(0))[:limit]
    rows, labels = rows[order], Labels(labels.codes[order], labels.names)
    rows = rows - rows.mean(0)
    rows = rows * (rows.shape[1] / rows.square().sum(1).mean()).sqrt()
    tenth = rows.shape[0] // 10
    whole = FileSource(RowTable(rows, Path(data)))
    means = class_anchors(whole, labels)
    anchored = torch.randperm(means.k, generator=torch.Generator().manual_seed(1))[: means.k // 2].sort().values
    names = [labels.names[c] for c in anchored.tolist()]
    spec = {"classes": means.k, "anchored": names, "held_out_rows": tenth}
    source = TensorSource(rows[:-tenth], digest=whole.digest)
    return _Classes(source, rows[-tenth:], class_anchors(whole, labels, names), spec, means, anchored)


@dataclass(frozen=True)
class LabelledRows(Rows):
    """Rows with classes, half of which anchor latents."""

    def make(self, folder: Path, progress: Progress) -> None:
        """Vectors of texts and images are computed once."""
        SETS[self.data](self.limit, progress)

    def prepared(self) -> _Classes:
        """The rows, ready for training."""
        return _prepared(self.data, self.limit)

    def scores(self, model: SDL, anchored: bool) -> Mapping[str, Mapping[str, Any]]:
        """Recovery of held-out, anchored and all classes apart, and the error on rows no step saw."""
        rows = self.prepared()
        scores: dict[str, Any] = dict(class_scores(model, rows.means, rows.anchored))
        scores["value"] = scores["value"] | code_scores(model, rows.fresh, rows.fresh)
        return {who: numbers for who, numbers in scores.items() if anchored or who != "anchors_alone"}


@dataclass(frozen=True)
class ClassSize:
    """Table 2 at one size: one set of labelled rows, how large the models are and how they are trained."""

    data: str
    n_q: int = 1024
    k: int = 16
    steps: int = 400
    batch: int = 256
    lr: float = 1e-3
    rows: int | None = None

    def entries(self) -> Iterator[Entry]:
        """Every method, plain and anchored."""
        config, rows = FitConfig(self.steps, self.batch, self.lr, threads=1), LabelledRows(self.data, self.rows)
        for name in METHODS:
            for arm in ARMS:
                text, anchored = f"{name}(k={self.k})", arm == "anchored"
                run = RowsRun("real-classes", rows, text, arm, 0, config, self.n_q, method(text), anchored)
                yield Entry(f"{self.data}, {name}", arm, run)


SIZES: Mapping[str, tuple[ClassSize, ...]] = MappingProxyType(
    {
        "nano": (ClassSize("digits", n_q=64, k=4, steps=40, rows=500),),
        "mini": (ClassSize("ada40"), ClassSize("cifar10", n_q=512, steps=300), ClassSize("newsgroups")),
    }
)


def _runs(scale: Scale) -> Iterator[Entry]:
    for size in SIZES[scale.name]:
        yield from size.entries()


_PARTS = ("held_out", "anchored", "all")
_HEAD = ("row", "arm", "runs", "paper", "held out", "anchored", "all")
_MORE = ("row", "arm", "held out >.8", "all >.8", "FVU", "gain", "beyond joined")


def _score(part: str, what: str = "M_IP") -> str:
    return f"{part}.decoder_cosine.{what}"


def tables(results: Results) -> Sequence[Table]:
    """Per set and method, plain and anchored: mean best |cos| of class means over held-out, anchored and all classes,
    and the gains on held-out classes, paired by seed; with them the paper's table (other rows: CLIP)."""
    first, more = [], []
    for data, cells in _sets(results).items():
        for cell in cells:
            printed = printed_text(*PRINTED[cell.method, cell.arm])
            first.append((cell.row, cell.arm, cell.runs, printed, *_means(cell, _PARTS)))
            more.append((cell.row, cell.arm, *_shares(cell), _mean(cell, "fvu"), *_gains(cell)))
        anchored = next((cell for cell in cells if cell.arm == "anchored"), None)
        for which, title in (("anchors_alone", "the anchors alone"), ("chance", "random directions")) * bool(anchored):
            assert anchored is not None
            row = f"{data}, untrained"
            first.append((row, title, NONE, NONE, *_means(anchored, _PARTS, which)))
            more.append((row, title, *_shares(anchored, which), NONE, NONE, NONE))
    return (Table("Classes found", _HEAD, tuple(first)), Table("Shares, error and gains", _MORE, tuple(more)))


def _sets(results: Results) -> dict[str, list[Cell]]:
    sets: dict[str, list[Cell]] = {}
    for cell in results.cells:
        sets.setdefault(cell.row.partition(",")[0], []).append(cell)
    return {data: cells for data, cells in sets.items() if any(cell.ran for cell in cells)}


def _mean(cell: Cell, metric: str, which: str = "value", form: str = ".3f") -> str:
    value = cell.value(metric, which)
    return NONE if value is None else f"{value.mean:{form}}"


def _means(cell: Cell, parts: Sequence[str], which: str = "value") -> list[str]:
    return [_mean(cell, _score(part), which) for part in parts]


def _shares(cell: Cell, which: str = "value") -> list[str]:
    return [_mean(cell, _score(part, "M_GT@0.8"), which, ".1%") for part in _PARTS[::2]]


def _gains(cell: Cell) -> list[str]:
    """On held-out classes, over the plain dictionary, and over that joined with the untrained anchors."""
    gains = [cell.gain(_score("held_out"), over=_score(part)) for part in ("held_out", "held_out_joined")]
    return [NONE if gain is None or cell.arm == "plain" else gain.text(sign=True) for gain in gains]


def figure(results: Results) -> Figure | None:
    """Per set a panel: held-out and all classes, plain and anchored; every seed a point."""
    sets = _sets(results)
    if not sets:
        return None
    canvas = Figure(figsize=(2.8 + 3.2 * len(sets), 3.4), layout="constrained")
    for axes, (data, cells) in zip(
        np.atleast_1d(canvas.subplots(1, len(sets), sharey=True)), sets.items(), strict=True
    ):
        for place, name in enumerate(METHODS):
            _points(axes, place, {cell.arm: cell for cell in cells if cell.method == name})
        first = max((cell for cell in cells if cell.ran), key=lambda cell: cell.arm == "anchored")
        _untrained(axes, first)
        assert first.ran is not None
        axes.set_title(f"{data}, {first.ran.records[0]['task']['spec']['classes']} classes")
        axes.set_xticks(range(len(METHODS)), METHODS)
        plain_axes(axes)
    canvas.axes[0].set(ylabel="best |cos| of a class mean, averaged", ylim=(0, 1))
    shown = [handle for handle in canvas.axes[-1].get_legend_handles_labels()[0] if handle.get_label()]
    canvas.axes[-1].legend(handles=shown, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return canvas


def _untrained(axes: Any, cell: Cell) -> None:
    for which, dashes in (("anchors_alone", "--"), ("chance", ":")):
        value = cell.value(_score("held_out"), which)
        if value is not None:
            label = f"{which.replace('_', ' ')}, held out"
            axes.axhline(value.mean, color=PALETTE[1], linestyle=dashes, label=label)


def _points(axes: Any, place: int, arms: Mapping[str, Cell]) -> None:
    for arm, part, colour, marker, shift, label in (
        ("plain", "held_out", GREY, "o", -0.26, "plain, held out"),
        ("plain", "held_out_joined", PALETTE[1], "D", -0.13, "plain joined with anchors, held out"),
        ("anchored", "held_out", PALETTE[0], "o", 0.0, "anchored, held out"),
        ("plain", "all", GREY, "s", 0.2, "plain, all"),
        ("anchored", "all", PALETTE[0], "s", 0.33, "anchored, all"),
    ):
        ran = arms[arm].ran
        y = list(ran.by_seed(_score(part)).values()) if ran else []
        x, fill = np.full(len(y), place + shift), "none" if part == "all" else colour
        axes.plot(x, y, marker, c=colour, mfc=fill, ms=5, label=label * (not place))


STUDY = Study(
    "table2",
    "Table 2: anchors from classes, on real labelled rows",
    _runs,
    tables=tables,
    columns={
        "paper": "M_GT in percent / M_IP as printed, on CLIP embeddings of ImageNet-1K, which we do not have",
        "held out, anchored, all": "mean best |cos| of a decoder column with the centred mean of a class, counted "
        "over the classes that anchor nothing, those that do, and both",
        ">.8": "the share of these classes above .8",
        "FVU": "fraction of variance unexplained on held-out rows",
        "gain": "held out, anchored minus plain, paired by seed, ± half the 95 % t interval",
        "beyond joined": "the same against the plain dictionary with the untrained anchors put next to it: what "
        "anchoring learned",
    },
    figure=figure,
    refused={
        "paper": "CLIP embeddings of ImageNet-1K are in no package registry; use mini, or anchor your own embeddings "
        "with `monosem anchors from-classes`",
        "mini-hard": "it has one size on real rows; use mini",
    },
    packed="real-classes",
)

"""Where a run's anchors come from: the truth, the truth spoilt or turned on one side, or the rows alone."""

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.anchors.directions import Anchors, AnchorWarning, load_anchors, true_features
from monosem.anchors.term import Anchoring, anchor_slots
from monosem.base.errors import ArgumentError, check
from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.base.spec import digest, parse_call
from monosem.bench.metrics import recall_precision
from monosem.bench.tasks import TaskSource
from monosem.methods import method, with_anchoring
from monosem.train.config import FitConfig
from monosem.train.loop import fit

FOUND_COSINE = 0.95
"""An anchor stands for a true feature when its decoder side exceeds this |cos|."""

ANCHOR_SETS: Registry[Callable[..., Anchors]] = Registry("set of anchors")
"""By name: (source, features, folder, ...) -> Anchors; `features` are the true features that the job may use."""


def anchor_set(text: str, source: TaskSource, features: Int[Tensor, " k"], folder: Path) -> Anchors:
    """The anchors that a text like "noisy(cosine=0.8)" names. Raises: as its arguments and the registry do."""
    name, arguments = parse_call(text)
    make = ANCHOR_SETS[name]
    known = list(inspect.signature(make).parameters)[3:]
    wrong = sorted(set(arguments) - set(known))
    if wrong:
        raise ArgumentError(f"{name} takes {', '.join(known) or 'no arguments'}, not {', '.join(wrong)}")
    return make(source, features, folder, **arguments)


@ANCHOR_SETS.register("true")
def _true(source: TaskSource, features: Tensor, folder: Path) -> Anchors:
    return true_features(source.W_p, source.W_r, features)


@ANCHOR_SETS.register("noisy")
def _noisy(source: TaskSource, features: Tensor, folder: Path, cosine: float = 0.9) -> Anchors:
    """True features turned in a random direction until their cosine with the truth is `cosine`, to rounding."""
    check(-1.0 <= cosine <= 1.0, f"cosine = {cosine} of noisy anchors is not a cosine; choose it between -1 and 1")
    p = _turned(source.W_p[:, features], cosine, source, "anchors/noise/p")
    same = source.task.reads == source.task.writes
    return Anchors(p, p if same else _turned(source.W_r[:, features], cosine, source, "anchors/noise/r"))


@ANCHOR_SETS.register("wrong")
def _wrong(source: TaskSource, features: Tensor, folder: Path, share: float = 0.1) -> Anchors:
    """True features, of which the first round(share * k) are replaced by random directions."""
    check(0.0 <= share <= 1.0, f"share = {share} of wrong anchors must lie in [0, 1]")
    count = round(share * features.numel())
    p, r = source.W_p[:, features].clone(), source.W_r[:, features].clone()
    p[:, :count] = _random(p[:, :count], source, "anchors/wrong/p")
    r[:, :count] = p[:, :count] if source.task.reads == source.task.writes else _random(r[:, :count], source, "wrong/r")
    return Anchors(p, r)


@ANCHOR_SETS.register("suppressing")
def _suppressing(source: TaskSource, features: Tensor, folder: Path) -> Anchors:
    """True features for the decoder; for the encoder their best linear detectors, Cov(x_p)^-1 w_p, from 8192 rows."""
    x_p = source.take(torch.arange(8192 if source.rows is None else min(8192, source.rows)))[0].double()
    p = torch.linalg.solve(x_p.T.cov(), source.W_p[:, features].double())
    return Anchors(p.float(), source.W_r[:, features])


@ANCHOR_SETS.register("learned")
def _learned(source: TaskSource, features: Tensor, folder: Path, text: str = "topk(k=6)", steps: int = 1000) -> Anchors:
    """True features for the decoder; for the encoder the rows that a run ends with which only held the decoder."""
    true = _true(source, features, folder)
    config = FitConfig(steps=steps, batch_size=256, lr=0.01, seed=source.task.world.seed)
    model = fit(with_anchoring(method(text), Anchoring()), source, source.task.n_q, config, true).model
    return Anchors(model.W_E.detach()[anchor_slots(model.layout, true.k)].T, true.r)


@ANCHOR_SETS.register("discovered")
def _discovered(source: TaskSource, features: Tensor, folder: Path) -> Anchors:
    """Found in the training rows alone; nothing of the truth is read, `features` neither."""
    return discovered_anchors(source, folder)


def discovered_anchors(source: TaskSource, folder: Path) -> Anchors:
    """Anchors found in a task's training rows, kept below folder/anchors so that every method of a study shares them.

    They are found in the first source that is read; where others are read or written, the same codes give their
    directions by least squares (dictionary.extend), so that one search serves all pairings of a world.
    """
    path = folder / "anchors" / f"{digest([source.task.digest, source.digest])[:16]}.safetensors"
    if path.exists():
        return load_anchors(path)
    from monosem.dictionary.coded import extend
    from monosem.dictionary.discover import discover

    check(source.rows is not None, "discovery needs a fixed set of rows; give the task's world a number of rows")
    rows = torch.arange(source.rows or 0)
    x_p, x_r = source.take(rows)
    if source.task.pairing == "sae":
        anchors = discover(x_p, seed=source.task.world.seed).confident()
    else:
        single = TaskSource(replace(source.task, pairing="sae"))
        read_anchors = discovered_anchors(single, folder)
        p, r = extend(read_anchors.p, single.take(rows)[0], x_p, x_r)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnchorWarning)
            anchors = Anchors(p, r, "discovered")
    anchors.save(path)
    return anchors


def anchors_against_truth(anchors: Anchors, source: TaskSource) -> dict[str, Any]:
    """How many anchors there are, which share of them is right, and which share of the features they stand for.

    Equation:
        as dictionary.found.recall_precision on the decoder sides at |cos| > .95: a second anchor of a feature is wrong
    """
    scores = recall_precision(anchors.r.double(), source.W_r.double(), FOUND_COSINE)
    return {"count": float(anchors.k), "precision": scores["precision"], "recall": scores["recall"]}


def _turned(columns: Float[Tensor, "width k"], cosine: float, source: TaskSource, stream: str) -> Tensor:
    """Unit columns at that cosine from the given ones: cos a + sin (a random unit direction orthogonal to a)."""
    a = torch.nn.functional.normalize(columns.double(), dim=0)
    away = _random(columns, source, stream).double()
    away = torch.nn.functional.normalize(away - a * (a * away).sum(0), dim=0)
    return (cosine * a + math.sqrt(1.0 - cosine**2) * away).float()


def _random(like: Float[Tensor, "width k"], source: TaskSource, stream: str) -> Tensor:
    drawn = torch.from_numpy(philox(source.task.world.seed, stream).standard_normal(tuple(like.shape))).float()
    return torch.nn.functional.normalize(drawn, dim=0)

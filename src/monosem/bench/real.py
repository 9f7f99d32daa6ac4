"""Runs on real representations, recorded like those of the bench; labelled classes stand in for true features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.errors import check
from monosem.base.plugins import loaded
from monosem.base.spec import digest, to_plain
from monosem.bench.folds import Coded, evaluate
from monosem.bench.metrics import TAUS, flatten, score
from monosem.bench.records import SCHEMA, SUFFIX, finished, metrics_table, read_records, record_name, write_record
from monosem.bench.task_scores import random_rows
from monosem.core.model import SDL
from monosem.core.pairs import Source
from monosem.methods import Method, name_of, numerics
from monosem.train.config import FitConfig
from monosem.train.loop import Callback, fit
from monosem.train.result import Result


@dataclass(frozen=True, eq=False)
class RealRun:
    """One training on rows that a name and a specification identify; `arm` names what was changed in the method."""

    study: str
    data: str
    spec: Mapping[str, Any]
    source: Source
    method: Method
    n_q: int
    config: FitConfig
    anchors: Anchors | None = None
    arm: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> dict[str, Any]:
        """What identifies the run, in the record's form."""
        plan = self.method.anchoring
        spec = dict(self.spec) | {"n_q": self.n_q, "rows": self.source.rows, "widths": list(self.source.p_widths)}
        anchors = self.anchors and {
            "kind": self.anchors.kind,
            "k": self.anchors.k,
            "weight": to_plain(plan.weight),
            "form": f"{plan.form}/{plan.sides}" + ("/hard" if plan.hard else ""),
            "init": plan.init,
        }
        name = name_of(self.method.spec)
        return {
            "schema": SCHEMA,
            "study": self.study,
            "task": {
                "name": f"real/{self.data}",
                "version": 1,
                "spec": spec,
                "hash": digest(spec),
                "data_digest": self.source.digest,
                "pairing": "sae",
            },
            "method": {"name": f"{name}{'-' * bool(self.arm)}{self.arm}", "spec": to_plain(self.method)} | loaded(),
            "numerics": numerics(self.method.spec),
            "anchors": anchors,
            "seed": {"world": 0, "train": self.config.seed},
            "config": to_plain(self.config) | dict(self.extra),
        }


def same_run(record: Mapping[str, Any], head: Mapping[str, Any]) -> bool:
    """Whether a record is of the run that `head` identifies: all of it the same, but that the version which wrote it
    may have lacked a field of the configuration, where the head then has the default."""
    usual = to_plain(FitConfig())
    config = {name: record["config"].get(name, usual.get(name)) for name in head["config"]}
    same = all(record[name] == head[name] for name in ("study", "task", "method", "anchors", "seed"))
    return same and config == head["config"]


def run_real(
    run: RealRun,
    folder: str | Path,
    scores: Callable[[Result], Mapping[str, Mapping[str, Any]]],
    work: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, score and write the record, or read the record that is there already.

    `scores` gives {"value": ..., "chance": ..., "anchors_alone": ...} as `metrics_table` takes them. With `work`, a
    folder for checkpoints, an interrupted run goes on. `callbacks` as in `fit`.
    """
    head = run.head
    path = Path(folder) / record_name(head)
    there = read_records(folder) if Path(folder).is_dir() else []
    known = next((record for record in there if same_run(record, head)), None)
    if known is not None:
        return known
    out = None if work is None else Path(work) / path.name.removesuffix(SUFFIX)
    result = fit(run.method, run.source, run.n_q, run.config, run.anchors, out=out, callbacks=callbacks)
    flat = {who: flatten(part) for who, part in scores(result).items()}
    numbers, curves = flat.pop("value")
    metrics = metrics_table(numbers, **{who: baseline for who, (baseline, _) in flat.items()})
    record = finished(head, result, metrics, _held_out_curves(curves))
    write_record(folder, record)
    return record


def _held_out_curves(curves: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The curves of held-out classes; empty ones where nothing was scored."""
    held_out = {name.rpartition(".")[2]: curve for name, curve in curves.items() if name.startswith("held_out.")}
    empty = ("tau", "encoder_raw", "encoder_cosine", "decoder_cosine", "decoder_signed")
    return {"tau": list(TAUS), **held_out} if held_out else {name: [] for name in empty}


def class_scores(
    model: SDL, means: Anchors, anchored: Int[Tensor, " k"], seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Recovery of class means, counted over held-out, anchored and all classes apart.

    Gives value, chance (as many random unit directions) and anchors_alone (the anchored means as whole dictionary).
    held_out_joined: the model with the anchors put beside it, untrained; what an anchored run reaches beyond a plain
    one joined with them was learned.
    """
    classes = torch.arange(means.k)
    held_out = classes[~torch.isin(classes, anchored)]
    check(held_out.numel() > 0, f"all {means.k} classes are anchored; leave some out to score on")
    groups = {"held_out": held_out, "all": classes} | ({"anchored": anchored} if anchored.numel() else {})

    def on(W_E: Tensor, W_D: Tensor) -> dict[str, dict[str, Any]]:
        return {name: score(W_E, W_D, means.p, means.r, features=group) for name, group in groups.items()}

    scores = {
        "value": on(model.W_E.detach(), model.W_D.detach()),
        "chance": on(
            random_rows(model.n_q, means.p.shape[0], seed, "chance/encoder"),
            random_rows(model.n_q, means.r.shape[0], seed, "chance/decoder").T,
        ),
    }
    if anchored.numel():
        W_E, W_D = (
            torch.cat([model.W_E.detach(), means.p[:, anchored].T]),
            torch.cat([model.W_D.detach(), means.r[:, anchored]], 1),
        )
        scores["value"]["held_out_joined"] = score(W_E, W_D, means.p, means.r, features=held_out)
        scores["anchors_alone"] = on(means.p[:, anchored].T, means.r[:, anchored])
    return scores


def code_scores(model: SDL, x_p: Float[Tensor, "rows n_p"], x_r: Float[Tensor, "rows n_r"]) -> dict[str, float]:
    """FVU, L0 and the share of latents that never fire, on rows that were not trained on."""
    with torch.no_grad():
        pairs = zip(torch.split(x_p, 1024), torch.split(x_r, 1024), strict=True)
        return evaluate(Coded(y, out.x_r_hat, out.code) for y, out in ((y, model(x)) for x, y in pairs))

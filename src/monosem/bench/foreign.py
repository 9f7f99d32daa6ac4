"""A dictionary that was trained elsewhere: its record on a task, and the task's rows for its trainer."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.base.errors import ShapeError, check
from monosem.base.files import write_atomic, write_json
from monosem.base.spec import to_plain
from monosem.bench.metrics import TAUS, flatten
from monosem.bench.records import LOGGED, SCHEMA, environment, metrics_table, results_digest, write_record
from monosem.bench.task_scores import chance, evaluate_model, oracle, similarity_map
from monosem.bench.tasks import TaskSource
from monosem.core.model import SDL


def foreign_record(
    model: SDL, source: TaskSource, name: str, about: str, *, held_out: int | None = None, rows: int = 8192
) -> dict[str, Any]:
    """The record of a model that was trained elsewhere: scores, chance and oracle as of any run, and an empty log.

    `name` stands where a method's name does, in the report as well; `about` says where the model is from. A record of
    the same name, task, world and sizes replaces an older one.
    Raises: ShapeError when the model has not the task's widths.
    """
    value, started = source.task, time.perf_counter()
    have, wanted = (model.layout.n_p, model.layout.n_r), (sum(source.p_widths), sum(source.r_widths))
    check(
        have == wanted,
        f"{name} has (n_p, n_r) = {have}, {value.name} as {value.pairing} has {wanted}; choose the model's own task",
        ShapeError,
    )
    left_out = value.anchors if held_out is None else held_out
    features = value.scored(left_out)
    scores = evaluate_model(model, source, features, rows)
    references = {"chance": chance(source, features=features), "oracle": oracle(source, rows=min(rows, 1024))}
    record = {
        "schema": SCHEMA,
        "study": "foreign",
        "task": {
            "name": value.name,
            "version": value.version,
            "spec": to_plain(value),
            "hash": value.digest,
            "data_digest": source.digest,
            "pairing": value.pairing,
        },
        "method": {"name": name, "spec": about},
        "numerics": 1,
        "anchors": None,
        "seed": {"world": value.world.seed, "train": 0},
        "config": {"steps": 0, "held_out": left_out, "n_q": model.W_E.shape[0], "rows": rows},
        "metrics": metrics_table(scores, **references),
        "curves": {"tau": list(TAUS), **flatten(scores)[1]},
        "similarity": similarity_map(model.W_D.detach(), source.W_r, features),
        "training": {series: [] for series in LOGGED},
        "env": environment(),
        "wall_time_s": time.perf_counter() - started,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return record | {"digest": results_digest(record, model)}


def write_foreign(folder: str | Path, record: dict[str, Any]) -> Path:
    """Write such a record where `monosem report` finds it."""
    return write_record(folder, record)


def export_rows(source: TaskSource, folder: str | Path, rows: int | None = None) -> list[Path]:
    """A task's training rows as files for other trainers: x_p.npy, x_r.npy where it differs, and task.json.

    `rows`: how many (None: all of a fixed set). The truth stays here, and so do the rows that models are scored on.
    Raises: ArgumentError for a stream without a number of rows.
    """
    count = source.rows if rows is None else rows
    check(count is not None, f"{source.task.name} is an endless stream; say how many rows to write")
    assert count is not None
    check(source.rows is None or count <= source.rows, f"rows = {count} but {source.task.name} has {source.rows}")
    x_p, x_r = source.take(torch.arange(count))
    folder = Path(folder)
    written = [_write_array(folder / "x_p.npy", x_p)]
    if x_r is not x_p:
        written.append(_write_array(folder / "x_r.npy", x_r))
    about = {"task": source.task.name, "version": source.task.version, "pairing": source.task.pairing, "rows": count}
    about |= {"world": source.task.world.seed, "data_digest": source.digest, "n_q": source.task.n_q}
    return [*written, write_json(folder / "task.json", about)]


def _write_array(path: Path, x: torch.Tensor) -> Path:
    """float32 rows as .npy, whole or not at all."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, x.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, buffer.getvalue())

"""Records: one JSON file per run, of a documented and versioned schema (docs/records.md)."""

import hashlib
import math
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from monosem.base.errors import CheckpointError, DataError, check, shortened
from monosem.base.files import read_json, write_json
from monosem.base.machine import cpu_features, cpu_name
from monosem.base.schema import AtLeast, read
from monosem.base.spec import canonical, digest
from monosem.base.version import __version__
from monosem.bench.metrics import flatten
from monosem.bench.packed import PACKED, read_packed, write_packed
from monosem.kernels.ops import kernel_hash
from monosem.methods import numerics
from monosem.train.result import Result

SCHEMA = 2
"""The version that this code writes."""
READABLE = (1, 2)
"""The versions that it reads: records of version 1 lack the fields of NEW_IN_2."""
SUFFIX = ".record.json"

_NUMBER = (int, float)
FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "schema": int,
    "study": str,
    "task": dict,
    "task.name": str,
    "task.version": int,
    "task.spec": dict,
    "task.hash": str,
    "task.data_digest": str,
    "task.pairing": str,
    "method": dict,
    "method.name": str,
    "method.spec": (dict, str),
    "numerics": int,
    "anchors": (dict, type(None)),
    "anchors.kind": str,
    "anchors.k": int,
    "anchors.weight": (int, float, str, dict),
    "anchors.form": str,
    "anchors.init": bool,
    "seed": dict,
    "seed.world": int,
    "seed.train": int,
    "config": dict,
    "metrics": dict,
    "curves": dict,
    "curves.tau": list,
    "curves.encoder_raw": list,
    "curves.encoder_cosine": list,
    "curves.decoder_cosine": list,
    "curves.decoder_signed": list,
    "similarity": (dict, type(None)),
    "training": dict,
    "training.step": list,
    "training.loss": list,
    "training.fvu": list,
    "training.l0": list,
    "training.dead": list,
    "env": dict,
    "env.python": str,
    "env.torch": str,
    "env.numpy": str,
    "env.monosem": str,
    "env.platform": str,
    "env.cpu": str,
    "env.threads": int,
    "env.features": list,
    "env.kernels": str,
    "env.commit": (str, type(None)),
    "digest": str,
    "wall_time_s": _NUMBER,
    "created": str,
}
"""Every required field by dotted name, and its JSON type. Fields of anchors only where anchors is not null."""
NEW_IN_2 = ("numerics", "env.features", "env.kernels", "digest")
"""Fields that version 1 did not require."""

LOGGED = ("step", "loss", "fvu", "l0", "dead")
"""What of a training log every record keeps."""
_KIND = "runs"
_SHARED = ("task", "method", "anchors", "config", "env", "curves.tau", "training.step")
"""Parts that many runs of a packed file have in common."""
_COLUMNS = {"value", "chance", "oracle", "anchors_alone"}
_IDENTITY = ("study", "task.name", "task.version", "task.hash", "task.pairing", "method", "anchors", "seed", "config")


def environment() -> dict[str, Any]:
    """Versions, processor and what it can do, threads, kernels, and the commit if run from the package's checkout."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "monosem": __version__,
        "platform": f"{sys.platform}-{platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "features": list(cpu_features()),
        "kernels": kernel_hash(),
        "commit": _commit(Path(__file__)),
    }


def metrics_table(value: Mapping[str, Any], **baselines: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The `metrics` of a record from nested scores: each number of `value` with the same number of the baselines.

    `baselines` may hold chance, oracle and anchors_alone; chance is null where it has no such number.

    Example:
        >>> metrics_table({"decoder_cosine": {"M_IP": 0.9}, "l0": 4.0}, chance={"decoder_cosine": {"M_IP": 0.2}})
        {'decoder_cosine.M_IP': {'value': 0.9, 'chance': 0.2}, 'l0': {'value': 4.0, 'chance': None}}
    """
    unknown = set(baselines) - _COLUMNS
    check(not unknown, f"unknown baselines {sorted(unknown)}; known: {sorted(_COLUMNS - {'value'})}")
    others = {name: flatten(_numbers(result))[0] for name, result in baselines.items()}
    table: dict[str, dict[str, float | None]] = {}
    for name, number in flatten(_numbers(value))[0].items():
        table[name] = {"value": _finite(number), "chance": _finite(others.get("chance", {}).get(name))}
        table[name] |= {who: _finite(other[name]) for who, other in others.items() if who != "chance" and name in other}
    return table


def validate(record: Mapping[str, Any]) -> None:
    """Check a record against the schema.

    Raises:
        CheckpointError: it has another schema version.
        DataError: a field is missing, unknown or of the wrong type; the message names it.
    """
    version = record.get("schema")
    if version not in READABLE or isinstance(version, bool):
        have = shortened(repr(version), 80)
        raise CheckpointError(f"record has schema {have}, this monosem reads {READABLE}; use the version that wrote it")
    _check_fields(record)
    _check_numbers(record)
    _check_inner(record)


def _check_fields(record: Mapping[str, Any]) -> None:
    """Every required field is there and of its type, and no other."""
    for path, kind in FIELDS.items():
        if path.startswith("anchors.") and record["anchors"] is None:
            continue
        if record["schema"] == 1 and path in NEW_IN_2:
            continue
        value = _get(record, path)
        wrong = isinstance(value, bool) and kind is not bool
        if wrong or not isinstance(value, kind):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise DataError(f"record field {path} is {shortened(repr(value), 80)}, not {wanted}; see docs/records.md")
    unknown = set(record) - {path.partition(".")[0] for path in FIELDS}
    check(not unknown, f"record has unknown fields {sorted(unknown)}; raise the schema to add one", DataError)


@dataclass(frozen=True)
class _Similarity:
    feature: list[int]
    latent: list[int]
    cosine: list[list[float]]


@dataclass(frozen=True)
class _Inner:
    """Parts whose readers go deeper than FIELDS."""

    world: dict[str, Any]
    similarity: _Similarity | None
    features: list[str]
    wall_time_s: Annotated[float, AtLeast(0)]


def _check_inner(record: Mapping[str, Any]) -> None:
    parts = {"world": record["task"]["spec"].get("world", {}), "features": record["env"].get("features", [])}
    parts |= {name: record[name] for name in ("similarity", "wall_time_s")}
    similarity = read(_Inner, parts, "record", DataError).similarity
    widths = {len(row) for row in similarity.cosine} if similarity else {1}
    check(len(widths) == 1, "record field similarity.cosine has rows of several lengths", DataError)


def _check_numbers(record: Mapping[str, Any]) -> None:
    """Scores, curves and the log hold finite numbers or nulls, as many as they should."""
    for name, row in record["metrics"].items():
        names = {"value", "chance"}
        fine = isinstance(row, dict) and names <= set(row) <= _COLUMNS and all(map(_is_number, row.values()))
        check(
            fine,
            f"metrics.{name} is {shortened(repr(row), 80)}; it needs finite numbers or null for value and chance",
            DataError,
        )
    for group, first in (("curves", "tau"), ("training", "step")):
        for name, series in record[group].items():
            length = len(record[group][first])
            fine = isinstance(series, list) and len(series) == length and all(map(_is_number, series))
            check(fine, f"{group}.{name} must be {length} finite numbers or nulls, as many as {first}", DataError)


def finished(
    head: Mapping[str, Any],
    result: Result,
    metrics: Mapping[str, Any],
    curves: Mapping[str, Any],
    similarity: Mapping[str, Any] | None = None,
    watched: Sequence[str] = (),
) -> dict[str, Any]:
    """The record of a training: its identity, scores, log (with the series of `watched`) and the results' digest."""
    record = {
        **head,
        "metrics": metrics,
        "curves": curves,
        "similarity": similarity,
        "training": {name: [entry[name] for entry in result.log] for name in (*LOGGED, *watched)},
        "env": environment(),
        "wall_time_s": result.seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return record | {"digest": results_digest(record, result.model)}


def identity(record: Mapping[str, Any]) -> str:
    """sha256 of what identifies a run: study, task, method, anchors, seeds and config; results do not matter."""
    return hashlib.sha256(canonical({path: _get(record, path) for path in _IDENTITY}).encode()).hexdigest()


def results_digest(record: Mapping[str, Any], model: torch.nn.Module | None = None) -> str:
    """One sha256 of all that came out of a run, at full precision: metrics, curves, training log and final weights.

    Two runs with equal digests gave the same bits. Without a model the weights are left out.
    """
    results = canonical({name: record[name] for name in ("metrics", "curves", "training")})
    total = hashlib.sha256(results.encode())
    for name, weights in sorted(model.state_dict().items()) if model is not None else ():
        total.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        total.update(weights.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def outdated(records: Iterable[Mapping[str, Any]]) -> str:
    """Which methods' records are of an older numerics than today's, in words; empty where none is.

    Records of schema 1 count as numerics 1.
    """
    versions: dict[tuple[str, int, int], int] = {}
    for record in records:
        spec = record["method"]["spec"]
        made, now = record.get("numerics", 1), numerics(spec if isinstance(spec, str) else str(spec.get("spec", "")))
        if made != now:
            key = (record["method"]["name"], made, now)
            versions[key] = versions.get(key, 0) + 1
    return ", ".join(f"{n} of {name} with numerics {made}, now {now}" for (name, made, now), n in versions.items())


def record_name(record: Mapping[str, Any]) -> str:
    """The file name of a run: readable, and unique by its identity. A record without results serves too."""
    anchors, seed, task = record["anchors"], record["seed"], record["task"]
    words = [task["name"], task["pairing"], record["method"]["name"], f"k{anchors['k']}" if anchors else "plain"]
    words += [f"w{seed['world']}", f"t{seed['train']}", identity(record)[:12]]
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", str(word)) for word in words) + SUFFIX


def write_record(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Validate a record and write it whole under its own name, with a sha256 of all of it; it replaces an older one."""
    validate(record)
    return write_json(Path(folder) / record_name(record), {**record, "sha256": digest(dict(record))})


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Every run of a packed file, or of a folder with loose records, packed files or both below it; sorted by name.

    Of several records of one run the last made counts.

    Raises:
        CheckpointError: a file is damaged or of another schema; the message names it, its line and the remedy.
        DataError: there is no such file or folder, or a record breaks the schema.
    """
    path = Path(path)
    check(path.exists(), f"{path} is neither a folder of records nor a packed file of them", DataError)
    packed = sorted(path.rglob(f"*{PACKED}")) if path.is_dir() else [path]
    loose = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else []
    every = [record for file in packed for record in _read_packed(file)] + [read_record(file) for file in loose]
    return merged(every)


def merged(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records sorted by name, one a run: the last made, and of two made together the last in order."""
    runs: dict[str, dict[str, Any]] = {}
    for record in records:
        name = record_name(record)
        if name not in runs or record["created"] >= runs[name]["created"]:
            runs[name] = record
    return [runs[name] for name in sorted(runs)]


def read_record(path: str | Path) -> dict[str, Any]:
    """One loose record. Raises: as `read_records`."""
    record = read_json(path)
    check(isinstance(record, dict), f"{path} is not a record; restore it or delete it", CheckpointError)
    said = record.pop("sha256", None)  # older versions left it out
    whole = _valid(record, str(path))
    altered = said is not None and said != digest(record)
    check(not altered, f"{path} was altered since it was written; restore it or delete it", CheckpointError)
    return whole


def pack_records(
    path: str | Path, records: Iterable[Mapping[str, Any]], maps: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Write runs as one packed file, beside those it holds already; returns all of them as they will be read.

    Numbers keep their full precision. A heat map is kept for the first run of every arm of the studies in `maps` and
    of those that the file names already. Records of schema 1 get the digest of their results, without weights.
    """
    path = Path(path)
    before = read_packed(path, _KIND).header if path.exists() else {}
    maps = sorted({*maps, *before.get("maps", ())})
    kept = merged([*(_read_packed(path) if path.exists() else ()), *map(dict, records)])
    drawn: set[str] = set()
    for record in kept:
        record.setdefault("digest", results_digest(record))
        arm = arm_key(record)
        if record["study"] not in maps or arm in drawn:
            record["similarity"] = None
        elif record["similarity"] is not None:
            drawn.add(arm)
    write_packed(path, _KIND, kept, _SHARED, "metrics", maps=maps)
    return kept


def arm_key(record: Mapping[str, Any]) -> str:
    """What runs of one arm have in common: study, task, method, anchors and configuration, all but their seeds."""
    task, config = record["task"], {name: value for name, value in record["config"].items() if name != "seed"}
    spec = dict(task["spec"])
    if isinstance(spec.get("world"), Mapping):
        spec["world"] = {name: value for name, value in spec["world"].items() if name != "seed"}
    one = [record["study"], task["name"], task["version"], task["pairing"], spec]
    return canonical([*one, record["method"], record["anchors"], config])


def _read_packed(path: Path) -> list[dict[str, Any]]:
    return [_valid(record, f"{path}, line {line}") for line, record in read_packed(path, _KIND).lines]


def _valid(record: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        validate(record)
        canonical({name: record[name] for name in ("task", "method", "anchors", "seed", "config", "env")})
    except (CheckpointError, DataError) as error:
        raise type(error)(f"{where}: {error}") from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DataError(f"{where}: its specification is damaged ({shortened(str(error))}); restore it") from None
    return record


def _get(record: Mapping[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise DataError(f"record field {path} is missing; see docs/records.md")
        value = value[name]
    return value


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """A nested score without its words (a solver's name is not a metric)."""
    return {name: value for name, value in result.items() if not isinstance(value, str)}


def _finite(number: float | None) -> float | None:
    return number if number is None or math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value))


def _commit(file: Path) -> str | None:
    """The commit of the checkout that tracks `file`, with "+dirty" if its tree is changed; None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", str(file.parents[1])) else "")
    except (OSError, subprocess.SubprocessError):
        return None

"""Records made up for the report's tests: valid by the schema, numbers chosen, nothing trained."""

from pathlib import Path
from typing import Any

from monosem.base.spec import to_plain
from monosem.bench.metrics import TAUS, THRESHOLDS
from monosem.bench.records import SCHEMA, write_record
from monosem.bench.tasks import task
from monosem.methods import method


def sample(
    spec: str = "topk(k=4)",
    *,
    value: float = 0.5,
    anchors: int = 0,
    seed: int = 0,
    name: str = "lrb/mini",
    pairing: str = "sae",
    steps: int = 100,
    weight: float = 0.1,
    beside: bool = True,
) -> dict[str, Any]:
    """One record whose every similarity has M_GT = `value` at every threshold."""
    where = task(name, pairing, seed)
    stands = {"chance": 0.125, "oracle": 0.75} | ({"anchors_alone": 0.25} if anchors else {}) if beside else {}
    metrics: dict[str, dict[str, float | None]] = {}
    for kind in ("encoder_raw", "encoder_cosine", "decoder_cosine", "decoder_signed"):
        for tau in THRESHOLDS:
            metrics[f"{kind}.M_GT@{tau}"] = {"value": value, "chance": None, **stands}
        metrics[f"{kind}.M_IP"] = {"value": 0.5 + value / 2, "chance": None, **stands}
    for other, number in (("l0", 4.0), ("true_l0", 1.25), ("fvu", 0.1), ("dead", 0.25), ("matched_mcc.all", 0.5)):
        metrics[other] = {"value": number, "chance": None, **stands}
    curve = [min(1.0, value + (1 - tau) / 2) for tau in TAUS]
    built = method(spec)
    return {
        "schema": SCHEMA,
        "study": "bench",
        "task": {
            "name": name,
            "version": where.version,
            "spec": to_plain(where),
            "hash": where.digest,
            "data_digest": "0123456789abcdef",
            "pairing": pairing,
        },
        "method": {"name": spec.partition("(")[0], "spec": built.spec},
        "numerics": 1,
        "anchors": {"kind": "true_features", "k": anchors, "weight": weight, "form": "printed/both", "init": True}
        if anchors
        else None,
        "seed": {"world": seed, "train": seed},
        "config": {"steps": steps, "seed": seed, "held_out": 12},
        "metrics": metrics,
        "curves": {"tau": list(TAUS)}
        | dict.fromkeys(("encoder_raw", "encoder_cosine", "decoder_cosine", "decoder_signed"), curve),
        "similarity": {"feature": [0, 1], "latent": [5, 7], "cosine": [[1.0, 0.1], [-0.2, 0.9]]},
        "training": {
            "step": [1, steps],
            "loss": [2.0, 1.0],
            "fvu": [1.0, 0.1],
            "l0": [9.0, 4.0],
            "dead": [0.0, 0.25],
        },
        "env": {
            "python": "3.11",
            "torch": "2.13",
            "numpy": "2",
            "monosem": "0.1.0",
            "platform": "linux",
            "cpu": "a <processor>",
            "threads": 1,
            "features": ["avx2"],
            "kernels": "none",
            "commit": None,
        },
        "digest": "0123456789abcdef",
        "wall_time_s": 1.5,
        "created": "2026-01-01T00:00:00+00:00",
    }


def samples(seeds: int = 3) -> list[dict[str, Any]]:
    """Two methods and a crosscoder, plain and anchored, over some seeds; anchored is 0.2 better, the same each time."""
    cases = (("topk(k=4)", "sae", 0.4), ("relu_l1", "sae", 0.1), ("topk_crosscoder(k=4)", "crosscoder", 0.7))
    return [
        sample(spec, value=value + 0.05 * seed + 0.2 * bool(anchors), anchors=anchors, seed=seed, pairing=pairing)
        for spec, pairing, value in cases
        for seed in range(seeds)
        for anchors in (0, 12)
    ]


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    """The folder, with a file per record."""
    for record in records:
        write_record(folder, record)
    return folder

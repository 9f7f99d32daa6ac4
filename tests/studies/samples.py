"""Made-up outcomes of studies: the real jobs' heads, numbers chosen, nothing trained."""

from collections.abc import Callable
from typing import Any

from monosem.bench.metrics import TAUS
from monosem.bench.run import Job, job_head
from studies.engine.bench import BenchRun
from studies.engine.cells import Results
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study

ENV: dict[str, object] = {
    "python": "3",
    "torch": "2",
    "numpy": "2",
    "monosem": "0",
    "platform": "x",
    "cpu": "a cpu",
    "threads": 1,
    "features": [],
    "kernels": "none",
}
STEPS = [1, 50, 100]


def made(job: Job, share: float, *, alone: float = 0.25, everywhere: float | None = None) -> dict[str, Any]:
    """A record of a job: M_GT = `share` (over all features: `everywhere`), M_IP = (1 + M_GT) / 2, raw ones half."""
    metrics: dict[str, dict[str, float | None]] = {}
    whole = share if everywhere is None else everywhere
    for prefix, value in (("", share), ("all.", whole)):
        for kind, factor in (("decoder_cosine", 1.0), ("encoder_raw", 0.5), ("encoder_cosine", 0.8)):
            beside: dict[str, float | None] = {"chance": 0.125}
            if job.anchored:
                beside["anchors_alone"] = alone
            metrics[f"{prefix}{kind}.M_GT@0.95"] = {"value": factor * value, **beside}
            metrics[f"{prefix}{kind}.M_IP"] = {"value": factor * (1 + value) / 2, **beside}
    for name, number in (("fvu", 0.5), ("l0", 7.25), ("true_l0", 2.0), ("dead", 0.0)):
        metrics[name] = {"value": number, "chance": None}
    if job.anchored:
        for name, number in (("count", 20.0), ("precision", 0.9), ("recall", 0.75)):
            metrics[f"anchors.{name}"] = {"value": number, "chance": None}
    curve = [min(1.0, share + (1 - tau) / 2) for tau in TAUS]
    kinds = ("encoder_raw", "encoder_cosine", "decoder_cosine", "decoder_signed")
    growing = {name: [start, (start + end) / 2, end] for name, start, end in (("fvu", 1.0, 0.1), ("M_GT", 0.0, share))}
    flat = {name: [1.0] * len(STEPS) for name in ("loss", "l0", "dead", "M_IP")}
    return job_head(job, None) | {
        "metrics": metrics,
        "curves": {"tau": list(TAUS), **dict.fromkeys(kinds, curve)},
        "similarity": {"feature": [0, 1], "latent": [5, 7], "cosine": [[1.0, 0.1], [-0.2, share]]},
        "training": {"step": STEPS, **growing, **flat},
        "env": {**ENV, "commit": None},
        "digest": "0123456789abcdef",
        "wall_time_s": 3600.0,
        "created": "2026-01-01T00:00:00+00:00",
    }


def results_of(study: Study, scale: Scale, share: Callable[[Entry, int], float | None], alone: float = 0.25) -> Results:
    """Every run of a study with a made-up record, None where `share(entry, world)` is."""
    outcomes = []
    for entry in study.entries(scale):
        assert isinstance(entry.run, BenchRun)
        value = share(entry, entry.run.seed)
        outcomes.append((entry, None if value is None else made(entry.run, value, alone=alone)))
    return Results(study, scale, outcomes)


def bench_runs(study: Study, scale: Scale, seeds: int | None = None) -> list[tuple[Entry, BenchRun]]:
    """The entries of a study on the bench, with their runs."""
    return [(entry, entry.run) for entry in study.entries(scale, seeds) if isinstance(entry.run, BenchRun)]

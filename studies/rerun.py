"""Run random cells of the committed records again and compare: python -m studies rerun [--study NAME] [-k K].

Where processor features, kernels, torch, numpy and threads are those of the record, the digests must agree: the same
bits. Elsewhere, and where the record is of an older numerics, the scores must agree within the interval over seeds.
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from monosem.base import ArgumentError
from monosem.bench import Job, arm_key, job_head, plan, read_record, read_records, results_digest, run_job
from monosem.cli.console import fail, out
from monosem.report import interval_of
from studies.catalog import STUDIES
from studies.engine.bench import BenchRun, run_key
from studies.engine.scale import SCALES
from studies.stored import packed

SCORES = ("decoder_cosine.M_GT@0.95", "decoder_cosine.M_IP", "fvu")
"""What is compared where bits need not agree."""
LEAST = 0.02
"""By how much a score may differ where the interval over seeds is narrower, or there is one seed."""
_SAME = ("features", "kernels", "torch", "numpy", "threads", "platform")
_BENCHES: Mapping[str, Callable[[], list[Job]]] = {
    "bench-mini-hard": lambda: plan("lrb/mini-hard", seeds=6),
    "bench-mini": lambda: plan("lrb/mini", anchors=0, anchored=False),
    "bench-hierarchy": lambda: plan("lrb/hierarchy", seeds=5, among=("parents", "children")),
}


@dataclass(frozen=True, eq=False)
class Cell:
    """A job, its record, and the records of its arm."""

    job: Job
    record: Mapping[str, Any]
    arm: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether a run agrees with its record, and what was compared."""

    agrees: bool
    text: str


def studied() -> Iterator[tuple[str, str, list[Job]]]:
    """Every study that can be run again: its name, the packed file of its records, its jobs."""
    for name, jobs in _BENCHES.items():
        yield name, name, jobs()
    for name, study in STUDIES.items():
        for scale in SCALES.values():
            with suppress(ArgumentError):  # it has no runs at this scale
                runs = [entry.run for entry in study.entries(scale)]
                yield name, f"study-{scale.name}", [run for run in runs if isinstance(run, BenchRun)]


def cells(jobs: list[Job], records: list[dict[str, Any]]) -> list[Cell]:
    """The jobs that have a record."""
    by_key = {run_key(record): record for record in sorted(records, key=lambda record: str(record["created"]))}
    arms: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        arms.setdefault(arm_key(record), []).append(record)
    recorded = ((job, by_key.get(run_key(job_head(job, None)))) for job in jobs)
    return [Cell(job, record, tuple(arms[arm_key(record)])) for job, record in recorded if record is not None]


def compared(cell: Cell, again: Mapping[str, Any]) -> Verdict:
    """A run beside its record."""
    old = cell.record
    if old["schema"] == 1:
        if results_digest(again) == old["digest"]:
            return Verdict(True, "same bits in every score; weights, processor features and kernels were not recorded")
        return _within(cell, again, "processor features and kernels were not recorded")
    if old["numerics"] != again["numerics"]:
        return _within(cell, again, f"numerics {old['numerics']}, now {again['numerics']}")
    other = [name for name in _SAME if old["env"][name] != again["env"][name]]
    if other:
        return _within(cell, again, f"other {'processor' if 'features' in other else ', '.join(other)}")
    same = old["digest"] == again["digest"]
    return Verdict(same, "same bits" if same else "OTHER BITS on the same processor and kernels; raise its numerics?")


def _within(cell: Cell, again: Mapping[str, Any], why: str) -> Verdict:
    wrong = []
    for score in SCORES:
        old, new = (record["metrics"][score]["value"] for record in (cell.record, again))
        spread = interval_of(record["metrics"][score]["value"] for record in cell.arm)
        allowed = max(LEAST, (spread and spread.half) or 0.0)
        if old is None or new is None or abs(new - old) > allowed:
            wrong.append(f"{score} {old} became {new}, more than {allowed:.3f} away")
    return Verdict(not wrong, f"{why}: {'; '.join(wrong) or f'scores agree over {len(cell.arm)} seeds'}")


def rerun(
    study: Annotated[list[str] | None, typer.Option(help="Only this study; repeat it.", show_default=False)] = None,
    k: Annotated[int, typer.Option("-k", help="Cells of every study.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    most: Annotated[float, typer.Option(help="Skip runs whose record took longer than so many seconds.")] = 60.0,
) -> None:
    """Run random cells of the committed records again, and compare: bits where the machine agrees, else scores.

    Cells of studies on real rows need downloads and are left out.
    """
    every = list(studied())
    unknown = sorted({*(study or ())} - {name for name, _, _ in every})
    if unknown:
        fail(f"no study {', '.join(unknown)}; known: {', '.join(dict.fromkeys(name for name, _, _ in every))}")
    chosen = [one for one in every if not study or one[0] in study]
    wrong = sum(not _compare(name, runs, cell) for name, runs, cell in _drawn(chosen, k, seed, most))
    if wrong:
        fail(f"{wrong} runs do not agree with their records", code=1)


def _drawn(every: list[tuple[str, str, list[Job]]], k: int, seed: int, most: float) -> Iterator[tuple[str, str, Cell]]:
    """k random cells of every study that has records."""
    for name, runs, jobs in every:
        path = packed(runs)
        if path.is_file():
            known = [cell for cell in cells(jobs, read_records(path)) if cell.record["wall_time_s"] <= most]
            for cell in random.Random(f"{seed} {name} {runs}").sample(known, min(k, len(known))):
                yield name, runs, cell


def _compare(name: str, runs: str, cell: Cell) -> bool:
    """Run a cell again and print what came of it."""
    verdict = again(cell)
    shown = "agrees" if verdict.agrees else "DIFFERS"
    out().print(f"{name}, {runs}, {cell.job.title}: {shown}: {verdict.text}", soft_wrap=True, highlight=False)
    return verdict.agrees


def again(cell: Cell) -> Verdict:
    """Run a cell in a folder of its own and compare."""
    with tempfile.TemporaryDirectory() as folder:
        return compared(cell, read_record(run_job(cell.job, folder)))

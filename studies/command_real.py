"""`monosem study` on real rows: preparing them, running what has no record, showing what there is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.console import err, out, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.real.base import RealJob


def run_real(chosen: "Sequence[tuple[str, RealJob]]", folder: Path, workers: int | None, scale: str) -> int:
    """Run what has no record yet, with bars; returns how many runs failed."""
    from monosem.bench.records import read_records
    from monosem.cli.live import LiveRuns
    from studies.real.base import record_of, run_real_jobs

    there = read_records(folder) if folder.is_dir() else []
    todo = [(name, job) for name, job in chosen if record_of(job, there) is None]
    if len(todo) < len(chosen):
        say(f"{len(chosen) - len(todo)} of {len(chosen)} runs were there already", "dim")
    if not todo:
        return 0
    say(f"{len(todo)} runs at scale {scale}; records go to {folder}", "dim")
    jobs = [job for _, job in todo]
    for job in {job.data: job for job in jobs}.values():
        job.prepare(lambda line: say(line, "dim"))
    live = LiveRuns(jobs, err(), "seed")
    with live:
        run_real_jobs(jobs, folder, workers, live.callbacks)
    for number, why in live.failed.items():
        say(f"failed: {jobs[number].method} {jobs[number].arm} seed {jobs[number].seed}: {why}", "red")
    return len(live.failed)


def show_real(name: str, jobs: "Sequence[RealJob]", folder: Path, figures: Path | None) -> None:
    """A study's table, and its figure where one is wanted."""
    from studies.real.catalog import REAL_STUDIES
    from studies.report.study_real import real_figure, real_records, real_text

    records = real_records(jobs, folder)
    out().print(real_text(name, records, len(jobs)), soft_wrap=True, markup=False, highlight=False)
    if figures is not None:
        save_figure(real_figure(name, records), name, REAL_STUDIES[name].title, figures)


def save_figure(figure: "Figure | None", name: str, title: str, folder: Path) -> None:
    """Write a figure as NAME.svg, or say that there is none."""
    from monosem.base.files import write_atomic
    from monosem.report.style import to_svg

    if figure is None:
        say(f"{name} has no figure, or no run to draw", "yellow")
    else:
        say(str(write_atomic(folder / f"{name}.svg", to_svg(figure, title).encode())))

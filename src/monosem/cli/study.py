"""`monosem study`: the paper's tables and figures, run from a queue that resumes, beside the numbers it prints."""

from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, fail, out, say

__all__ = ["register", "study"]


def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Studies, as table1 or samples; several run one after the other.", show_default=False),
    ] = None,
    scale: Annotated[str, typer.Option(help="nano, mini, mini-hard or paper.")] = "mini",
    seeds: Annotated[
        int | None, typer.Option(help="How many worlds. [default: the scale's]", show_default=False)
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms; repeat it.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help='Where the models train, as "cuda".')] = "cpu",
    workers: Annotated[
        int | None, typer.Option(help="Processes, one thread each. [default: one per core]", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the records. [default: runs/studies/SCALE]", show_default=False),
    ] = None,
    only_show: Annotated[bool, typer.Option("--show", help="Run nothing: the tables of what is there.")] = False,
) -> None:
    """Run a table or figure of the paper and show it beside the printed numbers; goes on where it stopped."""
    from dataclasses import replace

    from monosem.bench.studies.base import SCALES, jobs_of
    from monosem.bench.studies.catalog import STUDIES
    from monosem.bench.studies.queue import outcomes, run_study
    from monosem.cli.live import LiveRuns
    from monosem.report.study import study_text

    if not names:
        for name, one in STUDIES.items():
            say(f"{name:12} {one.title}")
        return
    size = SCALES[scale]
    folder = out_folder or Path("runs/studies") / scale
    if workers is not None and workers < 1:
        fail(f"--workers {workers}; use at least one")
    if seeds is not None and seeds < 1:
        fail(f"--seeds {seeds}; use at least one world")
    worlds = size.seeds if seeds is None else tuple(range(size.seeds[0], size.seeds[0] + seeds))
    chosen = [STUDIES[name] for name in names]
    pairs = [pair for one in chosen for pair in jobs_of(one, size, worlds) if arm is None or pair[0].arm in arm]
    if not pairs:
        fail(f"no run of {', '.join(names)} has an arm {', '.join(arm or [])}; leave --arm out to see them")
    jobs = [replace(job, config=replace(job.config, device=device)) for _, job in pairs]
    if not only_show:
        say(f"{len(jobs)} runs at scale {scale}; records go to {folder}", "dim")
        live = LiveRuns(jobs, err())

        def discovery(done: int, count: int) -> None:
            say(f"anchors found in {done} of {count} worlds", "dim")

        with live:
            there = run_study(jobs, folder, workers, live.start, live.step, live.done, live.error, discovery)
        if there:
            say(f"{there} of {len(jobs)} runs were there already, or stand in several rows", "dim")
        for number, why in live.failed.items():
            say(f"failed: {jobs[number].title}: {why}", "red")
    for one in chosen:
        out().print(study_text(one, outcomes(one, size, folder, worlds)), soft_wrap=True, markup=False, highlight=False)
    if not only_show and live.failed:
        fail(f"{len(live.failed)} of {len(jobs)} runs failed; call the same command again to try them again", code=1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(study)

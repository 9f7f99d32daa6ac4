"""`monosem study`: the paper's tables and figures, run from a queue that resumes, beside the numbers it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say
from studies.command_real import run_real, save_figure, show_real
from studies.stored import packed

if TYPE_CHECKING:
    from monosem.bench.run import Job
    from studies.bench.base import Study
    from studies.bench.queue import Outcome
    from studies.real.base import RealJob


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
    figures: Annotated[
        Path | None, typer.Option(help="Also draw each study's figure into this folder.", show_default=False)
    ] = None,
    only_show: Annotated[bool, typer.Option("--show", help="Run nothing: the tables of what is there.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Leave the committed records out: run their cells too.")
    ] = False,
) -> None:
    """Run a table or figure of the paper and show it beside the printed numbers; goes on where it stopped."""
    from dataclasses import replace

    from studies.bench.base import SCALES, jobs_of
    from studies.bench.catalog import STUDIES
    from studies.bench.queue import outcomes
    from studies.real.catalog import REAL_STUDIES
    from studies.report.study import study_text
    from studies.report.study_drawn import draw_study, drawn_text

    if not names:
        _list()
        return
    size = SCALES[scale]
    folder = out_folder or Path("runs/studies") / scale
    known = () if fresh else (packed(f"study-{scale}"),)
    if workers is not None and workers < 1:
        fail(f"--workers {workers}; use at least one")
    if seeds is not None and seeds < 1:
        fail(f"--seeds {seeds}; use at least one world")
    worlds = size.seeds if seeds is None else tuple(range(size.seeds[0], size.seeds[0] + seeds))
    kinds = {name: _kind(name) for name in dict.fromkeys(names)}
    drawn, real = ([name for name, kind in kinds.items() if kind == wanted] for wanted in ("drawn", "real"))
    chosen = [STUDIES[name] for name, kind in kinds.items() if kind == "run"]
    every = [pair for one in chosen for pair in jobs_of(one, size, worlds)]
    on_real = [(name, job) for name in real for job in REAL_STUDIES[name].at(scale, seeds)]
    arms = dict.fromkeys([*(entry.arm for entry, _ in every), *(job.arm for _, job in on_real)])
    for unknown in (one for one in arm or () if one not in arms):
        fail(f"no run of {', '.join(names)} has an arm {unknown!r}; known: {', '.join(arms) or 'none'}")
    jobs = [
        replace(job, config=replace(job.config, device=device)) for entry, job in every if not arm or entry.arm in arm
    ]
    on_real = [(name, _on(job, device)) for name, job in on_real if not arm or job.arm in arm]
    failed = 0 if only_show or not jobs else _run(jobs, folder, workers, scale, known)
    failed += 0 if only_show else run_real(on_real, folder, workers, scale)
    for one in chosen:
        found = outcomes(one, size, folder, *known, seeds=worlds)
        out().print(study_text(one, found), soft_wrap=True, markup=False, highlight=False)
        if figures is not None:
            _draw(one, found, figures)
    for name in real:
        show_real(name, [job for own, job in on_real if own == name], folder, figures)
    for name in drawn:
        text = drawn_text(name, folder) if only_show else draw_study(name, folder, size)
        out().print(text, soft_wrap=True, markup=False, highlight=False)
    if failed:
        fail(
            f"{failed} of {len(jobs) + len(on_real)} runs failed; call the same command again to try them again", code=1
        )


def _on(job: "RealJob", device: str) -> "RealJob":
    """The same run, trained elsewhere."""
    from dataclasses import replace

    return replace(job, config=replace(job.config, device=device))


def _list() -> None:
    from studies.bench.catalog import STUDIES
    from studies.real.catalog import REAL_STUDIES
    from studies.report.study_drawn import DRAWN

    titles = {name: one.title for studies in (STUDIES, DRAWN, REAL_STUDIES) for name, one in studies.items()}
    for name, title in sorted(titles.items()):
        out().print(f"{name:12} {title}", soft_wrap=True, markup=False, highlight=False)
    say("monosem study NAME --scale nano tries one in a minute; --show shows what has been run", "dim")


def _kind(name: str) -> str:
    """How a study is made: on the bench, on real rows, or drawn. Raises: UnknownNameError, with a close name."""
    from monosem.base.registry import Registry
    from studies.bench.catalog import STUDIES
    from studies.real.catalog import REAL_STUDIES
    from studies.report.study_drawn import DRAWN

    known: Registry[str] = Registry("study")
    for kind, studies in (("run", STUDIES), ("drawn", DRAWN), ("real", REAL_STUDIES)):
        for one in studies:
            known.add(one, kind)
    return known[name]


def _run(jobs: "list[Job]", folder: Path, workers: int | None, scale: str, known: tuple[Path, ...]) -> int:
    """Run what has no record yet, with bars; returns how many runs failed."""
    from monosem.cli.live import LiveRuns
    from studies.bench.queue import run_study

    say(f"{len(jobs)} runs at scale {scale}; records go to {folder}", "dim")
    live = LiveRuns(jobs, err())

    def discovery(done: int, count: int) -> None:
        say(f"anchors found in {done} of {count} worlds", "dim")

    with live:
        there = run_study(jobs, folder, workers, live.callbacks, discovery, known)
    if there:
        say(f"{there} of {len(jobs)} runs were there already, or stand in several rows", "dim")
    for number, why in live.failed.items():
        say(f"failed: {jobs[number].title}: {why}", "red")
    return len(live.failed)


def _draw(one: "Study", found: "list[Outcome]", folder: Path) -> None:
    from studies.report.study_figures import study_figure

    save_figure(study_figure(one, found), one.name, one.title, folder)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(study)

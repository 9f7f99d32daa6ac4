"""`monosem bench` and `monosem report`: train and score methods, and turn the records into one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say

if TYPE_CHECKING:
    from monosem.bench.run import Job


def report(
    records: Annotated[
        Path,
        typer.Argument(help="Folder of records, as `monosem bench` writes, or a packed file.", show_default=False),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The page. [default: report.html in the folder, or beside the file]"),
    ] = None,
) -> None:
    """Turn records into one self-contained HTML page: tables, curves, maps, and a world in three dimensions."""
    from monosem.report.page import write_report

    with err().status(f"reading {records}"):
        page = write_report(records, out_file or (records if records.is_dir() else records.parent) / "report.html")
    say(f"report   {page}")


def split_methods(texts: list[str]) -> list[str]:
    """Methods from repeated or comma-separated options; commas inside brackets belong to a method.

    Example:
        >>> split_methods(["topk,jumprelu(l0=0.1, theta=0.2)", "gated"])
        ['topk', 'jumprelu(l0=0.1, theta=0.2)', 'gated']
    """
    methods: list[str] = []
    for text in texts:
        depth, word = 0, ""
        for letter in text + ",":
            depth += (letter in "([") - (letter in ")]")
            if letter == "," and depth <= 0:
                methods.append(word.strip())
                word = ""
            else:
                word += letter
    return [word for word in methods if word]


_Task = Annotated[str, typer.Option(help="Task; `monosem list tasks` names them.")]
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        help='Methods, separated by commas or repeated: a name takes the task\'s defaults, "topk(k=8)" its own. '
        "[default: the seven of the paper's table 1]",
        show_default=False,
    ),
]
_Anchors = Annotated[
    int | None, typer.Option(help="Number of features to anchor. [default: the task's]", show_default=False)
]
_Plain = Annotated[bool, typer.Option("--plain", help="Only plain runs.")]
_Anchored = Annotated[bool, typer.Option("--anchored", help="Only anchored runs.")]
_Both = Annotated[bool, typer.Option("--both", help="Plain and anchored runs (the default).")]
_Printed = Annotated[
    bool, typer.Option("--printed", help="Anchor as the paper prints it: both sides, no start at the anchors.")
]
_Among = Annotated[
    list[str] | None,
    typer.Option(
        help="In a hierarchy: anchor only parents, or only children; repeat it for one anchored run of each. "
        "[default: all]",
        show_default=False,
    ),
]
_Seeds = Annotated[int, typer.Option(help="Number of worlds: seeds 0, 1, ...")]
_Steps = Annotated[int | None, typer.Option(help="Training steps. [default: the task's]", show_default=False)]
_Workers = Annotated[
    int | None, typer.Option(help="Processes, one thread each. [default: one per core]", show_default=False)
]
_CheckpointEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints, kept with the model below OUT/runs. [default: none kept]")
]


def bench(
    action: Annotated[
        str,
        typer.Argument(
            help='"export": write the task\'s rows for other trainers to --out, and run nothing.', show_default=False
        ),
    ] = "",
    task: _Task = "lrb/mini-hard",
    methods: _Methods = None,
    anchors: _Anchors = None,
    plain: _Plain = False,
    anchored: _Anchored = False,
    both: _Both = False,
    printed: _Printed = False,
    among: _Among = None,
    seeds: _Seeds = 3,
    steps: _Steps = None,
    workers: _Workers = None,
    checkpoint_every: _CheckpointEvery = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for records and the report.")] = Path("runs/bench"),
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report.html at the end.")] = True,
) -> None:
    """Train and score methods, plain and anchored, against known features; resumes where an earlier call stopped."""
    from monosem.anchors.term import PRINTED
    from monosem.bench.run import plan

    if action:
        _export(action, task, split_methods(methods or []), out_folder)
        return
    only = plain != anchored and not both
    jobs = plan(
        task,
        split_methods(methods or []),
        anchors=anchors,
        plain=plain or not only,
        anchored=anchored or not only,
        seeds=seeds,
        steps=steps,
        checkpoint_every=checkpoint_every,
        anchoring=PRINTED if printed else None,
        among=among or ("all",),
    )
    say(f"{len(jobs)} runs on {task}, {jobs[0].config.steps} steps each; records go to {out_folder}", "dim")
    failed = _run(jobs, out_folder, workers, page)
    say(f"records  {out_folder}  ({len(jobs) - len(failed)} of {len(jobs)} runs)")
    for number, why in failed.items():
        say(f"failed: {jobs[number].title}: {why}", "red")
    if failed:
        fail(f"{len(failed)} of {len(jobs)} runs failed; call the same command again to try them again", code=1)


def _export(action: str, task: str, methods: list[str], out_folder: Path) -> None:
    """Write rows; a method's name says of which pairing."""
    from monosem.bench.foreign import export_rows
    from monosem.bench.run import pairing_of
    from monosem.bench.tasks import TaskSource
    from monosem.bench.tasks import task as find_task

    if action != "export":
        fail(f'there is nothing called {action!r}; "monosem bench export" writes rows, "monosem bench" alone runs')
    pairing = pairing_of(methods[0]) if methods else "sae"
    with err().status(f"drawing {task}"):
        paths = export_rows(TaskSource(find_task(task, pairing)), out_folder)
    for path in paths:
        say(f"{path}  {path.stat().st_size:,} bytes")
    say(f"next, with a model trained on them: monosem evaluate MODEL --task {task!r} --out {out_folder}", "dim")


def _run(jobs: "list[Job]", out_folder: Path, workers: int | None, page: bool) -> dict[int, str]:
    """Run the jobs, show their scores, write the page; why runs failed, by job."""
    from monosem.bench.run import run_jobs
    from monosem.cli.live import LiveRuns
    from monosem.report.page import write_report

    if workers is not None and workers < 1:
        fail(f"--workers {workers}; use at least one")
    with LiveRuns(jobs, err()) as live:
        paths = run_jobs(jobs, out_folder, workers, live.callbacks)
    if live.already:
        say(f"{live.already} of {len(jobs)} runs were there already from an earlier call", "dim")
    _show([path for path in paths if path.exists()])
    if page and len(live.failed) < len(jobs):
        say(f"report   {write_report(out_folder, out_folder / 'report.html')}")
    return live.failed


def _show(paths: list[Path]) -> None:
    from monosem.bench.records import read_record
    from monosem.cli.tables import section_table
    from monosem.report.summary import sections

    if paths:
        for section in sections(map(read_record, paths)):
            out().print(section_table(section))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(bench)
    app.command()(report)

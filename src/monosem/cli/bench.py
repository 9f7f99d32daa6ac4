"""`monosem bench` and `monosem report`: train and score methods, and turn the records into one page."""

from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, fail, out, say


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


def bench(
    task: Annotated[str, typer.Option(help="Task; `monosem list tasks` names them.")] = "lrb/mini-hard",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help='Methods, separated by commas or repeated: a name takes the task\'s defaults, "topk(k=8)" its own. '
            "[default: the seven of the paper's table 1]",
            show_default=False,
        ),
    ] = None,
    anchors: Annotated[
        int | None, typer.Option(help="How many features to anchor. [default: the task's]", show_default=False)
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Only plain runs.")] = False,
    anchored: Annotated[bool, typer.Option("--anchored", help="Only anchored runs.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Plain and anchored runs (the default).")] = False,
    printed: Annotated[
        bool, typer.Option("--printed", help="Anchor as the paper prints it: both sides, no start at the anchors.")
    ] = False,
    among: Annotated[
        list[str] | None,
        typer.Option(
            help="In a hierarchy: anchor only parents, or only children; repeat it for one anchored run of each. "
            "[default: all]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many worlds: seeds 0, 1, ...")] = 3,
    steps: Annotated[int | None, typer.Option(help="Training steps. [default: the task's]", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes, one thread each. [default: one per core]", show_default=False)
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(help="Keep every run's checkpoints and model below OUT/runs, written every so many steps."),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for records and the report.")] = Path("runs/bench"),
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report.html at the end.")] = True,
) -> None:
    """Train and score methods, plain and anchored, against known features; go on where an earlier call stopped."""
    from monosem.anchors.term import PRINTED
    from monosem.bench.jobs import plan, run_jobs
    from monosem.cli.live import LiveRuns

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
    if workers is not None and workers < 1:
        fail(f"--workers {workers}; use at least one")
    say(f"{len(jobs)} runs on {task}, {jobs[0].config.steps} steps each; records go to {out_folder}", "dim")
    live = LiveRuns(jobs, err())
    with live:
        paths = run_jobs(jobs, out_folder, workers, live.callbacks)
    if live.already:
        say(f"{live.already} of {len(jobs)} runs were there already from an earlier call", "dim")
    _show([path for path in paths if path.exists()])
    if page and len(live.failed) < len(jobs):
        from monosem.report.page import write_report

        say(f"report   {write_report(out_folder, out_folder / 'report.html')}")
    say(f"records  {out_folder}  ({len(jobs) - len(live.failed)} of {len(jobs)} runs)")
    for number, why in live.failed.items():
        say(f"failed: {jobs[number].title}: {why}", "red")
    if live.failed:
        fail(f"{len(live.failed)} of {len(jobs)} runs failed; call the same command again to try them again", code=1)


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

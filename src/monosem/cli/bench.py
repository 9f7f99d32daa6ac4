"""`monosem bench` and `monosem report`: train and score methods, and turn the records into one page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem.cli.console import err, every_nth, fail, say
from monosem.cli.options import Answer, command_of, opt

if TYPE_CHECKING:
    from rich.console import RenderableType

    from monosem.bench.run import Job


@dataclass(frozen=True)
class _ReportOptions:
    """The options of `monosem report`."""

    records: Annotated[
        Path,
        typer.Argument(metavar="RECORDS", help="Folder of records, as `monosem bench` writes, or a packed file."),
    ]
    out_file: Annotated[
        Path | None, opt("Page to write. [default: report.html in the folder, or in that of the file]", "--out")
    ] = None


@command_of(_ReportOptions)
def report(o: _ReportOptions) -> Answer:
    """Turn records into one self-contained HTML page: tables, curves, maps, and a world in three dimensions."""
    from monosem.report.page import write_report

    folder = o.records if o.records.is_dir() else o.records.parent
    with err().status(f"reading {o.records}"):
        page = write_report(o.records, o.out_file or folder / "report.html")
    return Answer({"records": str(o.records), "page": str(page)}, f"report   {page}")


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


@dataclass(frozen=True)
class _BenchOptions:
    """The options of `monosem bench`."""

    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help='In place of runs: "export" writes the rows of --task for other trainers, "fit" a task like --data.',
        ),
    ] = ""
    task: Annotated[str, opt("Task; `monosem list tasks` names them.", complete="tasks")] = "lrb/mini-hard"
    methods: Annotated[
        list[str] | None,
        opt(
            'Methods, separated by commas or repeated: a name takes the task\'s defaults, "topk(k=8)" its own. '
            "[default: the seven of the paper's table 1]",
            complete="methods",
        ),
    ] = None
    seeds: Annotated[int, opt("Number of worlds: seeds 0, 1, ...")] = 3
    steps: Annotated[int | None, opt("Number of training steps. [default: the task's]")] = None
    workers: Annotated[int | None, opt("Number of processes, one thread each. [default: one per core]")] = None
    out_folder: Annotated[Path, opt("Folder for records and the report.", "--out")] = Path("runs/bench")
    page: Annotated[bool, opt("Write OUT/report.html at the end.", "--report/--no-report")] = True
    anchors: Annotated[int | None, opt("Number of features to anchor. [default: the task's]", panel="Anchors")] = None
    plain: Annotated[bool, opt("Make only plain runs.", "--plain", panel="Anchors")] = False
    anchored: Annotated[bool, opt("Make only anchored runs.", "--anchored", panel="Anchors")] = False
    both: Annotated[bool, opt("Make plain and anchored runs, as by default.", "--both", panel="Anchors")] = False
    printed: Annotated[
        bool,
        opt("Anchor both encoder and decoder, without a start at the anchors, as in the paper.", "--printed",
            panel="Anchors", more=True),
    ] = False  # fmt: skip
    among: Annotated[
        list[str] | None,
        opt("In a hierarchy: anchor only parents, or only children; repeated, one anchored run of each. "
            "[default: all]", panel="Anchors", more=True),
    ] = None  # fmt: skip
    twins: Annotated[
        bool, opt("Train each run twice in its world, and score how far the two dictionaries agree.", "--twins")
    ] = False
    checkpoint_every: Annotated[
        int | None,
        opt("Steps between checkpoints, kept with the dictionary below OUT/runs. [default: none is kept]", more=True),
    ] = None
    data: Annotated[
        Path | None, opt("Rows that the fitted task is to resemble, as `monosem train` takes them.", panel="Fit")
    ] = None
    dictionary: Annotated[
        Path | None, opt("Dictionary that codes the rows of --data, of any known format, or anchors.", panel="Fit")
    ] = None
    index: Annotated[
        str | None,
        opt("Only every N-th run, from the I-th on, written I/N with I from 0: one task of a scheduler's array. Tasks "
            "share OUT, each record is claimed by one of them, and none writes the report.", more=True),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        for option, value in (("--data", self.data), ("--dictionary", self.dictionary)):
            if value is not None and self.action != "fit":
                fail(f'{option} {value} belongs to "monosem bench fit"; write "fit", or leave it out')

    @property
    def part(self) -> slice | None:
        """The runs that --index asks for."""
        return None if self.index is None else every_nth(self.index)

    @property
    def arms(self) -> tuple[bool, bool]:
        """Whether there are plain runs, and anchored ones."""
        only = self.plain != self.anchored and not self.both
        return self.plain or not only, self.anchored or not only


@command_of(_BenchOptions)
def bench(o: _BenchOptions) -> Answer:
    """Train and score methods, plain and anchored, against known features; resumes where an earlier call stopped."""
    from monosem.anchors.term import PRINTED
    from monosem.bench.run import plan

    if o.action:
        return _fit(o) if o.action == "fit" else _export(o)
    plain, anchored = o.arms
    jobs = plan(
        o.task,
        split_methods(o.methods or []),
        anchors=o.anchors,
        plain=plain,
        anchored=anchored,
        seeds=o.seeds,
        steps=o.steps,
        checkpoint_every=o.checkpoint_every,
        anchoring=PRINTED if o.printed else None,
        among=o.among or ("all",),
        twins=o.twins,
    )
    jobs = jobs if o.part is None else jobs[o.part]
    if not jobs:
        return Answer({"out": str(o.out_folder), "runs": 0}, f"no run is left for --index {o.index}: there are fewer")
    o.out_folder.mkdir(parents=True, exist_ok=True)
    say(f"{len(jobs)} runs on {o.task}, {jobs[0].config.steps} steps each; records go to {o.out_folder}", "dim")
    failed, records = _run(jobs, o.out_folder, o.workers, o.page and o.part is None, o.part is not None)
    say(f"records  {o.out_folder}  ({len(jobs) - len(failed)} of {len(jobs)} runs)")
    for title, why in failed.items():
        say(f"failed: {title}: {why}", "red")
    if failed:
        say(f"{len(failed)} of {len(jobs)} runs failed; call the same command again to try them again", "bold red")
    facts = {"out": str(o.out_folder), "runs": len(jobs), "failed": failed}
    return Answer(facts | {"records": list(map(_scored, records))}, _tables(records), code=1 if failed else 0)


def _fit(o: _BenchOptions) -> Answer:
    """Fit a task to rows and say how well it resembles them."""
    import torch

    from monosem.anchors.directions import load_anchors
    from monosem.bench.fitted import fit_world, resemblance
    from monosem.data.source import open_rows
    from monosem.dictionary.discover import ordinary_rows
    from monosem.interop import load

    if o.data is None or o.dictionary is None:
        fail("a task is fitted to rows as a dictionary codes them; give --data ROWS and --dictionary MODEL")
    x, path = open_rows(o.data).sample(20_000)[0], o.out_folder / "task.safetensors"
    x = x[ordinary_rows(x)]
    with err().status(f"fitting {path}"), torch.no_grad():
        if o.dictionary.suffix == ".safetensors":
            spec = fit_world(x, load_anchors(o.dictionary).r, path)
        else:
            model = load(o.dictionary)
            spec = fit_world(x, model.W_D, path, codes=model.encode(x).to_dense())
    far = resemblance(spec, x)
    say(f"run it: monosem bench --task fitted:{path} --methods topk --plain", "dim")
    shown = (
        f"{path}  {spec.n} features in {spec.widths[0]} dimensions, {spec.rows:,} rows\n"
        f"a classifier tells from new real rows: drawn ones {far['fitted']:.3f}, Gaussian ones {far['gaussian']:.3f}, "
        f"other real ones {far['itself']:.3f}; .5 is alike, 1 apart"
    )
    return Answer({"task": f"fitted:{path}", "n": spec.n, "told_apart": far}, shown)


def _export(o: _BenchOptions) -> Answer:
    """Write rows; a method's name says of which pairing."""
    from monosem.bench.foreign import export_rows
    from monosem.bench.run import pairing_of
    from monosem.bench.tasks import TaskSource
    from monosem.bench.tasks import task as find_task

    if o.action != "export":
        fail(
            f'there is nothing called {o.action!r}; "bench export" writes rows, "bench fit" a task, "bench" alone runs'
        )
    methods = split_methods(o.methods or [])
    with err().status(f"drawing {o.task}"):
        source = TaskSource(find_task(o.task, pairing_of(methods[0]) if methods else "sae"))
        paths = export_rows(source, o.out_folder)
    say(f"with a model trained on them: monosem evaluate MODEL --task {o.task!r} --out {o.out_folder}", "dim")
    sizes = {str(path): path.stat().st_size for path in paths}
    return Answer({"files": sizes}, "\n".join(f"{path}  {size:,} bytes" for path, size in sizes.items()))


def _run(
    jobs: "list[Job]", out_folder: Path, workers: int | None, page: bool, shared: bool
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Run the jobs and write the page: why runs failed, by title, and the records of the others."""
    from monosem.bench.records import read_record
    from monosem.bench.run import run_jobs
    from monosem.cli.live import LiveRuns
    from monosem.report.page import write_report

    if workers is not None and workers < 1:
        fail(f"--workers {workers}; use at least one")
    with LiveRuns(jobs, err()) as live:
        paths = run_jobs(jobs, out_folder, workers, live.callbacks, shared=shared)
    if live.already:
        say(f"{live.already} of {len(jobs)} runs were there already from an earlier call", "dim")
    if page and len(live.failed) < len(jobs):
        say(f"report   {write_report(out_folder, out_folder / 'report.html')}")
    failed = {jobs[number].title: why for number, why in live.failed.items()}
    return failed, [read_record(path) for path in paths if path.exists()]


def _scored(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's run and its scores, without what the record says beside them."""
    metrics = {name: row["value"] for name, row in record["metrics"].items() if "value" in row}
    run = {"method": record["method"]["spec"], "anchored": bool(record["anchors"]), "seed": record["seed"]["world"]}
    return run | {"metrics": metrics}


def _tables(records: list[dict[str, Any]]) -> "RenderableType":
    """A section of tables per task; nothing without a record."""
    from rich.console import Group

    from monosem.cli.tables import section_table
    from monosem.report.summary import sections

    return Group(*(section_table(section) for section in sections(records))) if records else ""

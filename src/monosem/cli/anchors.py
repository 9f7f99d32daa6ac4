"""`monosem anchors`: anchors from labels or from rows alone, and what they do for classes that were held out."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, say, set_threads, split_names
from monosem.cli.options import Answer, add, command_of, opt
from monosem.cli.shared import Dictionary, RowsOptions, Threads, quoted, train_command

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.cli.tables import Sheet
    from monosem.data.class_means import AnchorQuality
    from monosem.data.source import FileSource
    from monosem.data.table import Labels
    from monosem.dictionary.discover import Discovery

anchors_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make anchors, and score what they do.")

_data = partial(opt, panel="Data")
_Labels = Annotated[Path | None, _data("Classes of the rows: a file, or a store. [default: those of the store --data]")]
_LabelsKey = Annotated[
    str | None, _data("Tensor of the .safetensors file --labels, or column of a .parquet one.", more=True)
]
_Out = Annotated[Path, opt("Anchors to write: .safetensors.", "--out")]


@dataclass(frozen=True)
class _ClassOptions:
    """The options of `monosem anchors from-classes`."""

    rows: RowsOptions
    out_file: _Out
    labels: _Labels = None
    labels_key: _LabelsKey = None
    classes: Annotated[str | None, opt('Classes to anchor, as "cat,dog". [default: all]')] = None
    number: Annotated[int | None, opt("Number of classes to anchor, sampled.", "--number")] = None
    seed: Annotated[int, opt("Seed for the classes that --number samples.")] = 0
    raw: Annotated[bool, opt("Use means without centring, as in the paper.", "--raw")] = False
    shrinkage: Annotated[
        float, opt("Shrinkage of the means towards their centre: 1 is that of James and Stein, 0 none.")
    ] = 0.0


@command_of(_ClassOptions)
def _from_classes(o: _ClassOptions) -> Answer:
    """Anchors at the means of labelled classes (eq 23-24); raw and centred means are compared, centred ones written."""
    import numpy as np

    from monosem.base.files import write_json
    from monosem.data.class_means import class_anchors, read_means

    _check_name(o.out_file)
    source, known = _labelled(o.rows, o.labels, o.labels_key)
    if o.classes is not None and o.number is not None:
        fail("--classes and --number both choose classes; give one of them")
    names = split_names(o.classes) or list(known.names)
    if o.number is not None:
        if not 1 <= o.number <= len(names):
            fail(f"--number {o.number} classes of {len(names)}; choose 1 to {len(names)}")
        names = [names[i] for i in np.random.default_rng(o.seed).permutation(len(names))[: o.number]]
    anchors = class_anchors(source, known, names, not o.raw, o.shrinkage)
    anchors.save(o.out_file)
    write_json(o.out_file.with_suffix(".json"), {"classes": names, "centred": not o.raw, "shrinkage": o.shrinkage})
    kinds = {"raw": False, "centred": True}
    readings = {kind: read_means(source.x_p, known, centre, o.shrinkage) for kind, centre in kinds.items()}
    shown = _compare(readings)
    kind = "raw" if o.raw else "centred"
    rest = len(known.names) - len(names)
    say(f"{anchors.k} {kind} anchors in {o.out_file}; {rest} of {len(known.names)} classes left out")
    facts = {"out": str(o.out_file), "classes": names, "kind": kind}
    means = {name: vars(reading) for name, reading in readings.items()}
    return Answer(facts | {"means": means}, shown, _train_with(o.rows, o.out_file, anchors.p.shape[0]))


def _train_with(rows: RowsOptions, anchors: Path, width: int) -> str:
    """The command that trains from anchors."""
    return train_command(rows, width, anchors.with_name(f"{anchors.stem}-sae"), quoted("--anchors", anchors))


@dataclass(frozen=True)
class _ScoreOptions:
    """The options of `monosem anchors score-classes`."""

    dictionary: Dictionary
    rows: RowsOptions
    labels: _Labels = None
    labels_key: _LabelsKey = None
    anchors: Annotated[
        Path | None,
        opt("Anchors of the dictionary; their classes do not count as held out. [default: those in its folder]"),
    ] = None
    raw: Annotated[bool, opt("Compare with class means that are not centred.", "--raw")] = False


@command_of(_ScoreOptions)
def _score_classes(o: _ScoreOptions) -> Answer:
    """Score decoder columns on class means: held-out, anchored and all classes, with chance for comparison."""
    import torch

    from monosem.bench.real import class_scores
    from monosem.core.io import load_model
    from monosem.data.class_means import class_anchors
    from monosem.data.trained import read_classes

    source, known = _labelled(o.rows, o.labels, o.labels_key)
    trained = load_model(o.dictionary)
    note = o.anchors.with_suffix(".json") if o.anchors else o.dictionary / "anchors.json"
    given = read_classes(note) if o.anchors or note.exists() else ()
    picked = known.pick(given) if given else torch.zeros(0, dtype=torch.int64)
    scores = class_scores(trained, class_anchors(source, known, centre=not o.raw), picked)
    shown = _scores(scores, len(known.names), len(given), trained.n_q)
    say("only held-out classes say whether anchors help: the others are what anchors were asked for", "dim")
    return Answer({"dictionary": str(o.dictionary), "classes": len(known.names), "scores": scores}, shown)


def _labelled(rows: RowsOptions, labels: Path | None, key: str | None) -> "tuple[FileSource, Labels]":
    """Rows and their labels, from files or from a store."""
    from monosem.data.store import is_store

    labels = labels or (rows.data if is_store(rows.data) else None)
    if labels is None:
        fail("give the classes of the rows with --labels FILE")
    source = rows.open(labels=labels, labels_key=key)
    assert source.labels is not None
    return source, source.labels


def _compare(readings: "dict[str, AnchorQuality]") -> "Sheet":
    """Raw and centred means next to each other, and which of them work."""
    from monosem.cli.tables import Sheet

    title = "class means as anchors: made of even rows, tried on odd ones"
    sheet = Sheet(title, ("means", "closest two, cos", "pairs above 0.95", "own class nearest", "chance"))
    for kind, r in readings.items():
        row = (f"{r.closest:.3f}", str(r.coincident), f"{r.accuracy:.1%}", f"{r.chance:.1%}")
        sheet.add(kind, *row)
    raw, centred = readings["raw"], readings["centred"]
    if raw.coincident > centred.coincident:
        say(
            f"centred means work here; raw ones nearly coincide in {raw.coincident} pairs, as in any space that is not "
            "centred, and would ask many latents for one direction"
        )
    elif centred.coincident:
        say("some classes have the same mean even when centred: join them, or leave one out", "yellow")
    else:
        say("both tell the classes apart; the rows are near centred already")
    return sheet


def _scores(scores: "dict[str, dict[str, dict[str, object]]]", classes: int, anchored: int, n_q: int) -> "Sheet":
    from monosem.cli.tables import Sheet

    title = "best |cos| of a decoder column with each class mean"
    counts = {"held_out": classes - anchored, "anchored": anchored, "all": classes}
    sheet = Sheet(title, ("classes", "dictionary", "mean", "above 0.8", "above 0.9", "above 0.95"), keys=2)
    names = {"value": "the model", "anchors_alone": "anchors alone", "chance": f"{n_q} random"}
    for group in ("held_out", "anchored", "all"):
        for who, name in names.items():
            if group in scores.get(who, {}):
                score: dict[str, object] = scores[who][group]["decoder_cosine"]  # type: ignore[assignment]
                share: dict[str, float] = score["M_GT"]  # type: ignore[assignment]
                shares = [f"{share[tau]:.1%}" for tau in ("0.8", "0.9", "0.95")]
                sheet.add(f"{group.replace('_', ' ')} ({counts[group]})", name, f"{score['M_IP']:.3f}", *shares)
    return sheet


@dataclass(frozen=True)
class _DiscoverOptions:
    """The options of `monosem anchors discover`."""

    data: RowsOptions
    out_file: _Out
    rows: Annotated[int, opt("Most rows to use, spread evenly over the data.")] = 100_000
    within: Annotated[float, opt("Drop rows whose norm exceeds this multiple of a typical row's; 0 keeps all.")] = 10
    confidence: Annotated[float, opt("Least confidence of an anchor.")] = 0.0
    number: Annotated[int | None, opt("Most anchors to keep, the most confident first.", "--number")] = None
    seed: Annotated[int, opt("Seed for the rows and starting points that are sampled.")] = 0
    runs: Annotated[int, opt("Number of independent searches whose results are merged.")] = 1
    agreed: Annotated[float, opt("Fraction of --runs that must agree on an anchor; 0: any of them.")] = 0.6
    threads: Threads = None

    def __post_init__(self) -> None:
        _check_name(self.out_file)
        if self.rows < 2 or (self.number is not None and self.number < 1):
            fail(f"--rows {self.rows} must be at least 2 and --number at least 1")
        if self.within and not self.within > 1.0:
            fail(f"--within {self.within} is a multiple of a typical row's norm; give more than 1, or 0 to keep all")
        if self.runs < 1:
            fail(f"--runs {self.runs} must be at least 1")
        for option in ("confidence", "agreed"):
            share = getattr(self, option)
            if not 0.0 <= share <= 1.0:
                fail(f"--{option} {share} is a fraction; choose 0 to 1")


def _check_name(out_file: Path) -> None:
    if out_file.suffix != ".safetensors":
        fail(f"--out {out_file} must end in .safetensors; that is the format of anchors")


@command_of(_DiscoverOptions)
def _from_rows(o: _DiscoverOptions) -> Answer:
    """Discover anchors without labels: directions of which the rows are sparse sums."""
    set_threads(o.threads)
    x_p, x_r = _ordinary(o.data.open(), o.rows, o.within)
    discovery = _searched(x_p, x_r, o.runs, o.agreed, o.seed)
    kept = int((discovery.confidence >= o.confidence).sum())
    kept = kept if o.number is None else min(kept, o.number)
    if kept == 0:
        fail(f"none of {discovery.anchors.k} directions has confidence {o.confidence}; ask for less")
    settings = {"rows": x_p.shape[0], "seed": o.seed, "runs": o.runs, "agreed": o.agreed, "within": o.within}
    _write(discovery, kept, o.out_file, settings)
    shown = _summary(discovery, kept, o.out_file)
    if o.runs > 1:
        say(f"every direction was found in {o.agreed:.0%} or more of {o.runs} runs")
    facts = settings | {"out": str(o.out_file), "kept": kept, "found": discovery.anchors.k, "l0": discovery.l0}
    facts |= {name: discovery.log[-1][name] for name in ("fvu", "typical")}
    return Answer(facts, shown, _train_with(o.data, o.out_file, x_p.shape[1]))


def _ordinary(source: "FileSource", rows: int, within: float) -> "tuple[Tensor, Tensor | None]":
    """Rows without those of far larger norm; x_r None where it is x_p."""
    from monosem.dictionary.discover import ordinary_rows

    x_p, x_r = source.sample(rows)
    if within:
        ordinary = ordinary_rows(x_p, within)
        x_p, x_r = x_p[ordinary], x_r[ordinary]
        if dropped := int((~ordinary).sum()):
            total = ordinary.numel()
            say(
                f"{dropped} of {total:,} rows have more than {within:g} times a typical norm and are dropped (--within)"
            )
    return x_p, None if source.x_r is None else x_r


def _searched(x_p: "Tensor", x_r: "Tensor | None", runs: int, agreed: float, seed: int) -> "Discovery":
    """Discovery with a bar."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from monosem.dictionary.consensus import discover_often

    columns = (SpinnerColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        shown = bar.add_task("starting", total=1.0)

        def progress(share: float, text: str) -> None:
            bar.update(shown, completed=share, description=text)

        return discover_often(x_p, x_r, runs=runs, share=agreed, seed=seed, progress=progress)


def _write(discovery: "Discovery", kept: int, out_file: Path, settings: dict[str, float]) -> None:
    """The anchors, and beside them a .json of what was estimated."""
    from monosem.anchors.directions import Anchors
    from monosem.base.files import write_json

    Anchors(discovery.anchors.p[:, :kept], discovery.anchors.r[:, :kept], discovery.anchors.kind).save(out_file)
    numbers = {name: getattr(discovery, name)[:kept].tolist() for name in ("confidence", "rates")}
    facts = settings | {"l0": discovery.l0, "found": discovery.anchors.k, "log": discovery.log}
    facts |= {name: value for name in ("gain", "outside") if (value := getattr(discovery, name)) == value}
    write_json(out_file.with_suffix(".json"), facts | numbers)


def _summary(discovery: "Discovery", kept: int, out_file: Path) -> "Sheet":
    import torch

    from monosem.cli.tables import Sheet

    sheet = Sheet("directions found in the rows alone", ("", "lowest", "5 %", "median", "95 %", "highest"))
    at = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
    sheet.add("confidence", *(f"{v:.2f}" for v in discovery.confidence.quantile(at).tolist()))
    sheet.add("firing rate", *(f"{v:.2%}" for v in discovery.rates.quantile(at).tolist()))
    left, typical = discovery.log[-1]["fvu"], discovery.log[-1]["typical"]
    say(f"{discovery.anchors.k} directions; a row holds {discovery.l0:.1f} of them on average")
    say(f"they leave {left:.1%} of the variance over, and {typical:.1%} of the median row")
    share = f"{discovery.outside:.0%} of the rows are explained better by that law"
    say(f"gain: {discovery.gain:.1f} nats a row over a law without a sparse code, on rows held out; {share}")
    if not discovery.sparse:
        say("no sparse code here: these rows are explained as well by a law that has none", "yellow")
    elif typical > 0.1:
        say("much is left over: noise or dense features, or too few rows; see the gain", "yellow")
    elif left > 0.3:
        say("some rows are far longer than most, and not explained; leave them out with a lower --within", "yellow")
    say(f"{kept} anchors in {out_file}, most confident first; estimates in {out_file.with_suffix('.json')}")
    return sheet


add(anchors_app, "from-classes", _from_classes)
add(anchors_app, "score-classes", _score_classes)
add(anchors_app, "discover", _from_rows)

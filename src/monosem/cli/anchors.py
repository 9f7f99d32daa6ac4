"""`monosem anchors`: anchors from labels or from rows alone, and what they do for classes that were held out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say, set_threads, split_names

if TYPE_CHECKING:
    from torch import Tensor

    from monosem.data.source import FileSource
    from monosem.data.table import Labels
    from monosem.dictionary.discover import Discovery

anchors_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make anchors, and score what they do.")

_data = partial(typer.Option, rich_help_panel="Data", show_default=False)
_Data = Annotated[Path | None, _data(help="Activations x_p, one row each: .npy, .safetensors or .parquet.")]
_Store = Annotated[Path | None, _data(help="Store of `monosem harvest`, in place of --data.")]
_Target = Annotated[Path | None, _data(help="Activations x_r of the same inputs, for a transcoder.")]
_Key = Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")]
_TargetKey = Annotated[str | None, _data(help="Tensor or columns of --target.")]
_Read = Annotated[str | None, _data(help="Site of the store to read.")]
_Write = Annotated[str | None, _data(help="Site of the store to write, for a transcoder.")]
_Labels = Annotated[Path | None, _data(help="Classes of the rows: a file, or a store. [default: the store's labels]")]
_LabelsKey = Annotated[str | None, _data(help="Tensor or column of --labels.")]
_Out = Annotated[Path, typer.Option("--out", help="Anchors to write: .safetensors.", show_default=False)]


def _from_classes(
    out_file: _Out,
    data: _Data = None,
    store: _Store = None,
    target: _Target = None,
    key: _Key = None,
    read: _Read = None,
    write: _Write = None,
    labels: _Labels = None,
    labels_key: _LabelsKey = None,
    classes: Annotated[str | None, typer.Option(help='Classes to anchor, as "cat,dog".')] = None,
    number: Annotated[int | None, typer.Option("--number", help="Number of classes to anchor, sampled.")] = None,
    seed: Annotated[int, typer.Option(help="Seed for the classes that --number samples.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Use means without centring, as the paper prints it.")] = False,
    shrinkage: Annotated[float, typer.Option(help="Shrinkage towards the centre; 1: James and Stein, 0: none.")] = 0.0,
) -> None:
    """Anchors at the means of labelled classes (eq 23-24); raw and centred means are compared, centred ones written."""
    import numpy as np

    from monosem.base.files import write_json
    from monosem.data.class_means import class_anchors

    source, known = _labelled(data, store, target, key, read, write, labels, labels_key)
    if classes is not None and number is not None:
        fail("--classes and --number both choose classes; give one of them")
    names = split_names(classes) or list(known.names)
    if number is not None:
        if not 1 <= number <= len(names):
            fail(f"--number {number} classes of {len(names)}; choose 1 to {len(names)}")
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[:number]]
    anchors = class_anchors(source, known, names, not raw, shrinkage)
    anchors.save(out_file)
    write_json(out_file.with_suffix(".json"), {"classes": names, "centred": not raw, "shrinkage": shrinkage})
    _compare(source, known, shrinkage)
    rest = len(known.names) - len(names)
    kind = "raw" if raw else "centred"
    say(f"{anchors.k} {kind} anchors in {out_file}; {rest} of {len(known.names)} classes left out")
    say(f"next: monosem train ... --anchors {out_file}; then monosem anchors score-classes", "dim")


def _score_classes(
    model: Annotated[Path, typer.Option(help="Folder of a trained model.", show_default=False)],
    data: _Data = None,
    store: _Store = None,
    target: _Target = None,
    key: _Key = None,
    read: _Read = None,
    write: _Write = None,
    labels: _Labels = None,
    labels_key: _LabelsKey = None,
    anchors: Annotated[
        Path | None,
        typer.Option(help="Anchors of the model; their classes do not count as held out.", show_default=False),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Compare with raw class means.")] = False,
) -> None:
    """Score decoder columns on class means: held-out, anchored and all classes, with chance for comparison."""
    import torch

    from monosem.bench.real import class_scores
    from monosem.core.io import load_model
    from monosem.data.class_means import class_anchors
    from monosem.data.trained import read_classes

    source, known = _labelled(data, store, target, key, read, write, labels, labels_key)
    trained = load_model(model)
    note = anchors.with_suffix(".json") if anchors else model / "anchors.json"
    given = read_classes(note) if anchors or note.exists() else ()
    picked = known.pick(given) if given else torch.zeros(0, dtype=torch.int64)
    means = class_anchors(source, known, centre=not raw)
    _scores(class_scores(trained, means, picked), len(known.names), len(given), trained.n_q)


def _labelled(
    data: Path | None,
    store: Path | None,
    target: Path | None,
    key: str | None,
    read: str | None,
    write: str | None,
    labels: Path | None,
    labels_key: str | None,
) -> "tuple[FileSource, Labels]":
    """Rows and their labels, from files or from a store."""
    from monosem.data.source import open_rows

    path, labels = _one_of(data, store), labels or store
    if labels is None:
        fail("give the classes of the rows with --labels FILE")
    with err().status(f"reading {path}"):
        source = open_rows(path, target, read=read, write=write, key=key, labels=labels, labels_key=labels_key)
    assert source.labels is not None
    return source, source.labels


def _one_of(data: Path | None, store: Path | None) -> Path:
    if data is not None and store is None:
        return data
    if store is not None and data is None:
        return store
    return fail("give the rows with --data FILE or with --store DIR, one of them")


def _compare(source: "FileSource", labels: "Labels", shrinkage: float) -> None:
    """Raw and centred means beside each other, and which of them work."""
    from rich.table import Table

    from monosem.data.class_means import read_means

    readings = {kind: read_means(source.x_p, labels, kind == "centred", shrinkage) for kind in ("raw", "centred")}
    title = "class means as anchors: made of even rows, tried on odd ones"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for head in ("means", "closest two, cos", "pairs above 0.95", "own class nearest", "chance"):
        table.add_column(head, justify="left" if head == "means" else "right")
    for kind, r in readings.items():
        row = (f"{r.closest:.3f}", str(r.coincident), f"{r.accuracy:.1%}", f"{r.chance:.1%}")
        table.add_row(kind, *row)
    out().print(table)
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


def _scores(scores: "dict[str, dict[str, dict[str, object]]]", classes: int, anchored: int, n_q: int) -> None:
    from rich.table import Table

    title = "best |cos| of a decoder column with each class mean"
    counts = {"held_out": classes - anchored, "anchored": anchored, "all": classes}
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for head in ("classes", "dictionary", "mean", "above 0.8", "above 0.9", "above 0.95"):
        table.add_column(head, justify="left" if head in ("classes", "dictionary") else "right")
    names = {"value": "the model", "anchors_alone": "anchors alone", "chance": f"{n_q} random"}
    for group in ("held_out", "anchored", "all"):
        for who, name in names.items():
            if group in scores.get(who, {}):
                score: dict[str, object] = scores[who][group]["decoder_cosine"]  # type: ignore[assignment]
                share: dict[str, float] = score["M_GT"]  # type: ignore[assignment]
                shares = [f"{share[tau]:.1%}" for tau in ("0.8", "0.9", "0.95")]
                table.add_row(f"{group.replace('_', ' ')} ({counts[group]})", name, f"{score['M_IP']:.3f}", *shares)
    out().print(table)
    say("only held-out classes say whether anchors help: the others are what anchors were asked for", "dim")


_RowsRead = Annotated[int, typer.Option(help="Most rows to read, spread evenly over the data.")]
_Within = Annotated[
    float, typer.Option(help="Drop rows whose norm exceeds this multiple of a typical row's (0: keep all).")
]
_Confidence = Annotated[float, typer.Option(help="Least confidence of an anchor.")]
_Number = Annotated[int | None, typer.Option("--number", help="Most anchors to keep, the most confident first.")]
_Seed = Annotated[int, typer.Option(help="Seed for the rows and starting points that are sampled.")]
_Runs = Annotated[int, typer.Option(help="Number of independent searches whose results are merged.")]
_Agreed = Annotated[float, typer.Option(help="Fraction of --runs that must agree on an anchor; 0: any of them.")]


def _from_rows(
    out_file: _Out,
    data: _Data = None,
    store: _Store = None,
    target: _Target = None,
    key: _Key = None,
    target_key: _TargetKey = None,
    read: _Read = None,
    write: _Write = None,
    rows: _RowsRead = 100_000,
    within: _Within = 10,
    confidence: _Confidence = 0.0,
    number: _Number = None,
    seed: _Seed = 0,
    runs: _Runs = 1,
    agreed: _Agreed = 0.6,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
) -> None:
    """Discover anchors without labels: directions of which the rows are sparse sums."""
    from monosem.data.source import open_rows

    path = _one_of(data, store)
    _check_discovery(out_file, rows, number, within, runs, {"--confidence": confidence, "--agreed": agreed})
    set_threads(threads)
    with err().status(f"reading {path}"):
        source = open_rows(path, target, read=read, write=write, key=key, target_key=target_key)
        x_p, x_r = _ordinary(source, rows, within)
    discovery = _searched(x_p, x_r, runs, agreed, seed)
    kept = int((discovery.confidence >= confidence).sum())
    kept = kept if number is None else min(kept, number)
    if kept == 0:
        fail(f"none of {discovery.anchors.k} directions has confidence {confidence}; ask for less")
    settings = {"rows": x_p.shape[0], "seed": seed, "runs": runs, "agreed": agreed, "within": within}
    _write(discovery, kept, out_file, settings)
    _summary(discovery, kept, out_file)
    if runs > 1:
        say(f"every direction was found in {agreed:.0%} or more of {runs} runs")


def _check_discovery(
    out_file: Path, rows: int, number: int | None, within: float, runs: int, shares: dict[str, float]
) -> None:
    if out_file.suffix != ".safetensors":
        fail(f"--out {out_file} must end in .safetensors; that is the format of anchors")
    if rows < 2 or (number is not None and number < 1):
        fail(f"--rows {rows} must be at least 2 and --number at least 1")
    if within and within <= 1.0:
        fail(f"--within {within} is a multiple of a typical row's norm; give more than 1, or 0 to keep all rows")
    if runs < 1:
        fail(f"--runs {runs} must be at least 1")
    for option, share in shares.items():
        if not 0.0 <= share <= 1.0:
            fail(f"{option} {share} is a fraction; choose 0 to 1")


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
    write_json(out_file.with_suffix(".json"), facts | numbers)


def _summary(discovery: "Discovery", kept: int, out_file: Path) -> None:
    import torch
    from rich.table import Table

    table = Table(box=None, header_style="bold", title="directions found in the rows alone", title_justify="left")
    for head in ("", "lowest", "5 %", "median", "95 %", "highest"):
        table.add_column(head, justify="left" if not head else "right")
    at = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
    table.add_row("confidence", *(f"{v:.2f}" for v in discovery.confidence.quantile(at).tolist()))
    table.add_row("firing rate", *(f"{v:.2%}" for v in discovery.rates.quantile(at).tolist()))
    out().print(table)
    left, typical = discovery.log[-1]["fvu"], discovery.log[-1]["typical"]
    say(f"{discovery.anchors.k} directions; a row holds {discovery.l0:.1f} of them on average")
    say(f"they leave {left:.1%} of the variance over, and {typical:.1%} of the median row")
    if typical > 0.1:
        say("much is left over: these rows are no sparse sums of few directions, or too few rows were given", "yellow")
    elif left > 0.3:
        say("some rows are far longer than most, and not explained; leave them out with a lower --within", "yellow")
    say(f"{kept} anchors in {out_file}, most confident first; estimates in {out_file.with_suffix('.json')}")
    say(f"next: monosem train ... --anchors {out_file}", "dim")


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    anchors_app.command("from-classes")(_from_classes)
    anchors_app.command("score-classes")(_score_classes)
    anchors_app.command("discover")(_from_rows)
    app.add_typer(anchors_app, name="anchors")

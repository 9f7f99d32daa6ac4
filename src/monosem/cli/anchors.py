"""`monosem anchors`: anchors from labels or from rows alone, and what they do for classes that were held out."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say

if TYPE_CHECKING:
    from monosem.data.source import FileSource
    from monosem.data.table import Labels
    from monosem.dictionary.discover import Discovery

anchors_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make anchors, and score what they do.")

_data = partial(typer.Option, rich_help_panel="Data", show_default=False)
_Data = Annotated[Path | None, _data(help="Representations x_p, a row each: .npy, .safetensors or .parquet.")]
_Store = Annotated[Path | None, _data(help="The same from a store of `monosem harvest`.")]
_Target = Annotated[Path | None, _data(help="Representations x_r of the same inputs, for a transcoder.")]
_Key = Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")]
_Read = Annotated[str | None, _data(help="Site of the store that is read.")]
_Write = Annotated[str | None, _data(help="Site of the store that is written, for a transcoder.")]
_Labels = Annotated[
    Path | None, _data(help="One class per row: a file, or a store with labels. [default: the store's]")
]
_LabelsKey = Annotated[str | None, _data(help="As --key.")]


def _from_classes(
    out_file: Annotated[Path, typer.Option("--out", help="The anchors to write: .safetensors.", show_default=False)],
    data: _Data = None,
    store: _Store = None,
    target: _Target = None,
    key: _Key = None,
    read: _Read = None,
    write: _Write = None,
    labels: _Labels = None,
    labels_key: _LabelsKey = None,
    classes: Annotated[str | None, typer.Option(help='Anchor only these classes, as "cat,dog".')] = None,
    number: Annotated[int | None, typer.Option("--number", help="Anchor so many classes, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of --number.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Do not centre the means, as the paper prints it.")] = False,
    shrinkage: Annotated[float, typer.Option(help="Towards the centre, 1 as James and Stein; 0: none.")] = 0.0,
) -> None:
    """Anchors at the means of labelled classes (eq 23-24), raw and centred compared; centred ones are written."""
    import numpy as np

    from monosem.base.files import write_json
    from monosem.data.class_means import class_anchors

    source, found = _opened(data, store, target, key, read, write, labels, labels_key)
    if classes is not None and number is not None:
        fail("--classes and --number both choose classes; give one of them")
    names = [name.strip() for name in classes.split(",")] if classes else list(found.names)
    if number is not None:
        if not 1 <= number <= len(names):
            fail(f"--number {number} classes of {len(names)}; choose 1 to {len(names)}")
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[:number]]
    anchors = class_anchors(source, found, names, not raw, shrinkage)
    anchors.save(out_file)
    write_json(out_file.with_suffix(".json"), {"classes": names, "centred": not raw, "shrinkage": shrinkage})
    _compare(source, found, shrinkage)
    rest = len(found.names) - len(names)
    kind = "raw" if raw else "centred"
    say(f"{anchors.k} {kind} anchors in {out_file}; {rest} of {len(found.names)} classes left out")
    say(f"next: monosem train ... --anchors {out_file}; then monosem anchors score-classes", "dim")


def _score_classes(
    model: Annotated[Path, typer.Option(help="A trained model's folder.", show_default=False)],
    data: _Data = None,
    store: _Store = None,
    target: _Target = None,
    key: _Key = None,
    read: _Read = None,
    write: _Write = None,
    labels: _Labels = None,
    labels_key: _LabelsKey = None,
    anchors: Annotated[
        Path | None, typer.Option(help="The anchors: none of their classes counts as held out.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Against raw class means.")] = False,
) -> None:
    """Score a model's decoder columns on class means: held-out, anchored and all classes apart, beside chance."""
    import torch

    from monosem.base.files import read_json
    from monosem.bench.real import class_scores
    from monosem.core.io import load_model
    from monosem.data.class_means import class_anchors

    source, found = _opened(data, store, target, key, read, write, labels, labels_key)
    trained = load_model(model)
    beside = anchors.with_suffix(".json") if anchors else model / "anchors.json"
    given = read_json(beside)["classes"] if anchors or beside.exists() else []
    picked = found.pick(given) if given else torch.zeros(0, dtype=torch.int64)
    means = class_anchors(source, found, centre=not raw)
    _scores(class_scores(trained, means, picked), len(found.names), len(given), trained.n_q)


def _opened(
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
    from monosem.data.source import StoreSource, open_source
    from monosem.data.store import is_store, open_store
    from monosem.data.table import read_labels

    if (data is None) == (store is None):
        fail("give the rows with --data FILE or with --store DIR, one of them")
    source: FileSource
    with err().status(f"reading {data or store}"):
        if data is not None:
            source = open_source(data, target, key=key)
        else:
            assert store is not None
            source = StoreSource(store, read, write, normalise=False)
    labels = labels or store
    if labels is None:
        fail("give the classes of the rows with --labels FILE")
    if is_store(labels):
        found = open_store(labels).labels
        if found is None:
            fail(f"{labels} holds no labels; harvest it again with labels, or give them with --labels FILE")
        if found.codes.numel() != source.rows:
            fail(f"{labels} labels {found.codes.numel():,} rows, the data have {source.rows:,}; give one per row")
        return source, found
    return source, read_labels(labels, source.rows, labels_key)


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


def _scores(found: "dict[str, dict[str, dict[str, object]]]", classes: int, anchored: int, n_q: int) -> None:
    from rich.table import Table

    title = "best |cos| of a decoder column with each class mean"
    counts = {"held_out": classes - anchored, "anchored": anchored, "all": classes}
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for head in ("classes", "dictionary", "mean", "above 0.8", "above 0.9", "above 0.95"):
        table.add_column(head, justify="left" if head in ("classes", "dictionary") else "right")
    names = {"value": "the model", "anchors_alone": "anchors alone", "chance": f"{n_q} random"}
    for group in ("held_out", "anchored", "all"):
        for who, name in names.items():
            if group in found.get(who, {}):
                score: dict[str, object] = found[who][group]["decoder_cosine"]  # type: ignore[assignment]
                share: dict[str, float] = score["M_GT"]  # type: ignore[assignment]
                shares = [f"{share[tau]:.1%}" for tau in ("0.8", "0.9", "0.95")]
                table.add_row(f"{group.replace('_', ' ')} ({counts[group]})", name, f"{score['M_IP']:.3f}", *shares)
    out().print(table)
    say("only held-out classes say whether anchors help: the others are what anchors were asked for", "dim")


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    anchors_app.command("from-classes")(_from_classes)
    anchors_app.command("score-classes")(_score_classes)
    anchors_app.command("discover")(_from_rows)
    app.add_typer(anchors_app, name="anchors")


def _from_rows(
    out_file: Annotated[Path, typer.Option("--out", help="The anchors to write: .safetensors.", show_default=False)],
    data: Annotated[Path | None, _data(help="Representations x_p, a row each: .npy, .safetensors or .parquet.")] = None,
    store: Annotated[Path | None, _data(help="The same from a store of `monosem harvest`.")] = None,
    target: Annotated[Path | None, _data(help="Representations x_r of the same inputs, for a transcoder.")] = None,
    key: Annotated[str | None, _data(help="Tensor of a .safetensors file, or columns of a .parquet one.")] = None,
    target_key: Annotated[str | None, _data(help="As --key, of --target.")] = None,
    read: Annotated[str | None, _data(help="Site of the store that is read.")] = None,
    write: Annotated[str | None, _data(help="Site of the store that is written, for a transcoder.")] = None,
    rows: Annotated[int, typer.Option(help="Read at most so many rows, spread evenly.")] = 100_000,
    within: Annotated[float, typer.Option(help="Leave out rows so many times as long as ordinary ones; 0: none.")] = 10,
    confidence: Annotated[float, typer.Option(help="Keep anchors of at least this confidence.")] = 0.0,
    number: Annotated[int | None, typer.Option("--number", help="Keep so many, the most confident.")] = None,
    seed: Annotated[int, typer.Option(help="Of the rows and starts that are drawn.")] = 0,
    runs: Annotated[int, typer.Option(help="Search so often, with other seeds and levels, and keep what agrees.")] = 1,
    agreed: Annotated[float, typer.Option(help="Keep what this share of --runs found; 0: what any of them did.")] = 0.6,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
) -> None:
    """Anchors without labels: directions of which the rows are sparse sums. Nothing but the rows is read."""
    import torch
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from monosem.dictionary.consensus import discover_often
    from monosem.dictionary.discover import ordinary_rows

    source = _opened_rows(data, store, target, key, target_key, read, write)
    if out_file.suffix != ".safetensors":
        fail(f"--out {out_file} must end in .safetensors; that is the format of anchors")
    if rows < 2 or (number is not None and number < 1):
        fail(f"--rows {rows} must be at least 2 and --number at least 1")
    if within and within <= 1.0:
        fail(f"--within {within} is a factor on the length of ordinary rows; give more than 1, or 0 to keep all rows")
    if runs < 1:
        fail(f"--runs {runs} must be at least 1")
    for option, share in (("--confidence", confidence), ("--agreed", agreed)):
        if not 0.0 <= share <= 1.0:
            fail(f"{option} {share} is a share; choose 0 to 1")
    if threads:
        torch.set_num_threads(threads)
    x_p, x_r = source.sample(rows)
    paired = source.x_r is not None
    if within:
        ordinary = ordinary_rows(x_p, within)
        x_p, x_r = x_p[ordinary], x_r[ordinary]
        _left_out(int((~ordinary).sum()), ordinary.numel(), within)
    columns = (SpinnerColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        shown = bar.add_task("starting", total=1.0)
        tell = partial(_tell, bar, shown)
        found = discover_often(x_p, x_r if paired else None, runs=runs, share=agreed, seed=seed, progress=tell)
    kept = int((found.confidence >= confidence).sum())
    kept = kept if number is None else min(kept, number)
    if kept == 0:
        fail(f"none of {found.anchors.k} directions has confidence {confidence}; ask for less")
    _write(
        found, kept, out_file, {"rows": x_p.shape[0], "seed": seed, "runs": runs, "agreed": agreed, "within": within}
    )
    _summary(found, kept, out_file)
    if runs > 1:
        say(f"every direction was found in {agreed:.0%} or more of {runs} runs")


def _left_out(count: int, rows: int, within: float) -> None:
    if count:
        say(f"{count} of {rows:,} rows are over {within:g} times as long as ordinary ones and left out (--within)")


def _tell(bar: "object", shown: int, share: float, text: str) -> None:
    bar.update(shown, completed=share, description=text)  # type: ignore[attr-defined]


def _opened_rows(
    data: Path | None,
    store: Path | None,
    target: Path | None,
    key: str | None,
    target_key: str | None,
    read: str | None,
    write: str | None,
) -> "FileSource":
    from monosem.data.source import StoreSource, open_source

    if (data is None) == (store is None):
        fail("give the rows with --data FILE or with --store DIR, one of them")
    with err().status(f"reading {data or store}"):
        if data is not None:
            return open_source(data, target, key=key, target_key=target_key)
        if target is not None:
            fail("--target goes with --data; a store names what is written with --write")
        assert store is not None
        return StoreSource(store, read, write, normalise=False)


def _write(found: "Discovery", kept: int, out_file: Path, how: dict[str, float]) -> None:
    """The anchors, and beside them a .json of what was estimated."""
    from monosem.anchors.directions import Anchors
    from monosem.base.files import write_json

    Anchors(found.anchors.p[:, :kept], found.anchors.r[:, :kept], found.anchors.kind).save(out_file)
    numbers = {name: getattr(found, name)[:kept].tolist() for name in ("confidence", "rates")}
    facts = how | {"l0": found.l0, "found": found.anchors.k, "log": found.log}
    write_json(out_file.with_suffix(".json"), facts | numbers)


def _summary(found: "Discovery", kept: int, out_file: Path) -> None:
    import torch
    from rich.table import Table

    table = Table(box=None, header_style="bold", title="directions found in the rows alone", title_justify="left")
    for head in ("", "lowest", "5 %", "median", "95 %", "highest"):
        table.add_column(head, justify="left" if not head else "right")
    at = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
    table.add_row("confidence", *(f"{v:.2f}" for v in found.confidence.quantile(at).tolist()))
    table.add_row("firing rate", *(f"{v:.2%}" for v in found.rates.quantile(at).tolist()))
    out().print(table)
    left, typical = found.log[-1]["fvu"], found.log[-1]["typical"]
    say(f"{found.anchors.k} directions; a row holds {found.l0:.1f} of them on average")
    say(f"they leave {left:.1%} of the variance over, and {typical:.1%} of the median row")
    if typical > 0.1:
        say("much is left over: these rows are no sparse sums of few directions, or too few rows were given", "yellow")
    elif left > 0.3:
        say("some rows are far longer than most, and not explained; leave them out with a lower --within", "yellow")
    say(f"{kept} anchors in {out_file}, most confident first; estimates in {out_file.with_suffix('.json')}")
    say(f"next: monosem train ... --anchors {out_file}", "dim")

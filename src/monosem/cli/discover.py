"""`monosem anchors discover`: anchors from rows alone, without labels."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monosem.cli.console import err, fail, out, say

if TYPE_CHECKING:
    from monosem.data.source import FileSource
    from monosem.dictionary.discover import Discovery

_data = partial(typer.Option, rich_help_panel="Data", show_default=False)


def from_rows(
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
    from monosem.dictionary.ordinary import ordinary_rows

    source = _opened(data, store, target, key, target_key, read, write)
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


def _opened(
    data: Path | None,
    store: Path | None,
    target: Path | None,
    key: str | None,
    target_key: str | None,
    read: str | None,
    write: str | None,
) -> "FileSource":
    from monosem.data.source import open_source
    from monosem.data.store_source import StoreSource

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

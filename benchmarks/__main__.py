"""`python -m benchmarks`: what training, storing and importing cost, here and beside other libraries."""

import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from monosem.base import write_json
from monosem.cli.console import Commands, fail, out, say

HERE = Path(__file__).parent
RECORDS = HERE / "records"
app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
_CASES = "Cases, separated by commas; main: those with goals."
_Cases = Annotated[str | None, typer.Option(help=f"{_CASES} [default: all]", show_default=False)]
Record = Annotated[Path, typer.Option(help="The record that is written.")]


def _among(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        fail(f"{option} {text!r}: {', '.join(unknown) or 'nothing'} is not known; choose from {', '.join(known)}")
    return words


def _positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            fail(f"--{name.replace('_', '-')} {number}; it must be at least 1")


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(word) if word.isdigit() else 0 for word in text.split(","))
    if min(counts) < 1:
        fail(f"--threads {text!r}; give whole numbers from 1 on, separated by commas, as 1,2")
    return counts


def _command() -> str:
    return f"python -m benchmarks {shlex.join(sys.argv[1:])}"


def _dim(text: str) -> None:
    say(text, "dim")


def _plain(text: str) -> None:
    out().print(text, markup=False, soft_wrap=True)


def _stored(path: Path, record: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print what was measured, and write the record with when and how."""
    for text in lines:
        _plain(text)
    when = {"command": _command(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    say(f"record   {write_json(path, when | dict(record))}")


@app.command()
def speed(
    quick: Annotated[bool, typer.Option("--quick", help="Small size, main methods, few rounds: a minute.")] = False,
    sizes: Annotated[str, typer.Option(help="Among small, paper, large, separated by commas.")] = "small,paper",
    cases: _Cases = None,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every contender has one turn.")] = 5,
    threads: Annotated[str, typer.Option(help="Thread counts, separated by commas.")] = "1",
    warm: Annotated[int | None, typer.Option(help="Most steps before timing. [default: 200]")] = None,
    peers: Annotated[
        Path | None,
        typer.Option(help="Folder of side environments (python -m benchmarks.peers --speed); none: monosem alone."),
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Add cost against n_q, k, batch and n_p.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Add many runs at once, in one process and in two.")] = False,
    floor: Annotated[bool, typer.Option("--floor/--no-floor", help="The floor's pieces.")] = True,
    record: Record = Path("runs/speed.json"),
) -> None:
    """Time whole steps of `fit`, the floor's pieces and other libraries, interleaved."""
    from benchmarks.driver import Options, measure
    from benchmarks.libraries import environments
    from benchmarks.report import speed_page
    from benchmarks.sizes import CASES, MAIN, QUICK, SIZES

    _positive(rounds=rounds, warm=warm)
    whole = {"main": MAIN, None: QUICK if quick else tuple(CASES)}
    names = whole[cases] if cases in whole else _among("--cases", str(cases), CASES)
    places, counts, there = _among("--sizes", sizes, SIZES), _counts(threads), environments(peers) if peers else {}
    if peers and not there:
        fail(f"--peers {peers} holds no side environment; make them with `python -m benchmarks.peers --speed`")
    options = Options(
        places, names, rounds, threads=counts, peers=there, warm=warm, floor=floor, curves=curves, sweep=sweep
    )
    if quick:
        options = replace(options, sizes=("small",), rounds=min(rounds, 3), warm=50 if warm is None else warm)
    measured = measure(options, _command(), _dim)
    _stored(record, measured, [speed_page(measured)])
    for text in (failures := _failures(measured)):
        say(f"failed: {text}", "red")
    if failures:
        fail(f"{len(failures)} contenders failed; the others are in the record", code=1)


def _failures(record: Mapping[str, Any]) -> list[str]:
    return [
        f"{size} {case} {who}: {contender['error']}"
        for size, one in record["sizes"].items()
        for case, contenders in {"floor": {"floor": one["floor"]}, **one["cases"]}.items()
        for who, contender in contenders.items()
        if "error" in contender
    ]


@app.command()
def pairs(
    before: Annotated[Path, typer.Option(help="The root of an older checkout; this checkout is 'after'.")],
    cases: Annotated[str, typer.Option(help=_CASES)] = "topk",
    certified: Annotated[bool, typer.Option("--certified", help="Add each case's bfloat16 form.")] = False,
    pairs: Annotated[int, typer.Option(help="Turns of each checkout, interleaved.")] = 30,
    threads: Annotated[int, typer.Option(help="Torch threads; with one, processor time counts, else wall time.")] = 1,
    size: Annotated[str, typer.Option(help="One of small, paper, large.")] = "paper",
    warm: Annotated[int, typer.Option(help="Steps before timing.")] = 50,
    record: Record = Path("runs/pairs.json"),
) -> None:
    """Compare the steps of an older checkout with those of this one: median ratio, its interval, and noise alone."""
    from benchmarks.pairs import Options, compare
    from benchmarks.sizes import CASES, MAIN, SIZES

    _positive(pairs=pairs, threads=threads, warm=warm)
    main = tuple(name for name in MAIN if not name.endswith("_bf16"))
    names = main if cases == "main" else _among("--cases", cases, CASES)
    if certified:
        names += tuple(f"{name}_bf16" for name in names if f"{name}_bf16" in CASES)
    (named,) = _among("--size", size, SIZES)
    _stored(record, compare(Options(before, names, named, pairs, threads, warm), _command(), _plain, record), [])


@app.command()
def quality(
    data: Annotated[Path, typer.Argument(metavar="ROWS", help="A store of `monosem harvest`, or a file of rows.")],
    cases: Annotated[str, typer.Option(help="Among topk, batch_topk, jumprelu, separated by commas.")] = (
        "topk,batch_topk,jumprelu"
    ),
    peers: Annotated[
        Path | None,
        typer.Option(help="Folder of side environments (python -m benchmarks.peers --speed); none: monosem alone."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Rows that each trainer sees.")] = 300_000,
    n_q: Annotated[int, typer.Option(help="Latents.")] = 4096,
    k: Annotated[int, typer.Option(help="Active latents asked for.")] = 32,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = 512,
    record: Record = Path("runs/quality.json"),
) -> None:
    """Score each library's own trainer on the same rows as it trains; a record that is there is completed."""
    from benchmarks.libraries import environments
    from benchmarks.quality import METHODS, Options, measure

    _positive(tokens=tokens, n_q=n_q, k=k, batch=batch)
    there = environments(peers) if peers else {}
    if peers and not there:
        fail(f"--peers {peers} holds no side environment; make them with `python -m benchmarks.peers --speed`")
    options = Options(_among("--cases", cases, METHODS), there, tokens, n_q, k, batch)
    measure(data, options, record, _dim, _command())
    say(f"record   {record}")


@app.command()
def phases(
    cases: Annotated[str | None, typer.Option(help="Cases, separated by commas.", show_default=False)] = None,
    record: Record = RECORDS / "phases.json",
) -> None:
    """Time each part of a step at paper size with one thread and with two."""
    from benchmarks.phases import DEFAULT, run
    from benchmarks.sizes import CASES

    _stored(record, run(_among("--cases", cases, CASES) if cases else DEFAULT, _command(), _dim), [])


@app.command()
def checks(
    cases: Annotated[str, typer.Option(help="Cases, separated by commas.")] = "topk,jumprelu",
    pairs: Annotated[int, typer.Option(help="Steps with the checks, and as many without.")] = 20,
    size: Annotated[str, typer.Option(help="One of small, paper, large.")] = "paper",
    record: Record = RECORDS / "checks.json",
) -> None:
    """Compare steps with the checks of rows, losses and positions with steps without them, interleaved."""
    from benchmarks.checks import run
    from benchmarks.sizes import CASES, SIZES

    _positive(pairs=pairs)
    (named,) = _among("--size", size, SIZES)
    _stored(record, run(_among("--cases", cases, CASES), pairs, _plain, SIZES[named]), [])


@app.command()
def harvest(
    text: Annotated[Path, typer.Option(help="Documents, a .jsonl or .txt file.")],
    network: Annotated[str, typer.Option(help="A name or folder of a network.")] = "stories15m",
    layer: Annotated[int, typer.Option(help="The layer whose MLP and output are read.")] = 3,
    batches: Annotated[int, typer.Option(help="Batches of 4096 tokens in one harvest.")] = 5,
    rounds: Annotated[int, typer.Option(help="Harvests of each kind.")] = 5,
    n_q: Annotated[int, typer.Option(help="Latents of the dictionary that reads the rows.")] = 4096,
    batch: Annotated[int, typer.Option(help="Rows of one of its steps.")] = 1024,
    steps: Annotated[int, typer.Option(help="Its steps.")] = 60,
    record: Record = Path("runs/harvest.json"),
) -> None:
    """Compare harvesting with the bare forward pass, and reading stored rows with a training step."""
    from benchmarks.harvest import lines, measure

    _positive(batches=batches, rounds=rounds, n_q=n_q, batch=batch, steps=steps)
    measured = measure(network, text, layer, batches=batches, rounds=rounds, n_q=n_q, batch=batch, steps=steps)
    _stored(record, measured, lines(measured))


@app.command()
def live(
    pairs: Annotated[int, typer.Option(help="Turns of each, interleaved.")] = 30,
    sizes: Annotated[str, typer.Option(help="Among small, paper, separated by commas.")] = "small,paper",
    waits: Annotated[
        str, typer.Option(help="The network's wait for a batch, in steps, separated by commas.")
    ] = "0.5,0.9",
    record: Record = RECORDS / "live.json",
) -> None:
    """Compare a step on rows of a network that is a wait with one on the same rows from a store, interleaved."""
    from benchmarks.live import run
    from benchmarks.sizes import SIZES

    _positive(pairs=pairs)
    shares = [float(word) for word in waits.split(",") if word.replace(".", "", 1).isdigit()]
    if len(shares) < len(waits.split(",")):
        fail(f"--waits {waits!r}; give shares of a step, separated by commas, as 0.5,0.9")
    _stored(record, run([SIZES[name] for name in _among("--sizes", sizes, SIZES)], shares, pairs, _plain), [])


@app.command()
def containers(
    rows: Annotated[int, typer.Option(help="Rows that are stored.")] = 400_000,
    width: Annotated[int, typer.Option(help="Numbers in a row.")] = 576,
    batch: Annotated[int, typer.Option(help="Rows that are read at once.")] = 1024,
    rounds: Annotated[int, typer.Option(help="Reads of each kind.")] = 15,
    record: Record = Path("runs/containers.json"),
) -> None:
    """Compare containers for activations: reading rows by a permutation, and in order."""
    from benchmarks.containers import lines, measure

    _positive(rows=rows, width=width, batch=batch, rounds=rounds)
    measured = measure(rows, width, batch, rounds)
    _stored(record, measured, lines(measured))


@app.command()
def imports(rounds: Annotated[int, typer.Option(help="Fresh interpreters for each import.")] = 9) -> None:
    """Compare `import monosem` with `import torch` in fresh interpreters, interleaved."""

    def seconds(module: str) -> float:
        program = f"from time import perf_counter as t; a = t(); import {module}; print(t() - a)"
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    _positive(rounds=rounds)
    seconds("monosem")  # writes byte code and warms the disk's cache
    times = [(seconds("torch"), seconds("monosem")) for _ in range(rounds)]
    ratios = [ours / torch for torch, ours in times]
    medians = (statistics.median(side) for side in zip(*times, strict=True))
    for module, median in zip(("torch", "monosem"), medians, strict=True):
        out().print(f"import {module:8} {median:.3f} s (median of {rounds})")
    out().print(f"ratio           {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


_CALLS = ("--version", "--help", "list", "train --help", "cite topkk")
"""Calls that answer at once, and one that needs torch to be refused."""


@app.command()
def start(
    rounds: Annotated[int, typer.Option(help="Fresh processes for each call.")] = 9,
    record: Record = RECORDS / "start.json",
) -> None:
    """Measure the processor time that `monosem` takes to answer, beside an interpreter that imports nothing."""
    from resource import RUSAGE_CHILDREN, getrusage

    from monosem.base import machine

    def seconds(*words: str) -> float:
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=False)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    _positive(rounds=rounds)
    calls = {"python -c pass": ("-c", "pass")} | {f"monosem {c}": ("-m", "monosem", *c.split()) for c in _CALLS}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first round writes byte code and is left out
        for name, words in calls.items():
            times[name].append(seconds(*words))
    medians = {name: round(statistics.median(each[1:]), 3) for name, each in times.items()}
    lines = [f"{name:20} {median:.3f} s" for name, median in medians.items()]
    _stored(record, {"cpu_seconds": medians, "rounds": rounds, "machine": machine()}, lines)


@app.command("gpu-day", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def gpu_day(context: typer.Context) -> None:
    """Prove and time the CUDA path; `python -m benchmarks.gpu_day` is the same without this command line's packages."""
    from benchmarks.gpu_day import main

    raise typer.Exit(main(context.args))


@app.command()
def pages() -> None:
    """Write BENCHMARKS.md's speed part, docs/quality.md, docs/speed_phases.md and figures anew, from records alone."""
    from benchmarks.report import write_pages

    write_pages(RECORDS, HERE.parent)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")

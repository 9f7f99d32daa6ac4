"""`monosem check`: run the theory's checks and say whether all is as documented."""

import json as json_module
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from monosem.theory.checks.base import Check, Report, Verdict, examine, on_problem
from monosem.theory.checks.registry import CHECKS, SUITE
from monosem.theory.problem import Problem, load_problem


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "holds": verdict.holds,
        "residual": verdict.residual if math.isfinite(verdict.residual) else None,
        "tolerance": verdict.tolerance,
        "trials": verdict.trials,
        "second": verdict.second,
        "agrees": verdict.agrees,
        "witness": verdict.witness,
    }


def _record(report: Report) -> dict[str, Any]:
    return {
        "check": report.name,
        "claim": report.claim,
        "statement": report.statement,
        "paper": report.paper,
        "as_documented": report.as_documented,
        **_plain(report.verdict),
        "counter_cases": {name: {**_plain(v), "caught": not v.holds} for name, v in report.counter.items()},
    }


def _claims_table(reports: list[Report]) -> Table:
    table = Table(title="the theory's claims", title_justify="left", show_lines=True)
    table.add_column("claim", min_width=20, overflow="fold")
    table.add_column("statement (as printed: confirmed, needs hypotheses, false; or repaired)", overflow="fold")
    for column in ("verdict", "residual", "trials", "caught"):
        table.add_column(column, no_wrap=True)
    for r in reports:
        caught = f"{sum(not v.holds for v in r.counter.values())} of {len(r.counter)}"
        colour = "green" if r.as_documented else "bold red"
        verdict = ("holds" if r.verdict.holds else "FAILS") + ("" if r.verdict.agrees else ", DISAGREES")
        table.add_row(
            f"{r.claim}\n[dim]{r.name}[/]",
            f"{escape(r.statement)} [dim]({r.paper})[/]",
            f"[{colour}]{verdict}[/]",
            f"{r.verdict.residual:.1e}",
            str(r.verdict.trials),
            f"[{colour}]{caught}[/]",
        )
    return table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(_check)


def _check(
    names: Annotated[list[str] | None, typer.Argument(help="Checks to run; all by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    problem: Annotated[Path | None, typer.Option(help="Problem of your own to check as well (JSON).")] = None,
    seed: Annotated[int, typer.Option(help="Root of every random stream.")] = 0,
    trials: Annotated[int | None, typer.Option(help="Random cases per check.")] = None,
) -> None:
    """Run the theory's checks; exit status 0 says that all is as documented."""
    begin, console = time.perf_counter(), Console()
    chosen = [CHECKS[name] for name in names or CHECKS]
    problems = dict(SUITE) if problem is None else {str(problem): load_problem(problem)}
    with console.status("checking") as status:
        reports = list(_examined(chosen, seed, trials, status))
        own = {label: _applied(chosen, instance, seed) for label, instance in problems.items()}
    good = all([*(r.as_documented for r in reports), *(_is_sound(rows) for rows in own.values())])
    seconds = time.perf_counter() - begin
    if json:
        record = {
            "schema": "monosem.check/1",
            "as_documented": good,
            "seed": seed,
            "seconds": round(seconds, 1),
            "checks": [_record(r) for r in reports],
            "problems": {label: _plain_rows(rows) for label, rows in own.items()},
        }
        typer.echo(json_module.dumps(record, indent=1))
    else:
        console.print(_claims_table(reports))
        _show_problems(console, own)
        word = "all is as documented" if good else "NOT as documented"
        console.print(f"{word}: {len(reports)} checks in {seconds:.0f} s")
    if not good:
        raise typer.Exit(1)


def _examined(checks: list[Check], seed: int, trials: int | None, status: Status) -> Iterator[Report]:
    for one in checks:
        status.update(f"checking {one.claim}: {one.name}")
        yield examine(one, seed, trials)


_Rows = dict[str, Verdict | str]
"""By check: its verdict on one problem, or why it does not apply."""


def _applied(checks: list[Check], problem: Problem, seed: int) -> _Rows:
    return {one.name: on_problem(one, problem, seed) for one in checks if one.applies}


def _is_sound(rows: _Rows) -> bool:
    return all(v.holds and v.agrees for v in rows.values() if isinstance(v, Verdict))


def _plain_rows(rows: _Rows) -> dict[str, Any]:
    return {name: v if isinstance(v, str) else _plain(v) for name, v in rows.items()}


def _show_problems(console: Console, own: dict[str, _Rows]) -> None:
    for label, rows in own.items():
        kinds: dict[str, list[str]] = {"holds": [], "fails": [], "outside": []}
        for name, v in rows.items():
            kind = "outside" if isinstance(v, str) else "holds" if v.holds and v.agrees else "fails"
            kinds[kind].append(f"{name} ({v})" if isinstance(v, str) else name)
        console.print(f"[bold]{escape(label)}[/]: holds: {', '.join(kinds['holds']) or 'none'}")
        if kinds["fails"]:
            console.print(f"  [bold red]fails: {', '.join(kinds['fails'])}[/]")
        if kinds["outside"]:
            console.print(escape(f"  does not apply: {'; '.join(kinds['outside'])}"))

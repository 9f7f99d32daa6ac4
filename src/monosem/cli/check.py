"""`monosem check`: run the theory's checks and say whether all is as documented."""

import json as json_module
import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monosem.theory.checks.base import Report, Verdict, examine, on_problem
from monosem.theory.checks.registry import CHECKS, SUITE
from monosem.theory.problem import load_problem


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
    """Add the command to an application."""

    @app.command("check")
    def check(
        names: Annotated[list[str] | None, typer.Argument(help="Checks to run; all by default.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
        problem: Annotated[Path | None, typer.Option(help="Also check a problem of your own (JSON).")] = None,
        seed: Annotated[int, typer.Option(help="Root of every random stream.")] = 0,
        trials: Annotated[int | None, typer.Option(help="Random cases per check.")] = None,
    ) -> None:
        """Run the theory's checks; exit status 0 says that all is as documented."""
        begin, console = time.perf_counter(), Console()
        chosen = [CHECKS[name] for name in names or CHECKS]
        reports = []
        with console.status("checking") as status:
            for one in chosen:
                status.update(f"checking {one.claim}: {one.name}")
                reports.append(examine(one, seed, trials))
            problems = dict(SUITE) if problem is None else {str(problem): load_problem(problem)}
            own = {
                label: {one.name: on_problem(one, instance, seed) for one in chosen if one.applies}
                for label, instance in problems.items()
            }
        agreed = all(r.as_documented for r in reports)
        sound = all(v.holds and v.agrees for table in own.values() for v in table.values() if isinstance(v, Verdict))
        seconds = time.perf_counter() - begin
        if json:
            plain_own = {
                label: {name: v if isinstance(v, str) else _plain(v) for name, v in table.items()}
                for label, table in own.items()
            }
            record = {
                "schema": "monosem.check/1",
                "as_documented": agreed and sound,
                "seed": seed,
                "seconds": round(seconds, 1),
                "checks": [_record(r) for r in reports],
                "problems": plain_own,
            }
            typer.echo(json_module.dumps(record, indent=1))
        else:
            console.print(_claims_table(reports))
            _problems(console, own)
            word = "all is as documented" if agreed and sound else "NOT as documented"
            console.print(f"{word}: {len(reports)} checks in {seconds:.0f} s")
        if not (agreed and sound):
            raise typer.Exit(1)


def _problems(console: Console, own: dict[str, dict[str, Verdict | str]]) -> None:
    for label, rows in own.items():
        passed = [name for name, v in rows.items() if isinstance(v, Verdict) and v.holds and v.agrees]
        failed = [name for name, v in rows.items() if isinstance(v, Verdict) and name not in passed]
        outside = [f"{name} ({v})" for name, v in rows.items() if isinstance(v, str)]
        console.print(f"[bold]{escape(label)}[/]: holds: {', '.join(passed) or 'none'}")
        if failed:
            console.print(f"  [bold red]fails: {', '.join(failed)}[/]")
        if outside:
            console.print(escape(f"  does not apply: {'; '.join(outside)}"))

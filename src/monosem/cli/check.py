"""`monosem check`: run the theory's checks and say whether all is as documented."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.status import Status
from rich.text import Text

from monosem.cli.console import err, fail
from monosem.cli.options import Answer, command_of, opt

if TYPE_CHECKING:
    from monosem.theory.checks.base import Check, Report, Verdict
    from monosem.theory.problem import Problem


def _plain(verdict: "Verdict") -> dict[str, Any]:
    return {
        "holds": verdict.holds,
        "residual": verdict.residual if math.isfinite(verdict.residual) else None,
        "tolerance": verdict.tolerance,
        "trials": verdict.trials,
        "second": verdict.second,
        "agrees": verdict.agrees,
        "witness": verdict.witness,
    }


def _record(report: "Report") -> dict[str, Any]:
    return {
        "check": report.name,
        "claim": report.claim,
        "statement": report.statement,
        "paper": report.paper,
        "as_documented": report.as_documented,
        **_plain(report.verdict),
        "counter_cases": {name: {**_plain(v), "caught": not v.holds} for name, v in report.counter.items()},
    }


def _claim(r: "Report") -> Text:
    """A claim: its verdict, and below that its statement."""
    caught = f"{sum(not v.holds for v in r.counter.values())} of {len(r.counter)} counter-cases caught"
    style = "green" if r.as_documented else "bold red"
    verdict = ("holds" if r.verdict.holds else "FAILS") + ("" if r.verdict.agrees else ", DISAGREES")
    numbers = f"residual {r.verdict.residual:.1e}, {r.verdict.trials} trials, {caught}"
    head = Text.assemble((r.claim, "bold"), f" {r.name}: ", (verdict, style), f" ({numbers})")
    return Text.assemble(head, "\n  ", (f"{r.statement} ({r.paper})", "dim"))


@dataclass(frozen=True)
class _CheckOptions:
    """The options of `monosem check`."""

    names: Annotated[
        list[str] | None, typer.Argument(metavar="CHECK", help="Checks to run, such as repaired_3_6. [default: all]")
    ] = None
    problem: Annotated[Path | None, opt("Problem of your own to analyse: .json.")] = None
    seed: Annotated[int, opt("Root of every random stream.")] = 0
    trials: Annotated[int | None, opt("Number of random cases per check. [default: the check's]")] = None


@command_of(_CheckOptions)
def check(o: _CheckOptions) -> Answer:
    """Run the theory's checks, a minute; exit status 0 says that all is as documented.

    With --problem: the patterns of that problem, which hold a trap, a saddle or no stationary point, its least loss,
    and the checks that apply to it.
    """
    from monosem.theory.checks.registry import CHECKS
    from monosem.theory.problem import load_problem

    if o.trials is not None and o.trials < 1:
        fail(f"--trials {o.trials}; it must be at least 1")
    problem = None if o.problem is None else load_problem(o.problem)
    chosen = [CHECKS[name] for name in o.names or CHECKS]
    return _of_all(chosen, o) if problem is None else _on_one(str(o.problem), problem, chosen, o)


def _of_all(checks: "list[Check]", o: _CheckOptions) -> Answer:
    """Every check on its random cases, and on the suite of problems."""
    from monosem.theory.checks.registry import SUITE

    begin = time.perf_counter()
    with err().status("checking") as status:
        reports = list(_examined(checks, o.seed, o.trials, status))
        own = {label: _applied(checks, instance, o.seed) for label, instance in SUITE.items()}
    good = all([*(r.as_documented for r in reports), *map(_is_sound, own.values())])
    seconds = time.perf_counter() - begin
    facts = {
        "schema": "monosem.check/1",
        "as_documented": good,
        "seed": o.seed,
        "seconds": round(seconds, 1),
        "checks": list(map(_record, reports)),
        "problems": {label: _plain_rows(rows) for label, rows in own.items()},
    }
    word = "all is as documented" if good else "NOT as documented"
    last = f"{word}: {len(reports)} check{'s' * (len(reports) != 1)} in {seconds:.0f} s"
    lines = [line for label, rows in own.items() for line in _problem_lines(label, rows)]
    return Answer(facts, Group(*map(_claim, reports), *lines, last), code=0 if good else 1)


def _on_one(path: str, problem: "Problem", checks: "list[Check]", o: _CheckOptions) -> Answer:
    """What is true of one problem."""
    from monosem.cli.tables import Sheet
    from monosem.theory.search.atlas import survey

    with err().status(f"looking at the patterns of {path}"):
        seen = survey(problem, seed=o.seed)
        rows = _applied(checks, problem, o.seed)
    good = _is_sound(rows)
    head = Text.assemble((path, "bold"), f": {seen.title}")
    sheet = Sheet("", ("pattern", "holds", "loss", "searches"))
    for entry in seen.entries:
        loss = "" if entry.loss != entry.loss else f"{entry.loss:.6g}"
        sheet.add(entry.pattern, entry.verdict, loss, f"{entry.acs:.0%}" if entry.acs else "")
    facts = {"problem": path, "holds": good, "checks": _plain_rows(rows), **seen.plain()}
    shown = Group(head, sheet, *map(Text, seen.notes), "", *_problem_lines("checks", rows))
    return Answer(facts, shown, code=0 if good else 1)


def _examined(checks: "list[Check]", seed: int, trials: int | None, status: Status) -> "Iterator[Report]":
    from monosem.theory.checks.base import examine

    for one in checks:
        status.update(f"checking {one.claim}: {one.name}")
        yield examine(one, seed, trials)


_Rows = dict[str, Any]
"""By check: its verdict on one problem, or why it does not apply."""


def _applied(checks: "list[Check]", problem: "Problem", seed: int) -> _Rows:
    from monosem.theory.checks.base import on_problem

    return {one.name: on_problem(one, problem, seed) for one in checks if one.applies}


def _is_sound(rows: _Rows) -> bool:
    return all(v.holds and v.agrees for v in rows.values() if not isinstance(v, str))


def _plain_rows(rows: _Rows) -> dict[str, Any]:
    return {name: v if isinstance(v, str) else _plain(v) for name, v in rows.items()}


def _problem_lines(label: str, rows: _Rows) -> Iterator[Text]:
    """The checks that hold on a problem, that fail and that do not apply."""
    kinds: dict[str, list[str]] = {"holds": [], "fails": [], "outside": []}
    for name, v in rows.items():
        kind = "outside" if isinstance(v, str) else "holds" if v.holds and v.agrees else "fails"
        kinds[kind].append(f"{name} ({v})" if isinstance(v, str) else name)
    yield Text.assemble((label, "bold"), f": holds: {', '.join(kinds['holds']) or 'none'}")
    if kinds["fails"]:
        yield Text(f"  fails: {', '.join(kinds['fails'])}", "bold red")
    if kinds["outside"]:
        yield Text(f"  does not apply: {'; '.join(kinds['outside'])}")

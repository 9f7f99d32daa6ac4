"""Runs that are no training on the bench: numbers that are computed once, and kept in a JSON file of their own."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monosem import FitConfig
from monosem.base import write_json
from monosem.bench import environment
from studies.engine.cells import Results
from studies.engine.records import Record, Records
from studies.engine.study import Progress
from studies.engine.tables import Table


@dataclass(frozen=True)
class Computed:
    """The numbers of one study: `make(folder, config)`, a function of a module, gives them.

    A record is known by its name, `below`/NAME such as "drawn/figure4", and by its number of steps where it has one.
    """

    method: str
    make: Callable[[Path, FitConfig], dict[str, Any]]
    config: FitConfig = field(default_factory=FitConfig)
    below: str = "drawn"
    arm: str = ""
    seed: int = 0
    needs: None = None

    @property
    def key(self) -> str:
        """The record's name."""
        return f"{self.below}/{self.method}".removeprefix("./")

    @property
    def plain_key(self) -> str:
        """None has anchors to leave out."""
        return self.key

    def find(self, records: Records) -> Record | None:
        """The record of as many steps, a loose one before a committed one."""
        steps = self.config.steps
        return next((one for one in records.documents(self.key) if one.get("steps", steps) == steps), None)

    def run(self, folder: Path, progress: Progress) -> Path:
        """Compute the numbers and write them with where and when that was."""
        numbers = self.make(folder, self.config)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return write_json(folder / f"{self.key}.json", {**numbers, "env": environment(), "created": created})


def checked(*names: str) -> dict[str, Any]:
    """The verdicts of the theory's checks, ready for JSON."""
    from monosem.theory import CHECKS, examine

    return {
        name: {
            "claim": report.claim,
            "statement": report.statement,
            "as_documented": report.as_documented,
            "verdict": _plain(report.verdict),
            "counter_cases": {case: {"caught": not v.holds, **_plain(v)} for case, v in report.counter.items()},
        }
        for name, report in ((name, examine(CHECKS[name])) for name in names)
    }


def _plain(verdict: Any) -> dict[str, Any]:
    values = {"holds": verdict.holds, **dataclasses.asdict(verdict)}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def said_of_checks(checks: dict[str, Any]) -> str:
    """Which checks gave the documented verdict."""
    good = [name for name, one in checks.items() if one["as_documented"]]
    return f"Checks as documented: {', '.join(good)}" + ("." if len(good) == len(checks) else "; OTHERS FAIL.")


def checks_table(results: Results) -> list[Table]:
    """The checks that a record holds, with their verdicts."""
    lines = [
        (
            f"`{name}`",
            str(one["claim"]),
            "yes" if one["verdict"]["holds"] else "NO",
            str(one["verdict"]["trials"]),
            f"{sum(case['caught'] for case in one['counter_cases'].values())} of {len(one['counter_cases'])}",
        )
        for record in results.records
        for name, one in record["checks"].items()
    ]
    return [Table("Checks", ("check", "claim", "holds", "random cases", "counter-cases caught"), tuple(lines))]

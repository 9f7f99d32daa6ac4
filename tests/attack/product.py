"""The product of targets, their files and the operators that suit them; every case is drawn from its own seed."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.attack.damage import OPERATORS
from tests.attack.targets import TARGETS, Target, fill
from tests.attack.worker import GOOD, Ended, fingerprints, fresh, run


@dataclass(frozen=True)
class Case:
    """A file of a target, an operator and the number of the draw."""

    target: Target
    file: str
    operator: str
    draw: int

    @property
    def name(self) -> str:
        """Unique, and the seed of its random numbers."""
        return f"{self.target.name} / {self.file} / {self.operator} / {self.draw}"


@dataclass(frozen=True)
class Verdict:
    """What a case's calls came to: the worst of them."""

    case: str
    fault: str
    outcome: str
    said: str


def product(root: Path, draws: int) -> Iterator[Case]:
    """Every case: each file of each target, each operator that suits it, so many draws."""
    for target in TARGETS:
        folder = root / target.folder
        files = target.files or [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        for file in files:
            for operator in OPERATORS.values():
                if operator.suits(folder / file):
                    yield from (Case(target, file, operator.name, draw) for draw in range(draws))


def sample(root: Path, draws: int, count: int, seed: int) -> list[Case]:
    """A part of the product, in random order; of every fault class as much as of the others, as far as there is."""
    cases = list(product(root, draws))
    Random(seed).shuffle(cases)
    by_fault: dict[str, list[Case]] = {}
    for case in cases:
        by_fault.setdefault(OPERATORS[case.operator].fault, []).append(case)
    chosen: list[Case] = []
    while len(chosen) < min(count, len(cases)):
        for waiting in by_fault.values():
            chosen += [waiting.pop()] if waiting else []
    return chosen[:count]


def attack(case: Case, root: Path, scratch: Path, seed: int) -> Verdict:
    """Damage a copy and call every command that reads it."""
    operator, inputs = OPERATORS[case.operator], fresh(scratch / "case") / "in"
    for name in {case.target.folder, *_also(case.target)}:
        shutil.copytree(root / name, inputs / name, symlinks=True)
    folder, marker = inputs / case.target.folder, scratch / "case" / "executed"
    operator.apply(folder / case.file, Random(f"{seed} / {case.name}"), marker)
    worst = Ended("accepted", 0, "")
    for number, text in enumerate(case.target.calls):
        before, out = fingerprints(inputs), scratch / "case" / f"out{number}" / "made"
        out.parent.mkdir()
        ended = run(fill(text, folder, out), scratch, marker)
        ended = _foreign(case, ended, before, fingerprints(inputs), out)
        worst = ended if ended.outcome not in GOOD or worst.outcome == "accepted" else worst
        if worst.outcome not in GOOD:
            break
    shutil.rmtree(scratch / "case", ignore_errors=True)
    return Verdict(case.name, operator.fault, worst.outcome, "" if worst.outcome == "accepted" else worst.said)


def _also(target: Target) -> list[str]:
    """Folders beside the target's own that its calls read."""
    words = " ".join(target.calls)
    return [name for name in ("tables", "llama", "texts", "run") if f"../{name}" in words]


def _foreign(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str], out: Path) -> Ended:
    """A refused call changed nothing that it read; one that is accepted changes its own output only."""
    own = f"/in/{case.target.folder}/" if case.target.into else "nothing"
    every = sorted(before.keys() | after.keys())
    changed = [name for name in every if own not in name and before.get(name) != after.get(name)]
    half = [path.name for path in out.parent.rglob("*") if path.name.endswith((".part", ".lock"))]
    if ended.outcome not in GOOD or not (changed or half):
        return ended
    return Ended("foreign files changed" if changed else "litter", ended.code, ", ".join(changed or half)[:500])

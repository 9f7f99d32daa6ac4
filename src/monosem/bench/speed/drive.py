"""The driver: contenders in processes of their own take turns, one at a time, and what they say becomes a record."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monosem.base.errors import MonosemError
from monosem.base.files import write_json
from monosem.bench.records import environment
from monosem.bench.speed.sizes import CASES, SIZES, Case, Size

__all__ = ["SCHEMA", "Options", "Process", "measure", "write_speed"]

SCHEMA = "monosem.speed/1"
_SRC = Path(__file__).parents[3]


@dataclass(frozen=True)
class Options:
    """What is measured: sizes, cases (None: all), rounds of turns, thread counts, and pythons of peers by name."""

    sizes: tuple[str, ...] = ("small", "paper")
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 5
    peer_rounds: int = 3
    threads: tuple[int, ...] = (1,)
    peers: dict[str, str] = field(default_factory=dict)
    warm: int | None = None
    changes: dict[str, int] = field(default_factory=dict)


class Process:
    """One contender. A process that fails or dies says so once, and is left out from then on."""

    def __init__(self, python: str, who: str, case: str, size: str, changes: dict[str, int]) -> None:
        asked = json.dumps({"who": who, "case": case, "size": size, "changes": changes})
        path = os.pathsep.join([str(_SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.who, self.case = who, case
        self.process = subprocess.Popen(
            [python, "-m", "monosem.bench.speed.worker", asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=kept | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
        )

    def send(self, **command: Any) -> None:
        """One command."""
        assert self.process.stdin is not None
        with suppress(OSError):  # it died; hearing it says so
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """One answer.

        Raises: MonosemError when the contender failed or its process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["without a word"])[-1]
            raise MonosemError(f"its process ended with exit code {code}: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MonosemError(answer["error"])
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.send(**command)
        return self.hear()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


Tell = Callable[[str], None]


def _rows(case: Case, options: Options) -> list[str]:
    """Who takes part in a case: monosem, then the peers that have it."""
    return ["monosem", *(options.peers if case.peers else ())]


def _begin(process: Process, case: Case, options: Options, out: dict[str, Any]) -> None:
    out |= process.hear()
    process.send(do="warm", steps=1)


def _warm(process: Process, case: Case, options: Options) -> None:
    """The second half of the warm-up is sent without waiting: contenders warm up side by side."""
    steps = case.warm if process.who == "monosem" else 2
    if options.warm is not None:
        steps = min(steps, options.warm)
    process.send(do="warm", steps=max(steps, 1))


def _each(
    contenders: dict[str, tuple[Process, dict[str, Any]]], work: Callable[[Process, dict[str, Any]], object], tell: Tell
) -> None:
    """Do something with every contender; one that fails is noted and left out."""
    for name, (process, out) in list(contenders.items()):
        try:
            work(process, out)
        except MonosemError as error:
            out["error"] = str(error)
            tell(f"{process.case} {name}: {error}")
            del contenders[name]


def _case(case: Case, size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """One case: every contender warmed up, then rounds of turns, each contender once a round."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        contenders: dict[str, tuple[Process, dict[str, Any]]] = {}
        for name in _rows(case, options):
            python = options.peers.get(name, sys.executable)
            called = case.name if name == "monosem" else case.peers
            process = stack.enter_context(Process(python, name, called, size.name, options.changes))
            found[name] = {"turns": []}
            contenders[name] = (process, found[name])
        _each(contenders, lambda p, out: _begin(p, case, options, out), tell)
        _each(contenders, lambda p, out: p.hear(), tell)
        _each(contenders, lambda p, out: p.ask(do="state", name="trained"), tell)
        _each(contenders, lambda p, out: _warm(p, case, options), tell)
        _each(contenders, lambda p, out: out.update(memory_mb=p.hear()["peak_mb"]), tell)
        for state in case.states:
            live = {n: c for n, c in contenders.items() if n == "monosem" or state == case.states[0]}
            _rounds(live, state, size, options, tell)
    return found


def _rounds(
    contenders: dict[str, tuple[Process, dict[str, Any]]], state: str, size: Size, options: Options, tell: Tell
) -> None:
    for round_ in range(options.rounds):
        for threads in options.threads:

            def turn(process: Process, out: dict[str, Any], threads: int = threads, round_: int = round_) -> None:
                ours = process.who in ("monosem", "floor")
                if not ours and round_ >= options.peer_rounds:
                    return
                process.ask(do="state", name=state)
                steps = size.turn if ours or size.turn < 4 else size.turn // 2
                steps = steps if ours or size.name == "small" else 1
                answer = process.ask(do="turn", steps=steps, threads=threads)
                out["turns"].append({"state": state, "round": round_, "threads": threads} | answer)

            _each(contenders, turn, tell)
    tell(f"{size.name}: {next(iter(contenders.values()))[0].case if contenders else ''} {state} done")


def _floor(size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """The floor's pieces, in their own process."""
    out: dict[str, Any] = {"turns": []}
    with Process(sys.executable, "floor", "", size.name, options.changes) as process:
        contenders = {"floor": (process, out)}
        _each(contenders, lambda p, o: o.update(p.hear()), tell)
        _each(contenders, lambda p, o: p.ask(do="warm", steps=2), tell)
        for round_ in range(max(options.rounds, 5)):
            for threads in options.threads:

                def turn(p: Process, o: dict[str, Any], threads: int = threads, round_: int = round_) -> None:
                    answer = p.ask(do="turn", steps=1, threads=threads)
                    o["turns"].append({"state": "floor", "round": round_, "threads": threads} | answer)

                _each(contenders, turn, tell)
    return out


def measure(options: Options, command: str = "", tell: Tell = print) -> dict[str, Any]:
    """Everything asked for, in one run. Returns the record (docs: BENCHMARKS.md is made from it)."""
    began = datetime.now(UTC)
    load = [os.getloadavg()]
    sizes: dict[str, Any] = {}
    for name in options.sizes:
        size = SIZES[name]
        floor = _floor(size, options, tell)
        cases = {case: _case(CASES[case], size, options, tell) for case in options.cases}
        sizes[name] = {"shape": asdict(size) | options.changes, "floor": floor, "cases": cases}
        load.append(os.getloadavg())
    return {
        "schema": SCHEMA,
        "study": "speed",
        "command": command,
        "options": asdict(options) | {"peers": sorted(options.peers)},
        "seeds": {"world": 0, "train": 0},
        "sizes": sizes,
        "load": [[round(value, 2) for value in entry] for entry in load],
        "cores": os.cpu_count(),
        "env": environment(),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 2),
        "created": began.isoformat(timespec="seconds"),
    }


def write_speed(record: dict[str, Any], path: str | Path) -> Path:
    """Write a record of this benchmark, whole or not at all."""
    return write_json(path, record)

"""The driver: contenders in processes of their own take turns, one at a time, and what they say becomes a record."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.libraries import PEERS
from benchmarks.sizes import CASES, SIZES, Case, Size
from monosem import MonosemError
from monosem.bench import Job, environment, fit_config, read_records, recipe, run_jobs

SCHEMA = "monosem.speed/1"
ROOT = Path(__file__).resolve().parents[1]
AXES: Mapping[str, tuple[int, ...]] = {
    "n_q": (2048, 4096, 8192, 16_384, 32_768),
    "k": (4, 8, 16, 32, 64, 128),
    "batch": (256, 512, 1024, 2048, 4096),
    "n_p": (64, 128, 256, 512, 1024),
}
"""How a TopK step grows: what is changed, and to what; all else as at small size."""
_AT_ONCE = 2
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """What is measured.

    `rounds`: in each, every contender has one turn (peers only in the first `peer_rounds`). `warm`: at most that many
    steps before timing (None: as the case says). `peers`: pythons of side environments, by the peer's name.
    `floor`, `curves`, `sweep`: whether the floor's pieces, cost against each size, and many runs at once are measured.
    """

    sizes: tuple[str, ...] = ("small", "paper")
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 5
    peer_rounds: int = 3
    threads: tuple[int, ...] = (1,)
    peers: Mapping[str, str] = field(default_factory=dict)
    warm: int | None = None
    floor: bool = True
    curves: bool = False
    sweep: bool = False


class Process:
    """One contender in a process of its own, with the monosem of this checkout or of the one at `source`."""

    def __init__(self, python: str, who: str, case: str, size: str, changes: Mapping[str, int], source: Path = ROOT):
        asked = json.dumps({"who": who, "case": case, "size": size, "changes": dict(changes)})
        path = os.pathsep.join([str(source / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.who, self.case = who, case
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        env = kept | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        command = [python, "-m", "benchmarks.worker", asked]
        self.process = subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=env)

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


@dataclass(eq=False)
class Seat:
    """A contender and what the record will say of it; after an error it takes no more turns."""

    process: Process
    out: dict[str, Any]

    @property
    def ours(self) -> bool:
        """Not another library."""
        return self.process.who not in PEERS


def each(seats: Sequence[Seat], work: Callable[[Seat], object], progress: Progress) -> None:
    """Do something with every contender; one that fails is noted, reported, and left out from then on."""
    for seat in seats:
        if "error" in seat.out:
            continue
        try:
            work(seat)
        except MonosemError as error:
            seat.out["error"] = str(error)
            progress(f"{seat.process.case} {seat.process.who}: {error}")


def prepare(seats: Sequence[Seat], warm: Sequence[int], progress: Progress) -> None:
    """Start, one step, the first state (thresholds that make codes sparse), then `warm` steps each, side by side."""
    steps = dict(zip(map(id, seats), warm, strict=True))
    each(seats, lambda seat: seat.out.update(seat.process.hear()), progress)
    each(seats, lambda seat: seat.process.ask(do="warm", steps=1), progress)
    each(seats, lambda seat: seat.process.ask(do="state", name="trained"), progress)
    each(seats, lambda seat: seat.process.send(do="warm", steps=max(1, steps[id(seat)])), progress)
    each(seats, lambda seat: seat.out.update(memory_mb=seat.process.hear()["peak_mb"]), progress)


def turn(seat: Seat, steps: int, **place: Any) -> None:
    """One turn in a state, with a number of threads; it joins the contender's record."""
    seat.process.ask(do="state", name=place["state"])
    seat.out["turns"].append(place | seat.process.ask(do="turn", steps=steps, threads=place["threads"]))


def _rounds(seats: Sequence[Seat], state: str, size: Size, options: Options, progress: Progress) -> None:
    """In every round, every contender has one turn with every number of threads (peers: with the first only)."""
    for number, threads, seat in product(range(options.rounds), options.threads, seats):
        if not seat.ours and (number >= options.peer_rounds or threads != options.threads[0]):
            continue
        steps = 1 if seat.process.who == "floor" else size.turn if seat.ours else size.peer_turn
        place = {"state": state, "round": number, "threads": threads}
        each([seat], lambda seat, steps=steps, place=place: turn(seat, steps, **place), progress)  # type: ignore[misc]


def _seats(case: Case, size: Size, options: Options, stack: ExitStack) -> list[Seat]:
    """Ours, then every peer that trains the case."""
    asked = [(sys.executable, "monosem", case.name)]
    asked += [(python, who, case.peers) for who, python in options.peers.items() if case.peers in PEERS[who].cases]
    started = (stack.enter_context(Process(python, who, name, size.name, {})) for python, who, name in asked)
    return [Seat(process, {"turns": []}) for process in started]


def _cases(cases: Sequence[Case], size: Size, options: Options, progress: Progress) -> dict[str, Any]:
    """Some cases: contenders warm up side by side, then each case has its rounds."""
    with ExitStack() as stack:
        tables = [_seats(case, size, options, stack) for case in cases]
        seats = [(seat, case) for case, table in zip(cases, tables, strict=True) for seat in table]
        warm = [min(case.warm, options.warm or case.warm) if seat.ours else 1 for seat, case in seats]
        prepare([seat for seat, _ in seats], warm, progress)
        for case, table in zip(cases, tables, strict=True):
            _case(table, case, size, options, progress)
    return {case.name: {s.process.who: s.out for s in table} for case, table in zip(cases, tables, strict=True)}


def _case(seats: Sequence[Seat], case: Case, size: Size, options: Options, progress: Progress) -> None:
    """One case: rounds in its first state, with peers and every number of threads; then ours alone, with one number."""
    first, *others = case.states
    _rounds(seats, first, size, options, progress)
    for state in others:
        _rounds(seats[:1], state, size, replace(options, threads=options.threads[:1]), progress)
    each(seats[:1], lambda seat: seat.out.update(seat.process.ask(do="profile", steps=size.turn)), progress)
    progress(f"{size.name}: {case.name} done")


def _floor(size: Size, options: Options, progress: Progress) -> dict[str, Any]:
    """The floor's pieces, in their own process."""
    out: dict[str, Any] = {"turns": []}
    with Process(sys.executable, "floor", "", size.name, {}) as process:
        prepare([Seat(process, out)], [2], progress)
        _rounds([Seat(process, out)], "floor", size, options, progress)
    progress(f"{size.name}: floor done")
    return out


def _curves(progress: Progress, axes: Mapping[str, tuple[int, ...]] = AXES) -> dict[str, Any]:
    """TopK steps around the small size. By axis: the points, which take turns with each other."""
    outs: dict[str, Any] = {}
    for axis, values in axes.items():
        outs[axis] = [{"value": value, "turns": []} for value in values]
        with ExitStack() as stack:
            processes = [Process(sys.executable, "monosem", "topk", "small", {axis: v, "products": 1}) for v in values]
            seats = [Seat(stack.enter_context(p), out) for p, out in zip(processes, outs[axis], strict=True)]
            prepare(seats, [20] * len(seats), progress)
            _rounds(seats, "trained", replace(SIZES["small"], turn=4), Options(), progress)
        progress(f"cost against {axis} done")
    return outs


def _run(jobs: Sequence[Job], folder: Path, workers: int) -> tuple[float, list[Any]]:
    """Wall seconds of some jobs, and all numbers of the records in their folder."""
    began = time.perf_counter()
    run_jobs(list(jobs), folder, workers)
    seconds, kept = time.perf_counter() - began, ("metrics", "curves", "training", "similarity")
    return seconds, [[record[part] for part in kept] for record in read_records(folder)]


def sweep(progress: Progress, task: str = "lrb/mini", steps: int = 200, seeds: int = 2) -> dict[str, Any]:
    """Wall seconds of the same jobs in one process, in two, and one by one, each in a process of its own.

    `equal` says whether all three gave the same bits in every metric, curve and logged number.
    """
    pairs = product(("topk", "relu_l1"), range(seeds))
    jobs = [Job(task, recipe(task, name), seed, fit_config(task, seed, steps)) for name, seed in pairs]
    with tempfile.TemporaryDirectory() as root:
        one, first = _run(jobs, Path(root) / "one", 1)
        two, second = _run(jobs, Path(root) / "two", 2)
        for job in jobs:
            _, alone = _run([job], Path(root) / "alone", 1)
    progress(f"{len(jobs)} runs: {one:.1f} s in one process, {two:.1f} s in two")
    seconds = {"1": round(one, 3), "2": round(two, 3)}
    return {"task": task, "steps": steps, "jobs": len(jobs), "seconds": seconds, "equal": first == second == alone}


def measure(options: Options, command: str = "", progress: Progress = print) -> dict[str, Any]:
    """Everything asked for, in one run; returns the record that BENCHMARKS.md is made from."""
    began = datetime.now(UTC)
    load = [os.getloadavg()]
    sizes: dict[str, Any] = {}
    for name in options.sizes:
        size = SIZES[name]
        floor = _floor(size, options, progress) if options.floor else {"turns": []}
        cases: dict[str, Any] = {}
        for start in range(0, len(options.cases), _AT_ONCE):
            some = [CASES[case] for case in options.cases[start : start + _AT_ONCE]]
            cases |= _cases(some, size, options, progress)
        sizes[name] = {"shape": asdict(size), "floor": floor, "cases": cases}
        load.append(os.getloadavg())
    return {
        "schema": SCHEMA,
        "study": "speed",
        "command": command,
        "options": asdict(options) | {"peers": sorted(options.peers)},
        "seeds": {"world": 0, "train": 0},
        "sizes": sizes,
        "curves": _curves(progress) if options.curves else {},
        "sweep": sweep(progress) if options.sweep else {},
        "load": [[round(value, 2) for value in entry] for entry in load],
        "cores": os.cpu_count(),
        "env": environment(),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 2),
        "created": began.isoformat(timespec="seconds"),
    }

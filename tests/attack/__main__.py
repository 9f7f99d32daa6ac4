"""`python -m tests.attack`: files, kills and page; what was done is kept in a folder, so that a call goes on."""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from monosem.base.files import read_json, write_json
from tests.attack.damage import OPERATORS
from tests.attack.faults import RUNS, life
from tests.attack.page import RECORD, write_page
from tests.attack.product import attack, product, sample
from tests.attack.targets import warm, write
from tests.attack.worker import GOOD

DRAWS = 4
"""Draws of every operator at every file."""


def _state(path: Path) -> dict[str, dict[str, Any]]:
    """Verdicts so far, by case."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["case"]: entry for entry in map(json.loads, lines)}


def _add(path: Path, verdict: Any) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(verdict)) + "\n")


def files(folder: Path, count: int, seed: int, seconds: float) -> None:
    """Attack with a sample of the product, seen cases left out, for so many seconds."""
    state, began = folder / f"files-{seed}.jsonl", time.monotonic()
    seen = _state(state)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "whole"
        write(root)
        warm(root, Path(scratch) / "outputs")
        cases = sample(root, DRAWS, count, seed)
        total = sum(1 for _ in product(root, DRAWS))
        for case in cases:
            if time.monotonic() - began > seconds:
                break
            if case.name not in seen:
                verdict = attack(case, root, Path(scratch) / "work", seed)
                _add(state, verdict)
                if verdict.outcome not in GOOD:
                    print(f"{verdict.outcome}: {verdict.case}\n{verdict.said[-600:]}\n", flush=True)
    write_json(folder / f"files-{seed}.json", {"product": total, "wanted": count, "seed": seed})
    print(f"{len(_state(state))} of {count}", Counter(entry["outcome"] for entry in _state(state).values()))


def kills(folder: Path, count: int, seed: int, seconds: float) -> None:
    """Kill and resume every kind of run in turn, until so many kills are counted or the time is up."""
    state, began = folder / f"kills-{seed}.jsonl", time.monotonic()
    done = len(_state(state))
    while sum(entry["kills"] for entry in _state(state).values()) < count and time.monotonic() - began < seconds:
        kind = sorted(RUNS)[done % len(RUNS)]
        with tempfile.TemporaryDirectory() as scratch:
            verdict = life(kind, done, Path(scratch), Random(f"{seed} / {done}"))
        _add(state, verdict)
        if verdict.outcome != "same":
            print(f"{verdict.outcome}: {verdict.case}: {verdict.said}", flush=True)
        done += 1
    entries = _state(state).values()
    print(sum(entry["kills"] for entry in entries), "kills", Counter(entry["outcome"] for entry in entries))


def record(folder: Path, seeds: list[int]) -> None:
    """The counts of what was done, and the page."""
    parts = []
    for seed in seeds:
        verdicts = list(_state(folder / f"files-{seed}.jsonl").values())
        table = Counter((entry["fault"], entry["outcome"]) for entry in verdicts)
        counts = [{"fault": fault, "outcome": outcome, "cases": n} for (fault, outcome), n in sorted(table.items())]
        parts.append(read_json(folder / f"files-{seed}.json") | {"cases": len(verdicts), "counts": counts})
    lives = [entry for seed in seeds for entry in _state(folder / f"kills-{seed}.jsonl").values()]
    by_kind = Counter((entry["fault"], entry["outcome"]) for entry in lives)
    kills = [
        {"kind": kind, "outcome": outcome, "runs": n,
         "kills": sum(entry["kills"] for entry in lives if (entry["fault"], entry["outcome"]) == (kind, outcome))}
        for (kind, outcome), n in sorted(by_kind.items())
    ]  # fmt: skip
    faults = {operator.name: operator.fault for operator in OPERATORS.values()}
    write_json(RECORD, {"files": parts, "kills": kills, "operators": faults, "draws": DRAWS})
    write_page()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("what", choices=["files", "kills", "record", "page"])
    parser.add_argument("--folder", type=Path, default=Path("runs/attack"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "record":
        record(options.folder, options.seeds)
    elif options.what == "page":
        write_page()
    else:
        for seed in options.seeds:
            {"files": files, "kills": kills}[options.what](options.folder, options.count, seed, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

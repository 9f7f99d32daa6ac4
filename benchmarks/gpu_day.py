"""One command for a machine with a GPU: what is proven and timed there, the most valuable first, in a record.

    python -m benchmarks.gpu_day --out gpu.json                everything; called again, it goes on where it stopped
    python -m benchmarks.gpu_day --out gpu.json --minutes 9    start nothing new after nine minutes
    python -m benchmarks.gpu_day --out gpu.json --interpret    tiny sizes on the CPU, through Triton's interpreter

Needs torch, numpy, jaxtyping and safetensors only (PYTHONPATH=src where monosem is not installed).
Exit code 0: all that ran is well. 1: something failed. 2: no CUDA device, or a wrong call. 3: stopped by --minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import SETTINGS, Setting, parts, prepare
from monosem.base import read_json, write_json
from monosem.bench import environment

SCHEMA = "monosem.gpu/2"


def _device(setting: Setting) -> dict[str, str]:
    """What the results are of."""
    if setting.device == "cpu":
        return {"name": setting.mode}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gb": f"{properties.total_memory / 2**30:.1f}",
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": str(torch.version.cuda),
    }


def _done(result: Mapping[str, Any] | None) -> bool:
    """Whether a unit need not run again: it has a result, and that is no failure."""
    return result is not None and "error" not in result and result.get("ok", True)


def _outcome(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        result = work()
    except Exception as error:  # a unit that cannot run here is a result
        result = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    return result | {"seconds": round(time.perf_counter() - started, 2)}


def line(part: str, name: str, result: Mapping[str, Any], floor: float | None = None) -> str:
    """One unit for people; a step also in units of its floor."""
    state = "failed" if not _done(result) else "skipped" if "skipped" in result else "ok"
    facts = [
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items() if k not in ("ok", "end")
    ]
    if floor and name != "floor" and "ms" in result:
        facts.append(f"{result['ms'] / floor:.2f} floors")
    return f"{part}: {name}: {state}; {', '.join(facts)}"


def run(setting: Setting, record: dict[str, Any], path: Path, minutes: float | None, only: str) -> bool:
    """Run every unit that has no good result yet, and write the record after each; False when time is up."""
    began = time.monotonic()
    for part, units in parts(setting).items():
        results = record["parts"].setdefault(part, {})
        for name, work in units.items():
            if _done(results.get(name)) or only not in f"{part}: {name}":
                continue
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                return False
            results[name] = _outcome(work)
            write_json(path, record)
            print(line(part, name, results[name], results.get("floor", {}).get("ms")), flush=True)
    return True


def _record(setting: Setting, path: Path, fresh: bool, command: str) -> dict[str, Any]:
    """The record that is there, if it is of this device, commit and torch; else an empty one.

    Raises: ValueError when it is of others.
    """
    new: dict[str, Any] = {"schema": SCHEMA, "command": command, "device": _device(setting), "env": environment()}
    new |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "parts": {}}
    if fresh or not path.exists():
        return new
    old: dict[str, Any] = dict(read_json(path))
    now, then = ({"device": r.get("device"), **r.get("env", {})} for r in (new, old))
    for name in ("device", "commit", "torch"):
        if now[name] != then.get(name):
            text = f"{path} was made with {name} {then.get(name)}, this is {now[name]}"
            raise ValueError(f"{text}; add --fresh, or choose another --out")
    return old


def _report(record: Mapping[str, Any], path: Path, whole: bool) -> int:
    """Say what failed and whether something is left; the exit code."""
    results = {f"{part}: {name}": r for part, units in record["parts"].items() for name, r in units.items()}
    failures = [name for name, result in results.items() if not _done(result)]
    print(f"{len(results)} results in {path}; failed: {', '.join(failures) or 'none'}")
    if not whole:
        print("time is up; call the same command again to go on")
    return int(bool(failures)) if whole else 3


def main(arguments: list[str] | None = None) -> int:
    """Run, report, and say whether all is well."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu-day", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="the record, a JSON file")
    parser.add_argument("--minutes", type=float, help="start nothing new after so many minutes")
    parser.add_argument("--only", default="", help="units whose 'part: name' contains this text")
    parser.add_argument("--fresh", action="store_true", help="forget what the record holds")
    parser.add_argument("--interpret", action="store_true", help="tiny sizes, through Triton's interpreter on the CPU")
    parser.add_argument("--cpu", action="store_true", help="tiny sizes, plainly on the CPU")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    setting = SETTINGS["interpret" if given.interpret else "cpu" if given.cpu else "cuda"]
    try:
        if setting.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch sees no CUDA device here; --interpret or --cpu runs every part at tiny sizes")
        record = _record(setting, given.out, given.fresh, " ".join(["python -m benchmarks.gpu_day", *arguments]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    prepare(setting)
    return _report(record, given.out, run(setting, record, given.out, given.minutes, given.only))


if __name__ == "__main__":
    sys.exit(main())

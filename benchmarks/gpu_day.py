"""One command for a machine with a GPU: the tests of the Triton programs there, then the benchmark against its floor.

python -m benchmarks.gpu_day --out records/gpu.json               the usual shapes (PYTHONPATH=src if not installed)
python -m benchmarks.gpu_day --shape 768,16000,32,1024 --out ...  n_p, n_q, k, batch; may be repeated

The floor of a step: one bf16 encoder product as measured here, plus the bytes that must move (floor_bytes) at the
bandwidth measured here by a copy. Times are of CUDA events, median of the rounds, in turns.
"""

import argparse
import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_pieces import DenseStep, Shape, TopKStep, floor_bytes, pieces
from monosem.base.files import write_json
from monosem.bench.records import environment

SCHEMA = "monosem.gpu/1"
ROOT = Path(__file__).parents[1]
SHAPES = (Shape(768, 16_000, 32, 1024), Shape(4096, 131_072, 64, 4096), Shape(4096, 131_072, 64, 32_768))
WARM = 3
"""Calls of each contender before any is timed: compilation, the libraries' choices, the caching allocator."""


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of one call on the device."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def _turns(works: dict[str, Callable[[], object]], rounds: int, clock: Callable[[Callable[[], object]], float]) -> Any:
    """Each work once per round, in turns: {name: {"ms": [...]}}; one that fails is noted and left out."""
    found: dict[str, dict[str, Any]] = {name: {"ms": []} for name in works}
    for count in range(WARM + rounds):
        for name, work in works.items():
            if "error" in found[name]:
                continue
            try:
                ms = clock(work)
            except Exception as error:  # a contender that cannot run here is a result
                found[name]["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                continue
            if count >= WARM:
                found[name]["ms"].append(round(ms, 4))
    for out in found.values():
        if out["ms"]:
            out["median_ms"] = median(out["ms"])
    return found


def _steps(shape: Shape, device: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Whole steps, made one at a time: together they would not fit."""
    x = shape.rows(device)

    def ours(mode: Any, fused: bool) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            step = TopKStep(shape, device, mode, fused)
            return lambda: step(x)

        return make

    def dense() -> Callable[[], object]:
        step = DenseStep(shape, device)
        return lambda: step(x)

    kinds = {f"step {mode}{', fused' if fused else ''}": ours(mode, fused)
             for mode in ("fp32", "certified", "bf16") for fused in (False, True)}  # fmt: skip
    return {**kinds, "step dense, torch": dense}


def _bandwidth(rounds: int, device: str, clock: Callable[[Callable[[], object]], float]) -> float:
    """Bytes per second of a copy, read and write."""
    block = torch.empty(2**30 if device == "cuda" else 2**20, dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    copies = _turns({"copy": lambda: other.copy_(block)}, rounds, clock)
    return float(2 * block.numel() / copies["copy"]["median_ms"] * 1e3)


def measure(shape: Shape, rounds: int, device: str, clock: Callable[[Callable[[], object]], float]) -> dict[str, Any]:
    """Pieces, whole steps with their peak memory, and the floor of one shape."""
    bandwidth = _bandwidth(rounds, device, clock)
    works = pieces(shape, device)
    found = _turns(works, rounds, clock)
    works.clear()
    steps: dict[str, Any] = {}
    for name, make in _steps(shape, device).items():
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            steps |= _turns({name: make()}, rounds, clock)
        except torch.OutOfMemoryError as error:
            steps[name] = {"ms": [], "error": f"OutOfMemoryError: {str(error).splitlines()[0]}"}
        if device == "cuda":
            steps[name]["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    moved = floor_bytes(shape)
    product = found["product bf16"]["median_ms"]
    floor = {
        "product_ms": product,
        "flop": 2.0 * shape.batch * shape.n_q * shape.n_p,
        "bytes": moved,
        "bytes_per_s": bandwidth,
        "ms": product + sum(moved.values()) / bandwidth * 1e3,
    }
    return {"shape": asdict(shape), "floor": floor, "pieces": found, "steps": steps}


def summary(record: dict[str, Any]) -> str:
    """The record in plain lines: milliseconds, and steps over their floor."""
    lines = [f"{record['device']['name']}, torch {record['env']['torch']}, triton {record['device']['triton']}"]
    for size in record["sizes"]:
        floor = size["floor"]["ms"]
        lines.append(f"\nn_p, n_q, k, batch = {', '.join(map(str, size['shape'].values()))}; floor {floor:.3f} ms")
        for name, out in (size["pieces"] | size["steps"]).items():
            said = f"{out['median_ms']:10.3f} ms" if out["ms"] else f"failed: {out.get('error')}"
            lines.append(
                f"  {name:36} {said}"
                + (f"  {out['median_ms'] / floor:6.2f} floors" if "peak_mb" in out and out["ms"] else "")
            )
    return "\n".join(lines)


def _tests() -> dict[str, Any]:
    """The tests of the Triton programs on this device, those marked gpu among them."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "tests/kernels/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"command": command[1:], "exit_code": done.returncode, "end": (done.stdout + done.stderr)[-3000:]}


def _device() -> dict[str, str]:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gb": str(round(properties.total_memory / 2**30, 1)),
            "capability": f"{properties.major}.{properties.minor}", "cuda": str(torch.version.cuda),
            "triton": str(triton.__version__)}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Tests, benchmark, record."""
    parser = argparse.ArgumentParser(description="Test and time the Triton programs on this machine's GPU.")
    parser.add_argument("--out", required=True, help="where the record goes, a JSON file")
    parser.add_argument("--shape", action="append", help="n_p,n_q,k,batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip-tests", action="store_true")
    given = parser.parse_args(arguments)
    try:
        shapes = [Shape(*map(int, text.split(","))) for text in given.shape or ()] or list(SHAPES)
    except (TypeError, ValueError):
        parser.error(f"--shape {given.shape}: four numbers with commas are needed, n_p,n_q,k,batch")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: at least 1")
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; run this on a machine with a GPU and a CUDA build of torch")
    if importlib.util.find_spec("triton") is None:
        parser.error("Triton is not installed here; pip install triton, of the version that this torch names")
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "study": "gpu",
        "command": f"python -m benchmarks.gpu_day {' '.join(arguments or sys.argv[1:])}",
        "seeds": {"weights": 0, "rows": 1},
        "rounds": given.rounds,
        "device": _device(),
        "env": environment() | {"cuda_visible": os.environ.get("CUDA_VISIBLE_DEVICES")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tests": None if given.skip_tests else _tests(),
        "sizes": [],
    }
    torch.set_float32_matmul_precision("highest")
    for shape in shapes:
        record["sizes"].append(measure(shape, given.rounds, "cuda", timed))
        write_json(given.out, record)  # after every size: a later one may not fit
    print(summary(record))
    failed = record["tests"] is not None and record["tests"]["exit_code"] != 0
    if failed:
        print(f"\nTESTS FAILED\n{record['tests']['end']}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

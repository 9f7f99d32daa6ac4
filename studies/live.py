"""Does a run without a store keep its memory as tokens pass? A dictionary of SmolLM2-135M, killed and resumed.

    python -m studies fetch smollm2 complaints
    python -m studies live                       # a million tokens, no store; --minutes 30 ends earlier

The command line trains in a process of its own; this one prints its resident memory every few seconds, kills it in
the middle (`kill -9`), and calls it again, which must go on.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosem.base import check, write_atomic
from monosem.bench import environment
from monosem.report import fill, table
from studies.assets.data import complaints
from studies.options import Options
from studies.stored import store, stored

NAME, PAGE = "live", Path("docs/harvest.md")
POLL = 2.0
"""Seconds between two looks at the process."""


def main(words: Sequence[str] = ()) -> None:
    """Train, kill, train on, record."""
    parser = Options(NAME, layer=15, n_q=16384, k=32, batch=1024, lr=1e-3)
    parser.number("--tokens", 1_000_000, "rows of training")
    parser.number("--minutes", 0, "the second call is ended after so many; 0: it runs to its end")
    parser.path("--out", "runs/live", "where the dictionary goes; it must be new")
    options = parser.parse_args(words)
    check(not options.out.exists(), f"{options.out} is there; remove it, or name another --out")
    texts = options.out / "complaints.jsonl"
    write_atomic(texts, "\n".join(json.dumps({"text": text}) for text in complaints().texts).encode())
    steps = -(-options.tokens // options.batch)
    sizes = {"n-q": options.n_q, "steps": steps, "batch-size": options.batch, "lr": options.lr, "checkpoint-every": 100}
    command = ["-m", "monosem", "train", "--network", "smollm2", "--dtype", "bfloat16", "--text", str(texts),
               "--read", f"model.layers.{options.layer}:out", "--method", f"topk(k={options.k})", "--log-every", "5",
               "--out", str(options.out / "sae"), "--json", "--quiet"]  # fmt: skip
    command += [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    killed = _run(command, options.out / "sae", steps // 2)
    resumed = _run(command, options.out / "sae", None, 60 * options.minutes or None)
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    about = {"command": f"python -m studies {NAME}", "options": facts, "env": environment()}
    store(NAME, about | {"killed": killed, "resumed": resumed})


def _run(command: list[str], folder: Path, kill_at: int | None, seconds: float | None = None) -> dict[str, Any]:
    """One call: (step, MB) as it ran, seconds, and what it said; killed at a step, or after so many seconds."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    samples: list[tuple[int, float]] = []
    killed = False
    while process.poll() is None and not killed:
        time.sleep(POLL)
        step, memory = _step(folder / "log.jsonl"), _resident(process.pid)
        if memory is not None:
            samples.append((step, memory))
            print(f"\rstep {step}: {memory:,.0f} MB", end="", flush=True)
        late = seconds is not None and time.perf_counter() - began > seconds
        if late or (kill_at is not None and step >= kill_at):
            killed = True
            os.kill(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    check(process.returncode == (-signal.SIGKILL if killed else 0), f"it ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    facts = {"seconds": time.perf_counter() - began, "cpu": cpu, "samples": samples}
    return facts | {"said": None if killed else json.loads(output)}


def _step(log: Path) -> int:
    """The last step in a log."""
    lines = log.read_text().splitlines() if log.is_file() else []
    whole = [line for line in lines[-2:] if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def _resident(pid: int) -> float | None:
    """MB of a process that are in memory; None once it has ended."""
    status = Path(f"/proc/{pid}/status")
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(lines["VmRSS"].split()[0]) / 1024 if "VmRSS" in lines else None


def page() -> None:
    """Fill the table of docs/harvest.md."""
    record = stored(NAME)
    fill(PAGE, {"live": "Not run yet." if record is None else _table(record)})


def _table(record: dict[str, Any]) -> str:
    """The largest resident memory in each tenth of the run that was taken, by call."""
    batch = record["options"]["batch"]
    steps = -(-record["options"]["tokens"] // batch)
    rows: list[tuple[str, ...]] = [("rows", "resident memory, MB", "call")]
    for tenth in range(10):
        low, high = tenth * steps // 10, (tenth + 1) * steps // 10
        for call in ("killed", "resumed"):
            within = [(step, memory) for step, memory in record[call]["samples"] if low < step <= high]
            if within:
                last, most = max(step for step, _ in within), max(memory for _, memory in within)
                rows.append((f"{low * batch:,} to {last * batch:,}", f"{most:,.0f}", call))
    return table(rows)

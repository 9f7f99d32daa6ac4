"""Does a run without a store keep its memory as tokens pass? A dictionary of SmolLM2-135M, killed and resumed.

    python -m studies fetch smollm2 complaints
    python -m studies live                       # a million tokens, no store; --minutes 30 ends earlier

The command line trains in a process of its own; this one prints its resident memory every few seconds (anonymous pages,
and those of mapped files, which the system may drop), kills it at a third and at two thirds of the way (`kill -9`), and
calls it again, which must go on. Called again itself, the study goes on too.
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

from monosem.base import read_json, write_atomic, write_json
from monosem.bench import environment
from monosem.report import fill, table
from studies.assets.data import complaints
from studies.options import Options
from studies.stored import store, stored

NAME, PAGE = "live", Path("docs/harvest.md")
POLL = 2.0
"""Seconds between two looks at the process."""


def main(words: Sequence[str] = ()) -> None:
    """Train, kill, train on, until the end; record after each call."""
    parser = Options(NAME, layer=15, n_q=16384, k=32, batch=1024, lr=1e-3, kills=2)
    parser.number("--tokens", 1_000_000, "rows of training")
    parser.number("--minutes", 0, "the study is ended after so many; 0: it runs to its end")
    parser.path("--out", "runs/live", "where the dictionary goes")
    options = parser.parse_args(words)
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    about = {"command": f"python -m studies {NAME}", "options": facts, "env": environment()}
    steps, kept = -(-options.tokens // options.batch), options.out / "calls.json"
    command, calls = _command(options, steps), read_json(kept) if kept.exists() else []
    kills = [steps * (number + 1) // (options.kills + 1) for number in range(options.kills)]
    end = time.perf_counter() + 60 * options.minutes if options.minutes else float("inf")
    while time.perf_counter() < end and not (calls and calls[-1]["said"]):
        behind = max((call["last"] for call in calls), default=0)
        kill_at = next((step for step in kills if step > behind), None)
        calls.append(_run(command, options.out / "sae", kill_at, end))
        write_json(kept, calls)
        store(NAME, about | {"calls": calls})


def _command(options: Any, steps: int) -> list[str]:
    """What trains, on texts that lie beside the dictionary: a run knows them."""
    texts = options.out / "complaints.jsonl"
    if not texts.exists():
        write_atomic(texts, "\n".join(json.dumps({"text": text}) for text in complaints().texts).encode())
    sizes = {"n-q": options.n_q, "steps": steps, "batch-size": options.batch, "lr": options.lr, "checkpoint-every": 100}
    command = ["-m", "monosem", "train", "--network", "smollm2", "--dtype", "bfloat16", "--text", str(texts),
               "--read", f"model.layers.{options.layer}:out", "--method", f"topk(k={options.k})", "--log-every", "5",
               "--out", str(options.out / "sae"), "--json", "--quiet"]  # fmt: skip
    return command + [word for name, value in sizes.items() for word in (f"--{name}", str(value))]


def _run(command: list[str], folder: Path, kill_at: int | None, end: float) -> dict[str, Any]:
    """One call, killed at a step or at a time: (step, most MB anonymous, most MB of files), and what it said."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    most: dict[int, tuple[float, float]] = {}
    killed = False
    try:
        while process.poll() is None and not killed:
            time.sleep(POLL)
            step, now = _step(folder / "log.jsonl"), _resident(process.pid)
            most[step] = tuple(map(max, most.get(step, now), now))  # type: ignore[assignment]
            print(f"\rstep {step}: {now[0]:,.0f} MB, {now[1]:,.0f} MB of files", end="", flush=True)
            killed = time.perf_counter() > end or (kill_at is not None and step >= kill_at)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    print(f"\nended with {process.returncode} at step {max(most)}", flush=True)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    samples = [(step, *map(round, megabytes)) for step, megabytes in sorted(most.items())]
    facts = {"seconds": time.perf_counter() - began, "cpu": cpu, "last": max(most), "samples": samples}
    return facts | {"said": json.loads(output) if process.returncode == 0 else None}


def _step(log: Path) -> int:
    """The last step in a log."""
    lines = log.read_text().splitlines() if log.is_file() else []
    whole = [line for line in lines[-2:] if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def _resident(pid: int) -> tuple[float, float]:
    """MB of a process that are in memory: anonymous pages, pages of files; 0 once it has ended."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        lines = {}
    anonymous, files = (int(lines.get(name, "0 kB").split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, files


def page() -> None:
    """Fill the table of docs/harvest.md."""
    record = stored(NAME)
    fill(PAGE, {"live": "Not run yet." if record is None else _table(record)})


def _table(record: dict[str, Any]) -> str:
    """The largest memory in each tenth of the run that was taken, by call."""
    batch = record["options"]["batch"]
    steps = -(-record["options"]["tokens"] // batch)
    rows: list[tuple[str, ...]] = [("rows", "anonymous, MB", "files, MB", "call")]
    for tenth in range(10):
        low, high = tenth * steps // 10, (tenth + 1) * steps // 10
        for number, call in enumerate(record["calls"], 1):
            within = [sample for sample in call["samples"] if low < sample[0] <= high]
            if within:
                last, anonymous, files = (max(values) for values in zip(*within, strict=True))
                rows.append((f"{low * batch:,} to {last * batch:,}", f"{anonymous:,}", f"{files:,}", str(number)))
    return table(rows)

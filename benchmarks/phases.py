"""What a second thread does for each part of a step: python -m benchmarks.phases [CASE ...] writes a record and a page.

One process per case trains through the public `fit` at the paper's size and changes its number of threads every six
steps; the parts of a step are timed by the clock. Needs a machine that does nothing else.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import monosem.kernels.sparse
import monosem.losses.objective
import monosem.train.loop
from benchmarks.speed.beat import Enough
from benchmarks.speed.ours import Paced, States, speed_method
from benchmarks.speed.sizes import CASES, SIZES, speed_task
from monosem.base.files import read_json, write_json
from monosem.bench.records import environment
from monosem.bench.run import pairing_of
from monosem.bench.tasks import TaskSource
from monosem.core.model import SDL
from monosem.kernels.native import calls, certified, rows, select
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from monosem.train.update import Update

RECORD, PAGE = Path("records/speed/phases.json"), Path("docs/speed_phases.md")
DEFAULT = ("topk", "topk_bf16", "batch_topk_bf16", "matryoshka_bf16", "jumprelu_bf16", "relu_l1_bf16")
ABOUT = """\
Milliseconds a step at the paper's size, by the clock. *share*: gain from the second thread over that of the float32
product in the same process. *behind*: milliseconds by which a part, with two threads, is behind what it would take if
it gained as much as the product. Parts lie in each other: kernels and products in forward, loss, backward and update.
Cases that are held at an L0 near 32 log every step here.
"""
THREADS, PER_PHASE, PHASES, WARM = (1, 2), 5, 16, 12


class Clock:
    """Seconds by part and number of threads, while it is on."""

    def __init__(self) -> None:
        self.on, self.threads = False, 1
        self.seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def timed(self, function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """The function, timed under the name that its arguments give."""

        def call(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*given, **named)
            if self.on:
                self.seconds[self.threads][name(*given)] += time.perf_counter() - start
            return result

        return call

    def watch(self, owner: Any, attribute: str, label: str) -> None:
        """Time a function or method where it is looked up."""
        setattr(owner, attribute, self.timed(getattr(owner, attribute), lambda *_: label))


def measure(name: str) -> dict[str, Any]:
    """Milliseconds a step of one case, part by part, with one thread and with two."""
    clock, case, size = Clock(), CASES[name], SIZES["paper"]
    for module in (rows, calls, certified, select):
        module.each = clock.timed(module.each, lambda kernel, _: f"kernel {kernel}")  # type: ignore[attr-defined]
    clock.watch(torch, "mm", "products")
    clock.watch(SDL, "forward", "forward")
    clock.watch(monosem.losses.objective.Objective, "__call__", "loss")
    clock.watch(torch.autograd, "backward", "backward")
    clock.watch(Update, "apply", "update")
    clock.watch(TaskSource, "take", "fresh rows")
    spec = case.spec(size)
    source = Paced(speed_task(size, pairing_of(spec)))
    source.take(torch.arange(size.batch))
    states = States(size, case.l0, source) if case.l0 else None
    a, b, out = torch.randn(size.batch, size.n_p), torch.randn(size.n_q, size.n_p), torch.empty(size.batch, size.n_q)
    steps: dict[int, list[float]] = defaultdict(list)
    products: dict[int, list[float]] = defaultdict(list)
    number, started = 0, 0.0

    def beat() -> None:
        nonlocal number, started
        number += 1
        if clock.on:
            steps[clock.threads].append(time.perf_counter() - started)
        if states is not None and number in (3, 9):
            states("trained")
        phase, within = divmod(number - WARM, PER_PHASE + 1)
        if number >= WARM and within == 0:
            if phase == PHASES:
                raise Enough
            clock.on, clock.threads = False, THREADS[phase % len(THREADS)]
            torch.set_num_threads(clock.threads)
            for _ in range(2):
                start = time.perf_counter()
                torch.mm(a, b.T, out=out)
            products[clock.threads].append(time.perf_counter() - start)
        elif number > WARM:
            clock.on = True
        started = time.perf_counter()

    source.beat, source.sampled = beat, False  # type: ignore[assignment]  # a step's pause is all that is asked
    torch.set_num_threads(1)
    plain = FitConfig(steps=10**6, batch_size=size.batch, lr=1e-3, clip=1.0, log_every=1 if states else 50)
    try:
        callbacks = [] if states is None else [states.see]
        fit(speed_method(spec), source, size.n_q, replace(plain, **case.config), callbacks=callbacks)
    except Enough:
        pass
    return {
        "product": [1e3 * median(products[t]) for t in THREADS],
        "step": [1e3 * median(steps[t]) for t in THREADS],
        "parts": {part: [1e3 * clock.seconds[t][part] / len(steps[t]) for t in THREADS] for part in clock.seconds[1]},
    }


def page(record: dict[str, Any]) -> str:
    """A table per case."""
    env = record["env"]
    lines = [
        "<!-- Generated from records/speed/phases.json by `python -m benchmarks.phases`; do not edit. -->\n",
        "# What a second thread does for each part of a step\n",
        ABOUT,
        f"{env['cpu']}, torch {env['torch']}, commit {env['commit'][:12]}; `{record['command']}`.\n",
    ]
    for name, case in record["cases"].items():
        one, two = case["product"]
        lines += [f"## `{name}`\n", "| part | one thread | two | gain | share | behind |", "|---|---|---|---|---|---|"]
        for part, (a, b) in {"product": (one, two), "**step**": case["step"], **case["parts"]}.items():
            if a >= 0.3:
                share = f"{a / b / (one / two):.2f} | {b - a * two / one:.1f}"
                lines.append(f"| {part} | {a:.1f} | {b:.1f} | {a / b:.2f} | {share} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure each case in a process of its own, and write."""
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measure(sys.argv[2])))
        return
    cases = {}
    for name in sys.argv[1:] or DEFAULT:
        done = subprocess.run([sys.executable, "-m", "benchmarks.phases", "one", name], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        cases[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, cases[name]["step"], flush=True)
    command = " ".join(["python -m benchmarks.phases", *sys.argv[1:]])
    write_json(RECORD, {"command": command, "env": environment(), "cases": cases})
    write_page()


def write_page() -> None:
    """The page, from the record."""
    PAGE.write_text(page(read_json(RECORD)))


if __name__ == "__main__":
    main()

"""What a second thread does for each part of a step: one process a case, whose number of threads alternates.

Each process trains through the public `fit` at paper size; the parts of a step are timed by the clock. Needs a machine
that does nothing else.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.contender import Beat, Enough, product, timed
from benchmarks.driver import ROOT, Progress
from benchmarks.ours import train
from benchmarks.sizes import CASES, SIZES, Size
from monosem import SDL, MonosemError
from monosem.bench import TaskSource, environment
from monosem.terms import Objective
from monosem.train.update import Update

DEFAULT = ("topk", "topk_bf16", "batch_topk_bf16", "matryoshka_bf16", "jumprelu_bf16", "relu_l1_bf16")
ABOUT = """\
Milliseconds a step at the paper's size, by the clock. *share*: gain from the second thread over that of the float32
product in the same process. *behind*: milliseconds by which a part, with two threads, is behind what it would take if
it gained as much as the product. Parts lie in each other: kernels and products in forward, loss, backward and update.
Cases that are held at an L0 near 32 log every step here.
"""
THREADS, PER_PHASE, PHASES, WARM = (1, 2), 5, 16, 12


class _Clock:
    """Seconds by part and number of threads, while it is on."""

    def __init__(self) -> None:
        self.on, self.threads = False, 1
        self.seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def watch(self, owner: Any, attribute: str, label: str | Callable[..., str]) -> None:
        """Time a function or method where it is looked up, under a name or under what its arguments give."""
        function = getattr(owner, attribute)

        def call(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*given, **named)
            if self.on:
                name = label(*given) if callable(label) else label
                self.seconds[self.threads][name] += time.perf_counter() - start
            return result

        setattr(owner, attribute, call)

    def watch_all(self) -> None:
        """Time every part of a step, and every compiled kernel by its name."""
        for name, module in list(sys.modules.items()):
            if name.startswith("monosem.kernels.native") and hasattr(module, "each"):
                self.watch(module, "each", lambda kernel, _: f"kernel {kernel}")
        self.watch(torch, "mm", "products")
        self.watch(SDL, "forward", "forward")
        self.watch(Objective, "__call__", "loss")
        self.watch(torch.autograd, "backward", "backward")
        self.watch(Update, "apply", "update")
        self.watch(TaskSource, "take", "fresh rows")


class _Phases(Beat):
    """A beat without a driver: after some warm steps, phases of steps, each after a product, with one thread or two."""

    def __init__(self, clock: _Clock, size: Size, calibrated: bool) -> None:
        super().__init__(size, read=str, write=print)
        self.clock, self.calibrated, self.number, self.started = clock, calibrated, 0, 0.0
        self.multiply = product(size.batch, size.n_p, size.n_q)
        self.steps: dict[int, list[float]] = defaultdict(list)
        self.products: dict[int, list[float]] = defaultdict(list)

    def __call__(self) -> None:
        """End a step, begin the next."""
        self.number += 1
        if self.clock.on:
            self.steps[self.clock.threads].append(time.perf_counter() - self.started)
        if self.calibrated and self.number in (3, 9):
            self.state("trained")
        phase, within = divmod(self.number - WARM, PER_PHASE + 1)
        if self.number >= WARM and within == 0:
            self._begin(phase)
        elif self.number > WARM:
            self.clock.on = True
        self.started = time.perf_counter()

    def _begin(self, phase: int) -> None:
        if phase == PHASES:
            raise Enough
        self.clock.on, self.clock.threads = False, THREADS[phase % len(THREADS)]
        torch.set_num_threads(self.clock.threads)
        self.multiply()
        self.products[self.clock.threads].append(timed(self.multiply).wall)


def measure(name: str, size: Size = SIZES["paper"]) -> dict[str, Any]:
    """Milliseconds a step of one case, part by part, with one thread and with two."""
    clock, case = _Clock(), CASES[name]
    clock.watch_all()
    torch.set_num_threads(1)
    beat = _Phases(clock, size, case.l0)
    train(case, size, beat, log_every=1 if case.l0 else 50)
    parts, steps = clock.seconds, beat.steps
    return {
        "product": [1e3 * median(beat.products[t]) for t in THREADS],
        "step": [1e3 * median(steps[t]) for t in THREADS],
        "parts": {part: [1e3 * parts[t][part] / len(steps[t]) for t in THREADS] for part in parts[1]},
    }


def run(names: Sequence[str], command: str, progress: Progress) -> dict[str, Any]:
    """The record of some cases, each measured in a process of its own."""
    cases = {}
    for name in names:
        worker = [sys.executable, "-m", "benchmarks.phases", name]
        done = subprocess.run(worker, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MonosemError(f"{name}: {(done.stderr.strip().splitlines() or ['its process died'])[-1]}")
        cases[name] = json.loads(done.stdout.splitlines()[-1])
        steps = " and ".join(f"{ms:.1f}" for ms in cases[name]["step"])
        progress(f"{name}: {steps} ms a step with one and two threads")
    return {"command": command, "env": environment(), "cases": cases}


def page(record: Mapping[str, Any]) -> str:
    """A table per case."""
    env = record["env"]
    lines = [
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


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))

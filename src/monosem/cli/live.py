"""The live display of a bench: one bar for all runs, one for each that is running, a line for each that ended."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from monosem.base.files import read_json
from monosem.bench.pool import JobCallbacks
from monosem.methods import name_of
from monosem.report.summary import HEADLINE
from monosem.train.config import FitConfig


@runtime_checkable
class _Shown(Protocol):
    """What the display reads of a run."""

    @property
    def method(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def config(self) -> FitConfig: ...


class LiveRuns:
    """Callbacks for `run_jobs` that draw; where there is no terminal, only the lines of ended runs are printed."""

    def __init__(self, jobs: Sequence[_Shown], console: Console, word: str = "world") -> None:
        self.jobs, self._word = jobs, word
        self.failed: dict[int, str] = {}
        self.already = 0
        self._steps = dict.fromkeys(range(len(jobs)), 0)
        self._begun: dict[int, float] = {}
        self._bars: dict[int, TaskID] = {}
        self._names = [name_of(job.method) for job in jobs]
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("[bold]all runs[/]", total=None, count="")
        self._ended = 0

    def __enter__(self) -> "LiveRuns":
        self._progress.start()
        self._whole()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def callbacks(self) -> JobCallbacks:
        """Itself, as those who run jobs take it."""
        return JobCallbacks(self.start, self.step, self.done, self.error)

    def start(self, number: int) -> None:
        """A run begins."""
        self._begun[number] = time.perf_counter()
        steps = self.jobs[number].config.steps
        self._bars[number] = self._progress.add_task(self._title(number), total=steps, count=f"0/{steps}")

    def step(self, number: int, step: int) -> None:
        """A run has come this far."""
        self._steps[number] = step
        self._progress.update(self._bars[number], completed=step, count=f"{step}/{self.jobs[number].config.steps}")
        self._whole()

    def done(self, number: int, path: Path) -> None:
        """A run has left its record, now or in an earlier call."""
        if number not in self._begun:
            self.already += 1
            self._end(number, None)
            return
        metrics = read_json(path).get("metrics", {})
        scores = ((HEADLINE, "M_GT"), ("fvu", "FVU"))  # real rows have no true features, and some runs no score
        score = next((f"{what} {metrics[name]['value']:.3f}  " for name, what in scores if name in metrics), "")
        seconds = time.perf_counter() - self._begun[number]
        self._end(number, Text(f"{score}{seconds:5.1f} s", style="green"))

    def error(self, number: int, why: str) -> None:
        """A run failed; the others go on."""
        self.failed[number] = why
        self._end(number, Text("failed", style="red"))

    def _title(self, number: int) -> str:
        job, width, wide = self.jobs[number], max(map(len, self._names)), max(len(job.arm) for job in self.jobs)
        return f"{self._names[number]:<{width}}  {job.arm:<{wide}}  {self._word} {job.seed}"

    def _end(self, number: int, line: Text | None) -> None:
        self._ended += 1
        del self._steps[number]
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))
        if line is not None:
            count = f"{self._ended:>{len(str(len(self.jobs)))}}/{len(self.jobs)}"
            self._progress.console.print(Text(f"{count}  {self._title(number)}  ") + line, soft_wrap=True)
        self._whole()

    def _whole(self) -> None:
        """The bar of all runs counts the steps that this call takes, so that its time left is right."""
        taken = {*self._begun, *self._steps}
        total = sum(self.jobs[i].config.steps for i in taken)
        left = sum(self.jobs[i].config.steps - done for i, done in self._steps.items())
        self._progress.update(self._all, total=total, completed=total - left, count=f"{self._ended}/{len(self.jobs)}")

"""A progress bar with loss, FVU, L0, dead share and tokens per second: in a notebook's cell, by rich, or plain."""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

Advance = Callable[[int, dict[str, float], int], None]


def _figures(entry: dict[str, float], rate: float) -> str:
    fit = f"loss {entry['loss']:.4g} FVU {entry['fvu']:.3f} L0 {entry['l0']:.1f}"
    return f"{fit} dead {entry['dead']:.0%} {rate:,.0f} tok/s"


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process; to have imported one, or a shell in a terminal, is not enough."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _in_a_cell(title: str, steps: int, rate: Callable[[int, int], float]) -> Advance:
    """A bar of the browser's own below the cell, renewed in its place; needs nothing that a kernel does not bring."""
    shown: Any = importlib.import_module("IPython.display")

    def bar(step: int, figures: str) -> Any:
        return shown.HTML(
            f'{escape(title)}  <progress value="{step}" max="{steps}"></progress>  {step}/{steps}  {figures}'
        )

    cell = shown.display(bar(0, ""), display_id=True)

    def advance(step: int, entry: dict[str, float], batch_size: int) -> None:
        cell.update(bar(step, escape(_figures(entry, rate(step, batch_size)))))

    return advance


@contextmanager
def progress_bar(steps: int, start: int, title: str, show: bool) -> Iterator[Advance]:
    """Yields advance(step, entry, batch_size); draws nothing unless `show`."""
    began = time.perf_counter()

    def rate(step: int, batch_size: int) -> float:
        return (step - start) * batch_size / max(time.perf_counter() - began, 1e-9)

    if not show:
        yield lambda step, entry, batch_size: None
        return
    if in_notebook():
        yield _in_a_cell(title, steps, rate)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:

        def plain(step: int, entry: dict[str, float], batch_size: int) -> None:
            print(
                f"\r{title}  {step}/{steps}  {_figures(entry, rate(step, batch_size))}",
                end="",
                file=sys.stderr,
                flush=True,
            )

        yield plain
        print(file=sys.stderr)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title.partition("(")[0], total=steps, completed=start, figures="")

        def advance(step: int, entry: dict[str, float], batch_size: int) -> None:
            bar.update(task, completed=step, figures=_figures(entry, rate(step, batch_size)))

        yield advance

"""A pool of worker processes that loses no job: one that fails or dies is reported, the others go on."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

from monosem.base.errors import MonosemError
from monosem.base.plugins import load, sources

Work = Callable[[Any, Callable[[int], None]], Any]


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: it started, came to a step (`value`), is done, or failed (`value`: why)."""

    kind: Literal["start", "step", "done", "error"]
    job: int
    value: Any = None


@dataclass(frozen=True)
class JobCallbacks:
    """Callbacks for job events, by job index: started, reached a step, wrote its record to a path, or failed (why)."""

    start: Callable[[int], None] | None = None
    step: Callable[[int, int], None] | None = None
    done: Callable[[int, Path], None] | None = None
    error: Callable[[int, str], None] | None = None

    def tell(self, event: Event) -> None:
        """Call the callback of an event, if there is one."""
        callback: Callable[..., None] | None = getattr(self, event.kind)
        if callback:
            callback(event.job, *([] if event.kind == "start" else [event.value]))

    def of(self, numbers: Sequence[int]) -> "JobCallbacks":
        """The same for a part of the jobs, the i-th of which is job numbers[i] of the whole."""
        callbacks = {field.name: getattr(self, field.name) for field in fields(self)}
        return JobCallbacks(**{kind: call and _renumbered(call, numbers) for kind, call in callbacks.items()})


NO_CALLBACKS = JobCallbacks()


def _renumbered(callback: Callable[..., None], numbers: Sequence[int]) -> Callable[..., None]:
    return lambda number, *value: callback(numbers[number], *value)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    link: "Connection[Any, Any]"
    job: int | None = None

    @staticmethod
    def start(work: Work) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, work, sources()), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)


def run_all(work: Work, items: Sequence[Any], workers: int) -> Generator[Event, None, None]:
    """Call work(item, progress) for every item, each in one of `workers` spawned processes; yields what happens.

    `progress(step)` reports how far a job has come. A process that dies takes only its own job with it. When the
    caller stops iterating (an interrupt, say) every process is ended.
    """
    waiting = list(range(len(items)))[::-1]
    pool: list[_Worker] = []
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                pool.append(_Worker.start(work))
                yield _give(pool[-1], waiting.pop(), items)
            for worker in _ready(pool):
                event = _hear(worker)
                yield event
                if event.kind not in ("done", "error"):
                    continue
                worker.job = None
                if waiting and worker.process.is_alive():
                    yield _give(worker, waiting.pop(), items)
                else:
                    pool.remove(worker)
                    _end(worker)
    finally:
        for worker in pool:
            _end(worker)


def _ready(pool: Sequence[_Worker]) -> list[_Worker]:
    """Wait until some workers have something to say."""
    links = wait([worker.link for worker in pool])
    return [worker for worker in pool if worker.link in links]


def _give(worker: _Worker, job: int, items: Sequence[Any]) -> Event:
    worker.job = job
    with suppress(OSError):  # it died; listening to it says so
        worker.link.send(items[job])
    return Event("start", job)


def _hear(worker: _Worker) -> Event:
    assert worker.job is not None
    try:
        kind, value = worker.link.recv()
        return Event(kind, worker.job, value)
    except (EOFError, OSError):
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return Event("error", worker.job, f"its process died ({how}); memory may have run out, try fewer workers")


def _end(worker: _Worker) -> None:
    worker.link.close()
    worker.process.terminate()
    worker.process.join(5)


def _why(error: Exception) -> str:
    """One line: what monosem says on purpose as it is, anything else with the place where it was raised."""
    if isinstance(error, MonosemError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


class _Gone(BaseException):
    """The other side is gone: nobody waits for this job any more."""


def _end_with_parent() -> None:
    """A parent that is killed takes its workers along: left alone they would write where its successor writes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _serve(link: "Connection[Any, Any]", work: Work, parts: Sequence[str]) -> None:
    """A worker's life: what its parent has loaded, then one item after another, until the other side is gone."""
    load(*parts)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def progress(step: int) -> None:
        try:
            link.send(("step", step))
        except OSError:
            raise _Gone from None

    try:
        while True:
            item = link.recv()
            try:
                answer = ("done", work(item, progress))
            except Exception as error:  # whatever a job raises is its result; the others go on
                answer = ("error", _why(error))
            link.send(answer)
    except (_Gone, EOFError, OSError):
        return

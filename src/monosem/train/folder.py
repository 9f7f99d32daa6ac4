"""What a run leaves behind: its log, one line per logged step; its checkpoint; the finished model."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, check
from monosem.base.files import claim, write_atomic, writing
from monosem.base.group import in_step
from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.core.shards import Share, share_of
from monosem.kernels.ops import give_back
from monosem.train.config import FitConfig
from monosem.train.pieces import drop_older, newest, save_run, save_whole
from monosem.train.state import Run, about_checkpoint, load_run, run_tensors


class RunFolder:
    """The folder of a run, brought to where its checkpoint left it; without a path, a log in memory and no files.

    A context: as long as it is open no other process writes there; of several that share a run the first alone does,
    but for the pieces of a checkpoint and of the model. A checkpoint is copied at its step and written while training
    goes on. Nothing in the log depends on the clock; a resumed run drops the entries that its checkpoint has not seen.
    What is refused changes nothing.
    Raises: CheckpointError when the folder holds another run; OutputError when it cannot be written, or is in use.
    """

    def __init__(self, path: str | Path | None, run: Run, allow_other_machine: bool = False) -> None:
        self.path, self.entries = None if path is None else Path(path), []  # type: Path | None, list[dict[str, float]]
        self._run, self._anywhere, self._open = run, allow_other_machine, ExitStack()
        self._group, self._first = run.model.group, run.model.group.rank == 0
        self._writer, self._apart = _Writer(), self._group

    def __enter__(self) -> "RunFolder":
        if self.path is not None:
            with ExitStack() as stack:
                with in_step(self._group):
                    if self._first:
                        stack.enter_context(claim(self.path))
                with in_step(self._group):
                    self._continue(self.path)
                with in_step(self._group):
                    if self._first:
                        self._clear(self.path)
                self._apart = stack.enter_context(self._group.apart())
                self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._open, suppress(*([Exception] if kind else [])):  # what ended the run is what is said
            self._writer.join()

    def _continue(self, path: Path) -> None:
        """Read where the checkpoint left the run, which changes nothing there."""
        checkpoint, log, digest = newest(path), self._log(path), None
        if checkpoint is not None:
            digest = load_run(self._run, checkpoint, self._anywhere)
            give_back()
        self.entries = _read_log(log, self._run.step)
        agrees = digest in (None, hashlib.sha256(self._lines()).hexdigest())
        name = "" if checkpoint is None else checkpoint.name
        text = f"{log} is not the log that {name} was written with; restore it, or delete both to start again"
        check(agrees, text, CheckpointError)

    def _clear(self, path: Path) -> None:
        """Remove what a kill has left."""
        log = self._log(path)
        for stale in (*path.glob(".*.part"), *path.glob(".tmp??????")):  # a kill inside a write
            stale.unlink()
        drop_older(path)
        if not log.is_file() or log.read_bytes() != self._lines():
            write_atomic(log, self._lines())

    def _lines(self) -> bytes:
        return "".join(json.dumps(entry) + "\n" for entry in self.entries).encode()

    @staticmethod
    def _log(path: Path) -> Path:
        return path / "log.jsonl"

    def log(self, entry: dict[str, float]) -> None:
        """Append one entry."""
        self.entries.append(entry)
        if self.path is not None and self._first:
            with writing(self._log(self.path)), self._log(self.path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def save(self, run: Run, config: FitConfig) -> None:
        """Begin a checkpoint where one is due: every `checkpoint_every` steps and at the end.

        Training goes on meanwhile; the next one waits for it. Raises: OutputError when the one before was not written.
        """
        due = run.step == config.steps or (config.checkpoint_every and run.step % config.checkpoint_every == 0)
        if self.path is None or not due:
            return
        about = about_checkpoint(run, hashlib.sha256(self._lines()).hexdigest())
        self._writer.begin(run_tensors(run), partial(self._write, self.path, share_of(run.model), about))

    def _write(self, path: Path, share: Share, about: dict[str, str], tensors: dict[str, Tensor]) -> None:
        with in_step(self._apart):
            if self._first:
                with writing(self._log(path)), self._log(path).open("rb+") as file:
                    os.fsync(file.fileno())  # the checkpoint vouches for it
        save_run(self._apart, share, tensors, about, path)
        give_back()

    def finish(self, model: SDL, about: dict[str, Any]) -> None:
        """Write the finished model."""
        self._writer.join()
        if self.path is not None and self._group.size > 1:
            save_whole(model, self.path, about)
        elif self.path is not None:
            save_model(model, self.path, about)


class _Writer:
    """Writes copies of tensors on a thread, one at a time, into memory that the next one finds again."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}
        self._at_work: Future[None] | None = None

    def begin(self, tensors: dict[str, Tensor], write: Callable[[dict[str, Tensor]], None]) -> None:
        """Copy, and write the copy on a thread. Raises: as `join`."""
        self.join()
        self._memory = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        self._at_work = Future()
        Thread(target=self._work, args=(write, self._at_work), name="checkpoint").start()

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        into = self._memory.get(name)
        if into is None or (into.shape, into.dtype) != (tensor.shape, tensor.dtype):
            into = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return into.copy_(tensor.detach())

    def _work(self, write: Callable[[dict[str, Tensor]], None], done: Future[None]) -> None:
        try:
            write(self._memory)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def join(self) -> None:
        """Until nothing is being written. Raises: what the writing raised."""
        done, self._at_work = self._at_work, None
        if done is not None:
            done.result()


def _read_log(path: Path, upto: int) -> list[dict[str, float]]:
    """The entries up to a step; they end at a line that a kill cut short."""
    entries: list[dict[str, float]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            later = entry["step"] > upto
        except (ValueError, RecursionError, LookupError, TypeError):
            break
        if later:
            break
        entries.append(entry)
    return entries

"""What a run leaves behind: its log, one line per logged step; its checkpoint; the finished model."""

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from monosem.base.errors import CheckpointError, check
from monosem.base.files import claim, write_atomic, writing
from monosem.base.group import in_step
from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.kernels.ops import give_back
from monosem.train.config import FitConfig
from monosem.train.pieces import ONE, drop_pieces, newest, save_pieces, save_whole
from monosem.train.state import Run, about_checkpoint, load_run, run_tensors, save_run


class RunFolder:
    """The folder of a run, brought to where its checkpoint left it; without a path, a log in memory and no files.

    A context: as long as it is open no other process writes there; of several that share a run the first alone does,
    but for the pieces of a checkpoint and of the model. Nothing in the log depends on the clock; a resumed
    run drops the entries that its checkpoint has not seen. What is refused changes nothing.
    Raises: CheckpointError when the folder holds another run; OutputError when it cannot be written, or is in use.
    """

    def __init__(self, path: str | Path | None, run: Run, allow_other_machine: bool = False) -> None:
        self.path, self.entries = None if path is None else Path(path), []  # type: Path | None, list[dict[str, float]]
        self._run, self._anywhere, self._open = run, allow_other_machine, ExitStack()
        self._group, self._first = run.model.group, run.model.group.rank == 0

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
                self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

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
        """Write a checkpoint where one is due: every `checkpoint_every` steps and at the end."""
        due = run.step == config.steps or (config.checkpoint_every and run.step % config.checkpoint_every == 0)
        if self.path is None or not due:
            return
        digest = hashlib.sha256(self._lines()).hexdigest()
        if self._first:
            with writing(self._log(self.path)), self._log(self.path).open("rb+") as file:
                os.fsync(file.fileno())  # the checkpoint vouches for it
        if self._group.size > 1:
            about = about_checkpoint(run, digest)
            save_pieces(run.model, run.step, run_tensors(run), about, self.path)
        else:
            save_run(run, self.path / ONE, digest)
            drop_pieces(self.path)
        give_back()

    def finish(self, model: SDL, about: dict[str, Any]) -> None:
        """Write the finished model."""
        if self.path is not None and self._group.size > 1:
            save_whole(model, self.path, about)
        elif self.path is not None:
            save_model(model, self.path, about)


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

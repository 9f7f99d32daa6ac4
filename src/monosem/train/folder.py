"""What a run leaves behind: its log, one line per logged step; its checkpoint; the finished model."""

import json
from pathlib import Path

from monosem.base.files import write_atomic
from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.train.config import FitConfig
from monosem.train.state import Run, load_run, save_run


class RunFolder:
    """The folder of a run, brought to where its checkpoint left it; without a path, a log in memory and no files.

    Nothing in the log depends on the clock; a resumed run drops the entries that its checkpoint has not seen.
    Raises: CheckpointError when the folder holds another run.
    """

    def __init__(self, path: str | Path | None, run: Run, allow_other_machine: bool = False) -> None:
        self.path, self.entries = None if path is None else Path(path), []  # type: Path | None, list[dict[str, float]]
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for stale in (*self.path.glob(".*.part"), *self.path.glob(".tmp??????")):  # a kill inside a write
            stale.unlink()
        if self._checkpoint(self.path).exists():
            load_run(run, self._checkpoint(self.path), allow_other_machine)
        self.entries = _read_log(self._log(self.path), run.step)
        write_atomic(self._log(self.path), "".join(json.dumps(e) + "\n" for e in self.entries).encode())

    @staticmethod
    def _checkpoint(path: Path) -> Path:
        return path / "checkpoint.safetensors"

    @staticmethod
    def _log(path: Path) -> Path:
        return path / "log.jsonl"

    def log(self, entry: dict[str, float]) -> None:
        """Append one entry."""
        self.entries.append(entry)
        if self.path is not None:
            with self._log(self.path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def save(self, run: Run, config: FitConfig) -> None:
        """Write a checkpoint where one is due: every `checkpoint_every` steps and at the end."""
        due = run.step == config.steps or (config.checkpoint_every and run.step % config.checkpoint_every == 0)
        if self.path is not None and due:
            save_run(run, self._checkpoint(self.path))

    def finish(self, model: SDL, about: dict[str, str | int]) -> None:
        """Write the finished model."""
        if self.path is not None:
            save_model(model, self.path, about)


def _read_log(path: Path, upto: int) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # a line that a kill cut short
            break
        if entry["step"] > upto:
            break
        entries.append(entry)
    return entries

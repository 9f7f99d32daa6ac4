"""The training log: one JSON line per logged step, nothing in it depends on the clock."""

import json
from pathlib import Path

from monosem.base.files import write_atomic


class Log:
    """Lines in memory and, with a path, on disk; a resumed run drops what its checkpoint has not seen."""

    def __init__(self, path: Path | None, upto: int) -> None:
        self.path, self.entries = path, []  # type: Path | None, list[dict[str, float]]
        if path is None:
            return
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # a line that a kill cut short
                    break
                if entry["step"] > upto:
                    break
                self.entries.append(entry)
        write_atomic(path, "".join(json.dumps(e) + "\n" for e in self.entries).encode())

    def add(self, entry: dict[str, float]) -> None:
        """Append one entry."""
        self.entries.append(entry)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

"""One contender of the speed benchmark in a process of its own, seen from the driver."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monosem.base.errors import MonosemError

_SRC = Path(__file__).parents[3]


class Process:
    """One contender. A process that fails or dies says so once, and is left out from then on."""

    def __init__(self, python: str, who: str, case: str, size: str, changes: Mapping[str, int]) -> None:
        asked = json.dumps({"who": who, "case": case, "size": size, "changes": dict(changes)})
        path = os.pathsep.join([str(_SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.who, self.case = who, case
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.worker", asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=kept | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
        )

    def send(self, **command: Any) -> None:
        """One command."""
        assert self.process.stdin is not None
        with suppress(OSError):  # it died; hearing it says so
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """One answer.

        Raises: MonosemError when the contender failed or its process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["without a word"])[-1]
            raise MonosemError(f"its process ended with exit code {code}: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MonosemError(answer["error"])
        return answer

    def ask(self, **command: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.send(**command)
        return self.hear()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

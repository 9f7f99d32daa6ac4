"""Calling the command line from tests: in this process, or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from monosem.cli.app import app

SRC = Path(__file__).parents[2] / "src"


def call(*arguments: object, columns: int = 200) -> Any:
    """The command line in this process: exit_code, stdout, stderr."""
    return CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1"}).invoke(app, [str(a) for a in arguments])


def environment() -> dict[str, str]:
    """For a process of its own: this source, one thread, a wide terminal, no colours."""
    paths = os.pathsep.join([str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def spawn(*arguments: object, **more: Any) -> "subprocess.Popen[str]":
    """The command line in a process group of its own."""
    command = [sys.executable, "-m", "monosem", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True, **more
    )

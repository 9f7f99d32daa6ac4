"""The Triton programs compile for a GPU that is not here: what the interpreter accepts, the compiler may not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.gpu.compiled import PROGRAMS
from tests.kernels.gpu.where import needs_triton

pytestmark = needs_triton

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_program_becomes_machine_code(tmp_path: Path) -> None:
    """In a process of its own, since this one's Triton interprets."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.gpu.compiled"],
        env=kept | {"PYTHONPATH": f"{ROOT / 'src'}", "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in made] == [name for name, *_ in PROGRAMS]
    assert all(int(size) > 1000 for _, size in made)

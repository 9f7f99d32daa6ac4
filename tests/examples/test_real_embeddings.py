"""The example on real representations runs as a user would run it, on a small slice, and goes on where it stopped."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.bench.records import read_records
from tests.real import need

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "real_embeddings.py"


def _run(out: Path, *options: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--seeds", "1", "--out", str(out), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _rows(text: str) -> dict[tuple[str, str], list[float]]:
    """(method, arm) -> mean |cos| over held-out, anchored and all classes, from the printed table."""
    number = r" ([\d.]+) \|"
    found = re.findall(rf"^\| \w+, (\w+) \| ([^|]+) \| [^|]+ \| [^|]+ \|{number * 3}$", text, re.M)
    return {(name, arm): [float(x) for x in scores] for name, arm, *scores in found}


def test_digits(tmp_path: Path) -> None:
    small = ("--dataset", "digits", "--rows", "500", "--steps", "40", "--n-q", "64", "--k", "4")
    rows = _rows(_run(tmp_path, *small))
    assert len(rows) == 8  # three methods in two arms, the anchors alone, chance
    for name in ("topk", "batch_topk", "matryoshka"):
        plain, anchored = rows[name, "plain"], rows[name, "anchored"]
        assert plain[0] > rows["untrained", "random directions"][0]  # something was learned
        assert anchored[1] > 0.95  # anchored classes are what they were told to be,
        assert abs(anchored[2] - (anchored[0] + anchored[1]) / 2) < 2e-3  # and half of the count over all classes
    assert rows["untrained", "the anchors alone"][1] == 1
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    before = {record["created"] for record in read_records(tmp_path)}
    _run(tmp_path, *small)
    assert {record["created"] for record in read_records(tmp_path)} == before  # nothing was trained again


@pytest.mark.real
def test_questions(tmp_path: Path) -> None:
    need("ada40")
    rows = _rows(_run(tmp_path, "--rows", "2000", "--steps", "20", "--n-q", "128", "--batch", "64"))
    assert rows["topk", "anchored"][1] > rows["topk", "plain"][1] > rows["untrained", "random directions"][1]

"""The example on labelled rows runs as a user would run it, on digits and on arrays of one's own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def _scores(folder: Path, *options: str) -> dict[str, list[float]]:
    """Arm -> mean |cos| over held-out and over anchored classes, as printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "real_embeddings.py"), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    lines = [line.rsplit(maxsplit=2) for line in ran.stdout.splitlines()[1:]]
    return {arm: [float(held_out), float(anchored)] for arm, held_out, anchored in lines}


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; it brings the digits")
    scores = _scores(tmp_path, "--steps", "40", "--n-q", "64", "--method", "topk(k=4)")
    assert set(scores) == {"random directions", "the anchors alone", "plain", "anchored"}
    assert scores["plain"][0] > scores["random directions"][0]  # something was learned
    assert scores["anchored"][1] > 0.95  # anchored classes stay where the anchors are
    assert scores["the anchors alone"][1] == 1


def test_rows_of_ones_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 8
    np.save(tmp_path / "y.npy", labels)
    np.save(tmp_path / "X.npy", np.eye(8, 12)[labels] + 0.01 * generator.normal(size=(400, 12)))
    own = ("--rows", "X.npy", "--labels", "y.npy")
    scores = _scores(tmp_path, *own, "--steps", "20", "--n-q", "16", "--method", "topk(k=2)", "--batch", "64")
    assert scores["anchored"][1] > 0.95

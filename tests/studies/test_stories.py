"""The study on stories15M, small: store, models, records and figure of five pairings; then it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real import need

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.real


def test_small(tmp_path: Path) -> None:
    need("stories15m")
    story = "Once upon a time there was a little girl named Lily. She had a red ball. "
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"text": story * (1 + i % 4)}) for i in range(40)))
    options = ["--text", "s.jsonl", "--rows", "1200", "--steps", "12", "--n-q", "96", "--batch", "64", "--scored", "2"]
    options += ["--k", "8", "--also", "skip,crosscoder,cross_layer", "--out", "out"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "studies", "stories", *options]
    texts = []
    for _ in range(2):
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        texts.append(ran.stdout)
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")}
    assert set(records) == {"sae", "transcoder", "skip", "crosscoder", "cross_layer"}
    for record in records.values():
        assert 0 < record["scores"]["fvu"] < 2
        assert len(record["training"]["step"]) == len(record["training"]["fvu"])
        assert record["seconds"]["harvest"]["cpu"] > 0
    assert len(records["cross_layer"]["write"]) == 6
    assert records["sae"]["rows"] == 1200
    assert "<svg" in (tmp_path / "out" / "stories.svg").read_text()
    assert "rows of" in texts[0]
    assert "loss recovered" not in texts[1]  # nothing is done twice

"""The examples on downloaded models and texts run as a user would run them, small, and leave records and a figure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.bench.records import read_records
from tests.real import need

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.real


def _run(script: str, out: Path, *options: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), "--seeds", "1", "--out", str(out), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, cwd=out)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_absorption_of_newsgroups(tmp_path: Path) -> None:
    need("newsgroups", "minilm")
    small = ("--dataset", "newsgroups", "--limit", "400", "--n-q", "64", "--k", "8", "--steps", "30", "--batch", "64")
    text = _run("real_absorption.py", tmp_path, *small)
    assert text.count("| comp | comp.") == 5
    records = read_records(tmp_path)
    plain, anchored = ([r for r in records if bool(r["anchors"]) == arm] for arm in (False, True))
    assert len(plain) == 1
    assert sorted(r["anchors"]["form"].partition("/")[2] for r in anchored) == ["both", "decoder"]
    assert {r["anchors"]["k"] for r in anchored} == {4}
    for record in records:
        silent, absorbed = (record["metrics"][f"comp.comp.graphics.{what}"]["value"] for what in ("silent", "absorbed"))
        assert 0 <= absorbed <= silent <= 1
    assert "<svg" in (tmp_path / "newsgroups.svg").read_text()


def test_dead_latents_of_smollm2(tmp_path: Path) -> None:
    need("smollm2", "complaints")
    text = _run("real_resampling.py", tmp_path, "--rows", "2000", "--n-q", "128", "--steps", "12", "--batch", "64")
    for arm in ("no remedy", "resampling", "AuxK", "anchoring", "tied start"):
        assert f"| smollm2-l15 | {arm} | 1 |" in text
    assert len(read_records(tmp_path)) == 5
    assert "<svg" in (tmp_path / "figure.svg").read_text()

"""Pages of latents as a user makes them: the example on digits, and a language model's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inspect.samples import unpack
from tests.real import need

ROOT = Path(__file__).parents[2]


def _run(*words: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; it brings the digits")
    said = _run(ROOT / "examples" / "inspect_digits.py", "--out", tmp_path, "--steps", 50, "--n-q", 64)
    assert "in a browser" in said
    text = (tmp_path / "latents.html").read_text(encoding="utf-8")
    header, arrays = unpack(text.partition('id="data">')[2].partition("<")[0])
    assert (header["kind"], header["n_q"], header["rows"]) == ("images", 64, 1797)
    assert min(header["anchored"]["cosine"]) > 0.9
    purest = arrays["class"].reshape(64, -1)[:5, 0]
    assert [header["classes"][code] for code in purest] == header["anchored"]["names"]


@pytest.mark.slow
def test_stories(tmp_path: Path) -> None:
    """From texts to the page with the network's own commands; the page finds store, site and network by itself."""
    pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
    need("stories15m")
    story = "Once upon a time there was a little girl named Lily. She loved to play in the park with her dog."
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({"text": f"{story} {i}"}) + "\n" for i in range(30)))
    store, sae = tmp_path / "acts", tmp_path / "sae"
    sites = ("--network", "stories15m", "--read", "model.layers.3:out")
    _run("-m", "monosem", "harvest", *sites, "--text", tmp_path / "s.jsonl", "--out", store)
    size = ("--n-q", 128, "--steps", 20, "--batch-size", 128)
    _run("-m", "monosem", "train", "--data", store, "--method", "topk(k=32)", *size, "--out", sae)
    _run("-m", "monosem", "inspect", sae)
    text = (sae / "latents.html").read_text(encoding="utf-8")
    header, arrays = unpack(text.partition('id="data">')[2].partition("<")[0])
    assert header["kind"] == "tokens"
    assert {" girl", " dog", " park"} <= set(header["vocabulary"])
    assert header["effect"]["tokens"] == 10
    assert arrays["up"].size == 128 * 10

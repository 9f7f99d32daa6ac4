"""Sites of networks that other packages wrap: skipped where these are not installed, and run again, marked slow, in a
side environment with the released package (`python -m benchmarks.peers nnsight transformer_lens`)."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.peers import PEERS, PEERS_DIR, ROOT
from monosem.networks.sites import capture, find_sites
from tests.networks.llamas import ids, llama


def test_nnsight_holds_the_module() -> None:
    """What its trace saves is what a site gives."""
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed")
    model, tokens = llama(), ids()
    wrapped = nnsight.NNsight(model)
    with wrapped.trace(tokens):
        saved = wrapped.model.layers[1].output.save()
    inner = wrapped._module
    with capture(inner, find_sites({"": inner}, "model.layers.1:out")) as seen:
        (x,) = seen.run(inner, tokens).values()
    assert torch.equal(saved if isinstance(saved, torch.Tensor) else saved[0], x)


def test_a_bridge_of_transformer_lens_is_a_module(tmp_path: Path) -> None:
    """Its hook points are sites."""
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed")
    from transformer_lens.model_bridge import TransformerBridge  # type: ignore[import-not-found,unused-ignore]
    from transformers import AutoTokenizer

    from tests.data.test_texts import _tokenizer

    model, tokens = llama(), ids()
    with torch.no_grad():
        wanted = model(tokens, output_hidden_states=True).hidden_states[2]
    model.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=model, tokenizer=tokenizer, device="cpu")
    with capture(bridge, find_sites({"": bridge}, "blocks.1.hook_out:out")) as seen:
        (x,) = seen.run(bridge, tokens).values()
    torch.testing.assert_close(x, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "test"),
    [
        ("nnsight", test_nnsight_holds_the_module.__name__),
        ("transformer_lens", test_a_bridge_of_transformer_lens_is_a_module.__name__),
    ],
)
def test_with_the_released_package(peer: str, test: str, tmp_path: Path) -> None:
    """The test above, in the package's own environment."""
    if not (PEERS_DIR / peer / ".made").is_file():
        pytest.skip(f"no environment for {PEERS[peer].pin}; make it with `python -m benchmarks.peers {peer}`")
    words = [PEERS_DIR / peer / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{test}"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "1 passed" in ran.stdout, ran.stdout[-2000:]

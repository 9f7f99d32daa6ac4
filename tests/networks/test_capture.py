"""Sites of networks that other packages wrap; skipped where these are not installed (run with nnsight 0.8.1 and
TransformerLens 4.3.0)."""

from pathlib import Path

import pytest
import torch

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

"""SAELens' matching pursuit, read and written: codes against its rule written out, row by row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem import interop
from monosem.base.errors import RefusedError
from monosem.core.activations import ReLU, TopK
from monosem.core.dictionaries import Free
from monosem.core.encoders import Encoder, Refined
from monosem.core.model import SDL
from monosem.core.pursuit import Lista, MatchingPursuit
from tests.interop.models import SAE_LAYOUT, D, F, inputs, random_model

DEFAULTS: dict[str, Any] = {
    "architecture": "matching_pursuit",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "max_iterations": None,
    "residual_threshold": 1e-2,
    "stop_on_duplicate_support": True,
    "metadata": {"sae_lens_version": "6.54.12"},
}


def weights() -> dict[str, torch.Tensor]:
    """Columns of unequal norms below 1.2, so that steps do not grow."""
    generator = torch.Generator().manual_seed(3)
    W = torch.nn.functional.normalize(torch.randn(F, D, generator=generator), dim=1)
    return {"W_dec": W * (0.5 + 0.7 * torch.rand(F, 1, generator=generator)), "b_dec": torch.linspace(-0.3, 0.3, D)}


def write(folder: Path, changes: dict[str, Any], more: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    config = DEFAULTS | changes
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights() | (more or {}), folder / "sae_weights.safetensors")
    return config


def code_of(x: np.ndarray, W: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """One row: the largest product, all of it taken; until the support stays, or little is left."""
    left, code = x.astype(np.float64), np.zeros(F)
    for _ in range(config["max_iterations"] or D):
        products, before = W @ left, code != 0
        j = int(products.argmax())
        taken = max(float(products[j]), 0.0)
        code[j] += taken
        left = left - taken * W[j]
        same = bool(((code != 0) == before).all())
        if (config["stop_on_duplicate_support"] and same) or np.linalg.norm(left) < config["residual_threshold"]:
            break
    return code


CASES: tuple[dict[str, Any], ...] = (
    {},
    {"max_iterations": 3},
    {"stop_on_duplicate_support": False, "residual_threshold": 0.0, "max_iterations": 20},
    {"residual_threshold": 1.2},
    {"apply_b_dec_to_input": False},
)


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_codes_are_those_of_its_rule_and_files_come_back(changes: dict[str, Any], tmp_path: Path) -> None:
    config, x = write(tmp_path, changes), inputs(D)
    model, tensors = interop.load(tmp_path), weights()
    b = tensors["b_dec"].double().numpy() * config["apply_b_dec_to_input"]
    W = tensors["W_dec"].double().numpy()
    wanted = np.stack([code_of(row - b, W, config) for row in x.double().numpy()])
    with torch.no_grad():
        out = model(x)
    np.testing.assert_allclose(out.code.to_dense().numpy(), wanted, atol=2e-5)
    np.testing.assert_allclose(out.x_r_hat.numpy(), wanted @ W + b, atol=2e-5)
    again = tmp_path / "again"
    interop.save(model, again, "saelens")
    written, settings = load_file(again / "sae_weights.safetensors"), json.loads((again / "cfg.json").read_text())
    assert set(written) == {"W_dec", "b_dec"}
    assert torch.equal(written["W_dec"], tensors["W_dec"])
    assert settings["architecture"] == "matching_pursuit"
    assert settings["max_iterations"] == (config["max_iterations"] or D)
    for name in ("residual_threshold", "stop_on_duplicate_support"):
        assert settings[name] == config[name]
    with torch.no_grad():
        assert torch.equal(interop.load(again)(x).code.to_dense(), out.code.to_dense())


def trained(encoder: Encoder, norm: float = 1.0, **options: Any) -> SDL:
    """A model with columns of a norm."""
    model = SDL(SAE_LAYOUT, options.get("activation", ReLU()), "none", encoder, Free())
    model.load_state_dict(random_model(ReLU(), SAE_LAYOUT).state_dict() | dict(model.enc.state_dict(prefix="enc.")))
    with torch.no_grad():
        model.decoder.scale_rows(norm / model.decoder_norm())
    return model.eval()


def test_a_pursuit_of_our_own_is_written_where_its_columns_have_norm_1(tmp_path: Path) -> None:
    model, x = trained(MatchingPursuit(4)), inputs(D)
    interop.save(model, tmp_path, "saelens")
    with torch.no_grad():
        torch.testing.assert_close(interop.load(tmp_path)(x).x_r_hat, model(x).x_r_hat, rtol=1e-5, atol=1e-5)
    with pytest.raises(RefusedError, match="columns of any norm"):
        interop.save(trained(MatchingPursuit(4), 0.5), tmp_path, "saelens")
    with pytest.raises(RefusedError, match="TopK after a pursuit"):
        interop.save(trained(MatchingPursuit(4), activation=TopK(2)), tmp_path, "saelens")


@pytest.mark.parametrize("encoder", [Lista(), Refined(), MatchingPursuit(4)], ids=lambda e: type(e).__name__)
def test_an_encoder_that_a_format_does_not_know_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("saelens", "sparsify", "dictionary_learning", "circuit_tracer"):
        if name != "saelens" or not isinstance(encoder, MatchingPursuit):
            with pytest.raises(RefusedError, match=f"the encoder {type(encoder).__name__}"):
                interop.save(trained(encoder), tmp_path, name)


def test_scaled_inputs_of_a_pursuit_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"normalize_activations": "layer_norm"})
    with pytest.raises(RefusedError, match="another remainder"):
        interop.load(tmp_path)
    write(tmp_path, {}, {"finetuning_scaling_factor": torch.ones(F)})
    with pytest.raises(RefusedError, match="another remainder"):
        interop.load(tmp_path)

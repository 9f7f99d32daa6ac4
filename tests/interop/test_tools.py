"""Describing, converting, the Hub's mixin on local folders, and SAEBench's object."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem import interop
from monosem.base.errors import MonosemError, RefusedError
from monosem.core.activations import BatchTopK, Gated, ReLU, TopK
from monosem.core.rownorm import RowNorm
from monosem.interop.build import kind_of
from monosem.interop.circuit_tracer import read_yaml, write_yaml
from tests.cli.calls import call
from tests.interop.models import ACROSS, CROSS, SAE_LAYOUT, D, F, inputs, ours, random_model, values


def test_describe_says_what_it_is(tmp_path: Path) -> None:
    model, metadata = ours("saelens")["jumprelu"]
    interop.save(model, tmp_path, "saelens", metadata)
    rows = dict(interop.describe(tmp_path, weights=True).rows)
    norms = model.decoder.squared_norms().sqrt().detach()
    assert rows["format"] == "SAELens"
    assert rows["kind"] == "sae"
    assert rows["sizes"] == f"n_p={D}, n_q={F}, n_r={D}"
    assert rows["activation"].startswith("jumprelu(")
    assert rows["decoder norms"].startswith(f"{float(norms.min()):.4g} to {float(norms.max()):.4g}")
    assert rows["theta"].startswith(f"{float(model.act['theta'].detach().min()):.4g} to")
    assert rows["dead latents"] == "unknown"
    assert rows["model_name"] == "toy"
    assert str(interop.describe(tmp_path)).count("\n") == len(interop.describe(tmp_path).rows) - 1


def test_describe_several_layers_and_row_norms(tmp_path: Path) -> None:
    model, metadata = ours("circuit_tracer")["cross-jumprelu"]
    interop.save(model, tmp_path / "cross", "circuit_tracer", metadata)
    rows = dict(interop.describe(tmp_path / "cross").rows)
    assert (rows["kind"], rows["sizes"]) == ("cross layer", f"n_p=3 x {D}, n_q={3 * F}, n_r=3 x {D}")
    interop.save(random_model(ReLU(), SAE_LAYOUT, norm=RowNorm()), tmp_path / "row")
    assert dict(interop.describe(tmp_path / "row").rows)["per-row norm"] == "layer_norm, eps=1e-05, restore=True"


def test_convert_keeps_the_function_and_the_names(tmp_path: Path) -> None:
    model, metadata = ours("saelens")["topk"]
    interop.save(model, tmp_path / "in", "saelens", metadata)
    done = call("convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "dictionary_learning")
    assert done.exit_code == 0, done.output
    loaded = interop.read(tmp_path / "out")
    assert loaded.format == "dictionary_learning"
    assert loaded.metadata["model_name"] == "toy"
    x = inputs(D)
    for found, expected in zip(values(loaded.model, x), values(model, x), strict=True):
        torch.testing.assert_close(found, expected)
    described = call("describe", str(tmp_path / "out"))
    assert described.exit_code == 0
    assert "topk(k=5" in described.output


def test_convert_refuses_in_one_line(tmp_path: Path) -> None:
    interop.save(random_model(ReLU(), CROSS), tmp_path / "in")
    done = call("convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "saelens")
    assert done.exit_code == 2
    assert "cannot express this model (cross_layer)" in done.output
    assert "Traceback" not in done.output
    assert call("convert", str(tmp_path / "in"), str(tmp_path / "in")).exit_code == 2
    assert (
        "did you mean 'sparsify'" in call("convert", str(tmp_path / "in"), str(tmp_path / "o"), "-f", "sparsfy").output
    )
    missing = call("describe", str(tmp_path / "nowhere"))
    assert missing.exit_code == 2
    assert "does not exist" in missing.output


def test_hub_mixin_on_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the Hub's mixin needs huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = random_model(BatchTopK(5), SAE_LAYOUT, "tied")
    interop.save_pretrained(model, tmp_path / "own")
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in (tmp_path / "own").iterdir()}
    again = interop.from_pretrained(tmp_path / "own")
    assert torch.equal(again.W_E, model.W_E)
    assert again.activation == model.activation
    assert issubclass(interop.api._hub_class(), hub.ModelHubMixin)
    foreign, metadata = ours("sparsify")["topk"]
    interop.save(foreign, tmp_path / "repo" / "layers.3", "sparsify", metadata)
    (tmp_path / "repo" / "config.json").write_text(json.dumps({"model": "toy", "sdl": 1}))
    loaded = interop.from_pretrained(str(tmp_path / "repo"), subfolder="layers.3")
    assert torch.equal(loaded.W_E, foreign.W_E)


def test_hub_uploads_what_save_pretrained_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the Hub's mixin needs huggingface_hub")
    uploaded: dict[str, Any] = {}

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: str | Path, **options: Any) -> str:
            uploaded.update(options, files={path.name for path in Path(folder_path).iterdir()})
            return "https://hub/commit"

    monkeypatch.setattr(hub.hub_mixin, "HfApi", Api)
    assert interop.push_to_hub(random_model(ReLU(), SAE_LAYOUT), "me/model") == "https://hub/commit"
    assert uploaded["repo_id"] == "me/model"
    assert {"config.json", "model.safetensors"} <= uploaded["files"]


def test_saebench_object_encodes_any_leading_axes() -> None:
    model = random_model(TopK(5), SAE_LAYOUT, "tied")
    sae = interop.SAEBenchModel(model, "toy", 3)
    x = inputs(D, 30).reshape(5, 6, D)
    latents, x_hat = values(model, x.reshape(-1, D))
    torch.testing.assert_close(sae.encode(x), latents.reshape(5, 6, F))
    torch.testing.assert_close(sae(x), x_hat.reshape(5, 6, D))
    torch.testing.assert_close(sae.decode(sae.encode(x)), sae(x))
    assert torch.equal(sae.W_enc, model.W_E.T)
    assert torch.equal(sae.W_dec, model.W_D.T)
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.hook_name) == (D, F, "blocks.3.hook_resid_post")
    assert not sae.check_decoder_norms()
    assert interop.SAEBenchModel(
        interop.fold_decoder_norm(random_model(ReLU(), SAE_LAYOUT)), "t", 0
    ).check_decoder_norms()
    assert not hasattr(sae, "b_mag")
    assert interop.SAEBenchModel(random_model(Gated(), SAE_LAYOUT), "t", 0).b_mag.shape == (F,)
    sae.to(dtype=torch.float64)
    assert (sae.cfg.dtype, sae.dtype) == ("float64", torch.float64)
    sae.turn_off_forward_pass_hook_z_reshaping()
    with pytest.raises(RefusedError):
        sae.turn_on_forward_pass_hook_z_reshaping()


@pytest.mark.parametrize(
    "model", [random_model(ReLU(), ACROSS), random_model(ReLU(), SAE_LAYOUT, norm=RowNorm())], ids=kind_of
)
def test_saebench_object_is_refused_for_what_it_cannot_be(model: Any) -> None:
    with pytest.raises(RefusedError, match="SAEBench"):
        interop.SAEBenchModel(model, "toy", 3)


def test_flat_yaml_reads_what_it_writes_and_what_people_write(tmp_path: Path) -> None:
    config = {"model_name": "a: b # c", "n": 3, "f": 0.5, "yes": True, "none": None, "list": ["x", "y z"]}
    path = tmp_path / "config.yaml"
    path.write_text(write_yaml(config))
    assert read_yaml(path) == config
    path.write_text(
        "# by hand\n---\nmodel_name: google/gemma-2-2b\nscan: 'it''s'\ntranscoders:\n  - hf://a/b\n- c\nk: ~\n"
    )
    expected = {"model_name": "google/gemma-2-2b", "scan": "it's", "transcoders": ["hf://a/b", "c"], "k": None}
    assert read_yaml(path) == expected
    assert read_yaml(tmp_path / "none.yaml") == {}
    path.write_text("a:\n  b: 1\n")
    with pytest.raises(MonosemError, match="line 2"):
        read_yaml(path)

"""Files made to hurt: bombs, code, forged headers, numbers that are none; each is one named error, and nothing runs."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monosem import interop
from monosem.base.errors import CheckpointError, MonosemError
from monosem.base.files import write_json
from tests.cli.calls import call
from tests.interop.models import ours

INFINITY = float("inf")


def _saelens(folder: Path, case: str = "jumprelu") -> Path:
    model, metadata = ours("saelens")[case]
    return interop.save(model, folder, "saelens", metadata)


def _dictionary(folder: Path, case: str = "BatchTopKSAE") -> Path:
    model, metadata = ours("dictionary_learning")[case]
    return interop.save(model, folder, "dictionary_learning", metadata)


def _change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "sae_weights.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: change(tensors[name].clone())}, path)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "threshold"])
@pytest.mark.parametrize("value", [float("nan"), -INFINITY])
def test_numbers_that_are_not_finite(name: str, value: float, tmp_path: Path) -> None:
    _saelens(tmp_path)
    _change(tmp_path, name, lambda tensor: tensor.index_fill(0, torch.tensor([1]), value))
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinity.*unchecked=True"):
        interop.load(tmp_path)
    assert interop.load(tmp_path, unchecked=True).n_q == 40


def test_an_endless_threshold_is_a_latent_that_never_fires(tmp_path: Path) -> None:
    _saelens(tmp_path)
    _change(tmp_path, "threshold", lambda theta: theta.index_fill(0, torch.tensor([1]), INFINITY))
    model = interop.load(tmp_path)
    assert not model(torch.randn(50, 12)).code.to_dense()[:, 1].any()


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["threshold", "b_enc", "W_dec"])
def test_other_dtypes(kind: torch.dtype, name: str, tmp_path: Path) -> None:
    _saelens(tmp_path)
    _change(tmp_path, name, lambda tensor: tensor.to(kind))
    with pytest.raises(CheckpointError, match=rf"{name} is {kind}, not floating-point"):
        interop.load(tmp_path)


def test_bombs_are_refused_before_they_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interop.files, "UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros((1 << 10, 1 << 10), np.float32))
    for name in ("params.npz", "ae.pt"):
        os.rename(tmp_path / "params.npz", tmp_path / name) if name == "ae.pt" else None
        with pytest.raises(CheckpointError, match=r"expands to .* over 100 times its size"):
            interop.load(tmp_path / name)


def test_a_tensor_of_strides_claims_more_than_its_file(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="claims 4,000,000,000,000 bytes, more than the file holds"):
        interop.load(tmp_path)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"encoder.weight": Code()}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="would need its code to be run"):
        interop.load(tmp_path)
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive, archive.open("W_enc.npy", "w") as file:
        np.lib.format.write_array(file, np.array([Code()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="holds Python objects"):
        interop.load(tmp_path / "params.npz")
    assert not (tmp_path / "executed").exists()


def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    _saelens(tmp_path)
    for name, make in (("cfg.json", os.mkfifo), ("sae_weights.safetensors", lambda p: p.symlink_to("/dev/zero"))):
        (tmp_path / name).unlink()
        make(tmp_path / name)
        with pytest.raises(MonosemError):
            interop.load(tmp_path)


def test_the_extra_entry_of_a_file_is_named(tmp_path: Path) -> None:
    path = _dictionary(tmp_path) / "ae.pt"
    torch.save(torch.load(path, weights_only=True) | {"extra": torch.zeros(2)}, path)
    with pytest.raises(
        CheckpointError, match=r"the entries of BatchTopKSAE, and \['extra'\], which that class does not"
    ):
        interop.load(tmp_path)
    (tmp_path / "config.json").unlink()
    torch.save({"this": torch.zeros(2), "that": 1}, path)
    with pytest.raises(CheckpointError, match=r"ae.pt'\] with the entries \['that', 'this'\], which no known format"):
        interop.load(tmp_path)


def test_a_name_of_megabytes_makes_a_short_message(tmp_path: Path) -> None:
    _saelens(tmp_path)
    text = (tmp_path / "cfg.json").read_text().replace('"jumprelu"', '"' + "long " * 600_000 + '"')
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        interop.load(tmp_path)
    assert len(str(caught.value)) <= 2000


def _cut(folder: Path) -> dict[str, str]:
    """The weights in two files beside an index, as others cut large ones."""
    path = folder / "sae_weights.safetensors"
    tensors = load_file(path)
    path.unlink()
    files = {name: f"sae_weights-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file)
    return files


def test_weights_cut_into_several_files(tmp_path: Path) -> None:
    """Read through their index; what the index and the files do not share is one named error, and no path leads out."""
    model, index = interop.load(_saelens(tmp_path)), tmp_path / "sae_weights.safetensors.index.json"
    files = _cut(tmp_path)
    write_json(index, {"metadata": {}, "weight_map": files})
    again = interop.load(tmp_path)
    assert torch.equal(again.W_D, model.W_D)
    assert torch.equal(again.act["theta"], model.act["theta"])
    first, *rest = files
    outside = {name: f"../{tmp_path.name}/{file}" for name, file in files.items()}
    wrong = [{name: files[name] for name in rest}, files | {"more": files[first]}, {}, outside]
    for said, why in zip(wrong, ("disagree", "disagree", "no weight_map", "no weight_map"), strict=True):
        write_json(index, {"weight_map": said})
        with pytest.raises(CheckpointError, match=rf"sae_weights.safetensors.index.json .*{why}"):
            interop.load(tmp_path)
    write_json(index, {"weight_map": files})
    (tmp_path / files[first]).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        interop.load(tmp_path)


def test_an_altered_file_is_converted_if_one_asks_for_it(tmp_path: Path) -> None:
    model, metadata = ours("saelens")["jumprelu"]
    interop.save(model, tmp_path / "a", metadata=metadata)
    config = tmp_path / "a/config.json"
    config.write_text(config.read_text().replace("toy", "top"))
    refused = call("convert", tmp_path / "a", tmp_path / "b")
    assert refused.exit_code == 2
    assert "unchecked" in refused.output
    assert call("convert", tmp_path / "a", tmp_path / "b", "--unchecked").exit_code == 0
    assert interop.read(tmp_path / "b").metadata["model_name"] == "top"

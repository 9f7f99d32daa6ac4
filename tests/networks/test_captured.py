"""What an inference engine wrote, in vLLM's format, read as if the network were here; no engine is run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monosem.base.errors import ArgumentError, CheckpointError, DataError
from monosem.data.batches import TokenFilter
from monosem.networks.captured import engine_captures
from monosem.networks.harvest import harvest
from monosem.networks.live import LiveSource
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.networks.llamas import ids, llama

LAYERS = [2, 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two requests, written as vLLM's ExampleHiddenStatesConnector does: in bfloat16, layers in the order asked for."""
    made = tmp_path / "captures"
    made.mkdir()
    model = llama()
    for name, tokens in (("b", ids()[:1, 2:]), ("a", ids()[:1])):
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states
        hidden = torch.stack([states[i][0] for i in LAYERS], 1)
        tensors = {"hidden_states": hidden.to(torch.bfloat16), "token_ids": tokens[0]}
        save_file(tensors, made / f"{name}.safetensors")
    return made


def test_a_store_of_captures_is_that_of_the_network(folder: Path, tmp_path: Path) -> None:
    """Rows, tokens, documents, places and names of sites are those of a harvest, to bfloat16."""
    keep = TokenFilter(first=1)
    module, batches = engine_captures(folder, LAYERS, keep=keep)
    store = harvest(module, "model.layers.*:out", batches, tmp_path / "store")
    wanted = harvest(
        llama(), "model.layers.[01]:out", [ids()[:1], ids()[:1, 2:]], tmp_path / "wanted", keep=keep, stop=False
    )
    assert set(store.sites) == set(wanted.sites) == {"model.layers.0:out", "model.layers.1:out"}
    every = torch.arange(store.rows)
    for site in wanted.sites:
        kept = wanted.table(site).take(every).to(torch.bfloat16).float()
        torch.testing.assert_close(store.table(site).take(every), kept, rtol=1e-2, atol=1e-3)
    for name in ("tokens", "documents", "positions"):
        assert (getattr(store, name)[0 : store.rows] == getattr(wanted, name)[0 : store.rows]).all()


def test_a_dictionary_is_trained_straight_from_captures(folder: Path) -> None:
    module, batches = engine_captures(folder, LAYERS)
    live = LiveSource(module, "model.layers.1:out", None, batches, buffer=16)
    result = fit("topk(k=2)", live, 8, FitConfig(steps=3, batch_size=4, sample_rows=8))
    live.close()
    assert result.model.n_q == 8


def test_what_is_no_capture_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.safetensors files"):
        engine_captures(tmp_path, [1])
    with pytest.raises(ArgumentError, match=r"layers=\[0\]; name each"):
        engine_captures(folder, [0])
    with pytest.raises(DataError, match=r"not \[tokens, 3, width\] and \[tokens\]; name the layers it has"):
        list(engine_captures(folder, [1, 2, 3])[1])
    save_file({"hidden_states": torch.ones(2, 2, 4)}, folder / "a.safetensors")
    with pytest.raises(DataError, match="holds no token_ids"):
        list(engine_captures(folder, LAYERS)[1])
    (folder / "a.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(engine_captures(folder, LAYERS)[1])

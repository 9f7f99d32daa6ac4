"""A network that transformers splits over two processes (gloo, on the CPU) is harvested and trained on as a whole."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.base.errors import ArgumentError, DataError
from monosem.base.group import ALONE
from monosem.data.store import open_store
from monosem.networks.harvest import fingerprint, harvest
from monosem.networks.live import LiveSource
from monosem.networks.models import open_network
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from monosem.train.mesh import Processes
from tests.networks.llamas import ids, llama, save_llama
from tests.train.several import in_processes

SITES = "model.layers.1:out; model.layers.1.mlp:in,out"
CONFIG = FitConfig(steps=4, batch_size=16, sample_rows=32, log_every=1, threads=1)


def _batches() -> list[torch.Tensor]:
    return [ids(seed=seed) for seed in range(6)]


def _work(folder: Path, rank: int, size: int) -> tuple[dict[str, Any], int, torch.Tensor, list[str]]:
    group, ran, refused = Processes(), [], []
    network, _ = open_network(folder / "llama", device_map="tp")
    parameter = network.model.layers[1].mlp.gate_proj.weight
    network.register_forward_pre_hook(lambda *_: ran.append(1))
    harvest(network, SITES, _batches(), folder / "split", shard_rows=50, group=group)
    for site, together in (("model.layers.1.mlp.gate_proj:out", group), ("model.layers.1:out", ALONE)):
        with pytest.raises((ArgumentError, DataError)) as error:
            harvest(network, site, _batches(), folder / f"no-{rank}", group=together)
        refused.append(str(error.value))
    live = LiveSource(network, "model.layers.1.mlp:in", "model.layers.1.mlp:out", _batches(), buffer=64, group=group)
    model = fit("topk_transcoder(k=3)", live, 24, CONFIG, mesh=f"latents={size}").model
    return fingerprint(network), parameter.to_local().shape[0], group.gather(model.decoder.dense()).detach(), refused


@pytest.mark.slow
def test_a_network_split_by_transformers_is_one_network(tmp_path: Path) -> None:
    network = save_llama(tmp_path / "llama")
    one, two = in_processes(2, partial(_work, tmp_path))
    whole = harvest(network, SITES, _batches(), tmp_path / "whole", shard_rows=50)
    split = open_store(tmp_path / "split")
    split.verify()
    assert one[0] == two[0] == fingerprint(network)
    assert one[1] == two[1] == 12  # of 24 rows
    for site in whole.sites:
        index = torch.arange(whole.rows)
        torch.testing.assert_close(split.table(site).take(index), whole.table(site).take(index), rtol=1e-4, atol=1e-4)
    live = LiveSource(network, "model.layers.1.mlp:in", "model.layers.1.mlp:out", _batches(), buffer=64)
    wanted = fit("topk_transcoder(k=3)", live, 24, CONFIG).model.decoder.dense()
    torch.testing.assert_close(one[2], wanted, rtol=1e-3, atol=1e-3)
    assert torch.equal(one[2], two[2])
    assert "choose the input or output of a block" in one[3][0]
    assert "give the group of them" in one[3][1]


def test_a_process_alone_has_nothing_to_split_over(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="device_map='tp' needs the processes of torchrun"):
        open_network(tmp_path, device_map="tp")

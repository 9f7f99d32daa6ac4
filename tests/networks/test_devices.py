"""Placement: network functions on two GPUs that are not there, and networks opened where and as they are wanted."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from monosem.base.errors import LONGEST, ArgumentError, DataError
from monosem.base.machine import find_device
from monosem.networks.devices import input_device, moved
from monosem.networks.models import open_network
from tests.networks.llamas import llama
from tests.networks.networks import Tiny

CHECKS = ("captured", "streamed", "scored", "spliced", "steered", "looked_at", "shown", "explained")


def test_two_gpus_give_what_the_cpu_gives() -> None:
    """In a process of its own, as torch keeps a kind of device once it knows it."""
    call = [sys.executable, "-m", "tests.networks.on_two_gpus"]
    done = subprocess.run(
        call, capture_output=True, text=True, env=os.environ | {"MONOSEM_NO_TYPECHECK": "1"}, timeout=120
    )
    assert done.stdout.splitlines() == [f"{name} ok" for name in CHECKS], done.stderr[-3000:]


def test_inputs_belong_with_the_embedding_or_where_its_hook_runs() -> None:
    tiny = Tiny()
    assert input_device(tiny) == torch.device("cpu")
    assert input_device(nn.ReLU()) == torch.device("cpu")
    tiny.embed.to("meta")
    assert input_device(tiny) == torch.device("cpu")  # the first that has a place
    away = tiny.to("meta")
    away.get_input_embeddings = lambda: away.embed  # type: ignore[assignment]
    away.embed._hf_hook = SimpleNamespace(execution_device="meta")  # type: ignore[assignment]
    assert input_device(away) == torch.device("meta")
    inputs = {"input_ids": torch.ones(2), "use_cache": False, "more": {"x": torch.ones(1)}}
    there = moved(inputs, torch.device("meta"))
    assert there["input_ids"].is_meta  # type: ignore[union-attr]
    assert there["more"]["x"].is_meta  # type: ignore[index]
    assert there["use_cache"] is False


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="device='gpux' is no device"):
        find_device("gpux")
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match=r"device='cuda:1', but torch .* sees 0 GPUs; use 'cpu'"):
            find_device("cuda:1")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's cache with one repository, some/llama, in the layout that huggingface_hub writes."""
    pytest.importorskip("transformers", reason="transformers is not installed: monosem[real]")
    from tests.data.test_texts import _tokenizer

    made = tmp_path_factory.mktemp("hub")
    repository, commit = made / "models--some--llama", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    llama().save_pretrained(snapshot)
    _tokenizer().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return made


def test_a_network_from_the_hubs_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name; nothing is fetched unless that is asked for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, tokenizer = open_network("some/llama", dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert len(tokenizer) > 3
    mapped, _ = open_network("some/llama", dtype="float32", device_map={"": "cpu"})
    assert torch.equal(mapped.lm_head.weight, llama().lm_head.weight)
    with pytest.raises(DataError, match=r"some/other is neither a folder nor a known network.*download=True\) fetches"):
        open_network("some/other")
    with pytest.raises(DataError, match=r"some/other .*cannot be (reached|fetched)"):
        open_network("some/other", download=True)


def test_a_warning_that_quotes_a_file_is_short(tmp_path: Path) -> None:
    """transformers names keys that it does not know, however long they are."""
    pytest.importorskip("transformers", reason="transformers is not installed: monosem[real]")
    from tests.data.test_texts import _tokenizer

    llama().save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"]["n" * 100_000] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    written = io.StringIO()
    handler, log = logging.StreamHandler(written), logging.getLogger("transformers")
    log.addHandler(handler)
    try:
        open_network(tmp_path)
    finally:
        log.removeHandler(handler)
    assert "nnn" in written.getvalue()
    assert max(map(len, written.getvalue().splitlines())) <= LONGEST


def test_what_is_asked_of_a_network_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="dtype='int4'; known: auto, float32"):
        open_network(tmp_path, dtype="int4")
    with pytest.raises(ArgumentError, match="both say where the network lies"):
        open_network(tmp_path, device="meta", device_map="auto")

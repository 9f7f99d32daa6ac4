"""A network by its folder, and texts: harvest, steer, splice, evaluate, against the same with modules and batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import monosem as ms
from monosem.base.errors import MonosemError
from monosem.data.batches import TokenFilter
from monosem.networks.harvest import harvest as harvest_sites
from tests.cli.wrong import language_model

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
AT, TEXTS = "model.layers.0:out", ["a b c d e f", "b c d", "j i h g f e d c", "a c e g i"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    return ms.open_network(folder)


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Any:
    store = ms.harvest(folder, AT, TEXTS, tmp_path_factory.mktemp("acts") / "acts")
    return ms.fit("topk(k=2)", store, 16, steps=20, batch_size=8)


def test_texts_are_harvested_from_a_folder(folder: Path, network: Any, tmp_path: Path) -> None:
    model, tokenizer = network
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    wanted = harvest_sites(model, AT, ms.text_batches(tokenizer, TEXTS, keep=keep), tmp_path / "wanted")
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    for number, given in enumerate((TEXTS, tmp_path / "t.txt", str(tmp_path / "t.txt"))):
        store = ms.harvest(str(folder), AT, given, tmp_path / f"acts{number}")
        assert store.rows == wanted.rows == sum(len(text.split()) for text in TEXTS)
        assert store.manifest["shards"][0] == wanted.manifest["shards"][0]
        assert store.vocabulary is not None


def test_a_network_in_a_folder_is_steered_and_spliced(folder: Path, network: Any, sae: Any) -> None:
    model, _ = network
    tokens = torch.tensor([[1, 3, 4, 5]])
    with ms.networks.steer(model, sae.model, AT, ms.add(3, 2.0)), torch.no_grad():
        wanted = model(tokens).logits
    for given in (folder, str(folder), model):
        with ms.steer(given, sae, AT, ms.add(3, 2.0)) as opened, torch.no_grad():
            assert torch.equal(opened(tokens).logits, wanted)
    with ms.networks.splice(model, sae.model, AT), torch.no_grad():
        wanted = model(tokens).logits
    with ms.splice(folder, sae, AT) as spliced, torch.no_grad():
        assert spliced.network is not None
        assert torch.equal(spliced.network(tokens).logits, wanted)


def test_a_dictionary_is_evaluated_in_a_folders_network(folder: Path, network: Any, sae: Any) -> None:
    model, tokenizer = network
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    batches = list(ms.text_batches(tokenizer, TEXTS, keep=keep))
    wanted = ms.evaluate(sae, batches, network=model, at=AT)
    assert ms.evaluate(sae, TEXTS, network=folder, at=AT) == wanted
    assert "loss, spliced" in wanted


GUESSES: dict[str, tuple[Callable[[Any, Any, Path], object], str]] = {
    "fit, the other way round": (lambda x, m, f: ms.fit(x, "topk(k=2)", 16), "method=a float32 tensor"),
    "fit, only rows": (lambda x, m, f: ms.fit(x), "missing a required argument: 'rows'"),
    "fit, a network": (lambda x, m, f: ms.fit("topk(k=2)", m, 16), "give a tensor"),
    "fit, a text": (lambda x, m, f: ms.fit("topk(k=2)", "some text", 16), "some text does not exist"),
    "fit, an SAE's name": (lambda x, m, f: ms.fit("sae", x, 16), "unknown method 'sae'"),
    "harvest, no site": (lambda x, m, f: ms.harvest(m, TEXTS, f), "missing a required argument: 'out'"),
    "harvest, texts of a module": (lambda x, m, f: ms.harvest(m, AT, TEXTS, f), "texts need a tokenizer"),
    "harvest, a layer's number": (lambda x, m, f: ms.harvest(m, 3, TEXTS, f), "sites=3; give text"),
    "harvest, an unknown network": (lambda x, m, f: ms.harvest("gpt5", AT, TEXTS, f), "neither a folder nor a known"),
    "harvest, an unknown site": (lambda x, m, f: ms.harvest(m, "layer3", [x], f), "layer3"),
    "evaluate, only a model": (lambda x, m, f: ms.evaluate(m), "missing a required argument: 'rows'"),
    "evaluate, a network": (
        lambda x, m, f: ms.evaluate(m, x),
        "give a dictionary or what fit returned or text or a path",
    ),
    "inspect, only a path": (lambda x, m, f: ms.inspect("sae"), "missing a required argument: 'rows'"),
    "inspect, rows first": (lambda x, m, f: ms.inspect(x, m), "model=a float32 tensor"),
    "discover, a network": (lambda x, m, f: ms.discover(m), "give a tensor"),
    "discover, nothing": (lambda x, m, f: ms.discover(), "missing a required argument: 'rows'"),
    "steer, no edit but a number": (lambda x, m, f: ms.steer(m, m, AT, 3).__enter__(), "give"),
}


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("guess", GUESSES)
def test_a_first_guess_is_told_what_to_write(guess: str, network: Any, tmp_path: Path) -> None:
    call, words = GUESSES[guess]
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(MonosemError) as refused:
        call(x, network[0], tmp_path / "out")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)

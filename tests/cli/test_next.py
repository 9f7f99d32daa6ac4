"""The command that follows runs as it is told after `next:`; texts that are sampled go on where they stopped."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.calls import call
from tests.cli.wrong import language_model

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and its texts; a folder whose name a shell has to quote."""
    root = tmp_path_factory.mktemp("with space")
    language_model(root / "llama")
    (root / "x.txt").write_text("\n".join(["a b c d e f", "b c d", "j i h g f e d c", "a a b b"] * 12))
    rows = np.tile(np.eye(8, dtype=np.float32), (60, 1)) * (1 + np.arange(480, dtype=np.float32)[:, None] % 7)
    np.save(root / "x.npy", rows)
    np.save(root / "y.npy", np.arange(480) % 8 % 3)
    return root


def _follow(ran: Any, *shorter: object) -> Any:
    """What a command says to call next, called; `shorter` makes a training short."""
    assert ran.exit_code == 0, ran.output
    (told,) = [line.removeprefix("next: ") for line in ran.stderr.splitlines() if line.startswith("next: ")]
    program, *words = shlex.split(told)
    assert program == "monosem"
    done = call(*words, *shorter)
    assert done.exit_code == 0, done.output
    return done


def test_from_a_harvest_to_the_page(folder: Path) -> None:
    sites = "model.layers.0:out; model.layers.1.mlp:in,out"
    options = ("--network", folder / "llama", "--text", folder / "x.txt", "--length", 32)
    ran = call("harvest", *options, "--read", sites, "--out", folder / "acts")
    trained = _follow(ran, "--steps", 2, "--batch-size", 16)
    page = _follow(trained)
    assert (folder / "acts-sae" / "latents.html").is_file()
    assert str(folder / "acts-sae" / "latents.html") in page.stdout


def test_one_site_needs_no_read(folder: Path) -> None:
    options = ("--network", folder / "llama", "--text", folder / "x.txt", "--length", 32)
    ran = call("harvest", *options, "--read", "model.layers.0:out", "--out", folder / "one")
    assert "--read" not in ran.stderr
    _follow(ran, "--steps", 2, "--batch-size", 16)


def test_from_anchors_to_a_page(folder: Path) -> None:
    for words in (
        ("from-classes", "--labels", folder / "y.npy", "--out", folder / "classes.safetensors"),
        ("discover", "--out", folder / "found.safetensors"),
    ):
        trained = _follow(call("anchors", words[0], "--data", folder / "x.npy", *words[1:]), "--steps", 2)
        assert "anchors" in trained.stdout
        _follow(trained)


def test_from_a_copy_to_its_description(folder: Path) -> None:
    train = ("train", "--data", folder / "x.npy", "--method", "topk(k=2)", "--n-q", 16, "--steps", 2)
    assert call(*train, "--out", folder / "sae").exit_code == 0
    assert "SAELens" in _follow(call("convert", folder / "sae", folder / "theirs", "--format", "saelens")).stdout


def test_sampling_goes_on_and_ends_with_the_same_texts(folder: Path) -> None:
    options = ("sample", "--network", folder / "llama", "--tokens", 4, "--seed", 3)
    whole = folder / "whole.jsonl"
    assert call(*options, "--documents", 70, "--out", whole).exit_code == 0
    wanted = [json.loads(line)["text"] for line in whole.read_text().splitlines()]
    assert len(wanted) == 70

    part = folder / "part.jsonl"
    assert call(*options, "--documents", 3, "--out", part).exit_code == 0
    part.write_text(part.read_text() + '{"text": "cut in the mid')  # killed while it wrote
    again = call(*options, "--documents", 70, "--out", part)
    assert "holds 3 texts of an earlier call" in again.stderr
    texts = [json.loads(line)["text"] for line in part.read_text().splitlines()]
    assert texts[:3] == wanted[:3]
    assert texts[3:] == wanted[3:]
    assert call(*options, "--documents", 70, "--out", part, "--json").stdout.count('"drawn": 0') == 1

    other = call(*options[:-1], 4, "--documents", 70, "--out", part)
    assert other.exit_code == 2
    assert "was drawn with --seed 3; repeat that" in other.stderr
    (folder / "mine.jsonl").write_text('{"text": "a"}\n')
    assert "is no file of this command" in call(*options, "--out", folder / "mine.jsonl").stderr


def test_sampling_tells_how_far_it_is(folder: Path) -> None:
    from monosem.networks.models import open_network
    from monosem.networks.sampling import sample_texts

    model, tokenizer = open_network(folder / "llama")
    seen: list[float] = []
    texts = list(sample_texts(model, tokenizer, 6, 4, batch=4, progress=seen.append))
    assert len(texts) == 6
    assert seen == sorted(seen)
    assert seen[-1] <= 6
    assert len(set(seen)) > 2

"""`monosem train` on a network as it runs, and what is held back, left out and normalised by default."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.core.io import load_model
from tests.cli.calls import call
from tests.cli.wrong import language_model

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
SIZES = ("--n-q", 16, "--steps", 30, "--batch-size", 16, "--buffer", 128, "--checkpoint-every", 10, "--length", 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and 120 texts of three to twelve words."""
    root, words = tmp_path_factory.mktemp("live"), random.Random(0)
    language_model(root / "net")
    texts = [" ".join(words.choices("abcdefghij", k=words.randint(3, 12))) for _ in range(120)]
    (root / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return root


def _live(folder: Path, out: str, *more: object, method: str = "topk(k=2)", read: str = "model.layers.0:out") -> Any:
    network = ("--network", folder / "net", "--read", read, "--text", folder / "t.jsonl")
    return call("train", *network, "--method", method, *SIZES, "--out", folder / out, *more, "--json")


def test_a_network_is_trained_on_without_a_store(folder: Path) -> None:
    ran = _live(folder, "plain")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["rows"], said["held_out"]) == (None, True)
    assert 0 < said["scored_rows"] < 120 * 12 / 5
    assert 0 <= said["waited"] <= 1
    assert said["next"].startswith("monosem evaluate ")
    assert said["next"].endswith("--length 32")
    evaluated = call(*said["next"].split()[1:], "--rows", 64)
    assert evaluated.exit_code == 0, evaluated.output
    again = _live(folder, "plain", "--steps", 40)
    assert "resuming from there" in again.stderr
    assert json.loads((folder / "plain" / "log.jsonl").read_text().splitlines()[-1])["step"] == 40


def test_its_score_is_that_of_rows_it_never_saw(folder: Path) -> None:
    """The held-out rows, harvested by hand: the same FVU."""
    from monosem.data.batches import TokenFilter
    from monosem.data.texts import sampled
    from monosem.networks.harvest import Runner

    said = json.loads(_live(folder, "scored").stdout)
    network, tokenizer = ms.open_network(folder / "net")
    texts = [json.loads(line)["text"] for line in (folder / "t.jsonl").read_text().splitlines()]
    aside = [texts[number] for number in sampled(120)[:12]]
    keep = TokenFilter(tuple(sorted(set(tokenizer.all_special_ids))))
    runner = Runner.of(network, "model.layers.0:out")
    with torch.no_grad():
        x = torch.cat([runner.rows(batch)[0][0] for batch in ms.text_batches(tokenizer, aside, keep=keep)])
    assert said["scored_rows"] == x.shape[0] == sum(len(text.split()) for text in aside)
    assert said["fvu"] == pytest.approx(ms.evaluate(folder / "scored", x)["fvu"], rel=1e-5)


def test_a_killed_stream_ends_with_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monosem.train import loop

    _live(folder, "whole")
    real = loop.check_loss

    def killed(run: Any, *rest: Any) -> None:
        if run.step == 17:
            raise KeyboardInterrupt
        real(run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_loss", killed)
        assert _live(folder, "killed").exit_code == 130
    assert _live(folder, "killed").exit_code == 0
    a, b = load_model(folder / "whole"), load_model(folder / "killed")
    assert torch.equal(a.W_D, b.W_D)
    assert torch.equal(a.W_E, b.W_E)


def test_a_transcoder_reads_and_writes_a_running_network(folder: Path) -> None:
    more = ("--write", "model.layers.0.mlp:out")
    ran = _live(folder, "coder", *more, method="topk_transcoder(k=2)", read="model.layers.0.mlp:in")
    assert ran.exit_code == 0, ran.output
    assert not load_model(folder / "coder").layout.shared


def test_tokens_far_longer_than_most_are_left_out_with_their_count(folder: Path) -> None:
    """A tenth of the words gives rows a hundred times as long: they are not trained on, and not scored."""
    network, tokenizer = ms.open_network(folder / "net")
    with torch.no_grad():
        network.get_input_embeddings().weight[tokenizer("a")["input_ids"][-1]] *= 100
    network.save_pretrained(folder / "long")
    tokenizer.save_pretrained(folder / "long")
    said = {}
    for limit in (5, 0):
        ran = _live(folder, f"limit{limit}", "--network", folder / "long", "--norm-limit", limit)
        assert ran.exit_code == 0, ran.output
        assert ("times the median (--norm-limit 0 keeps them)" in ran.stderr) == (limit > 0)
        said[limit] = json.loads(ran.stdout)
    assert said[5]["scored_rows"] < said[0]["scored_rows"]


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no text": (("--network", "net", "--read", "model.layers.0:out"), "give --text too"),
    "no site": (("--network", "net", "--text", "t.jsonl"), "give --read too"),
    "two sources": (("--network", "net", "--read", "a:out", "--text", "t", "--data", "x.npy"), "both say where rows"),
    "windows too long": (
        ("--network", "net", "--read", "model.layers.0:out", "--text", "t.jsonl", "--length", "65"),
        "--length 65 is more than the network's 64 positions",
    ),
    "labels": (("--network", "net", "--read", "a:out", "--text", "t", "--labels", "y.npy"), "belongs to --data"),
    "nothing": ((), "give --data, or --network with --read and --text"),
    "a network's option": (("--data", "x.npy", "--buffer", "9"), "--buffer 9 belongs to --network"),
    "held out below 0": (("--data", "x.npy", "--held-out", "-1"), "--held-out -1; it must be at least 0"),
    "a limit below the median": (("--data", "x.npy", "--norm-limit", "0.5"), "--norm-limit 0.5; it is a multiple"),
    "text of no network": (("--data", "x.npy", "--text", "t.jsonl"), "belongs to --network"),
    "a target of an SAE": (
        ("--network", "net", "--read", "a:out", "--text", "t", "--write", "b:out"),
        "takes no --write",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_stream_cannot_be_is_said(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words, said = WRONG[case]
    ran = call("train", *words, "--method", "topk(k=2)", "--n-q", 16, "--out", "new")
    assert ran.exit_code == 2, ran.output
    assert said in ran.stderr.splitlines()[-1]
    assert not (folder / "new").exists()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """600 rows, 4 of them a hundred times as long."""
    x = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    x[::150] *= 100
    np.save(tmp_path / "x.npy", x)
    return tmp_path


def _train(folder: Path, out: str, *more: object) -> Any:
    size = ("--n-q", 16, "--steps", 20, "--batch-size", 32, "--out", folder / out)
    return call("train", "--data", folder / "x.npy", "--method", "topk(k=2)", *size, *more, "--json")


def test_outliers_are_left_out_with_their_count_and_some_rows_are_held_back(rows: Path) -> None:
    ran = _train(rows, "run")
    assert ran.exit_code == 0, ran.output
    assert "left out 4 of 600 rows: their norm is over 5 times the median (--norm-limit 0 keeps them)" in ran.stderr
    said = json.loads(ran.stdout)
    assert (said["rows"], said["scored_rows"], said["held_out"]) == (537, 59, True)
    assert said["fvu"] < 1
    kept = json.loads(_train(rows, "kept", "--norm-limit", 0, "--held-out", 0).stdout)
    assert (kept["rows"], kept["scored_rows"], kept["held_out"]) == (600, 600, False)


def test_files_are_normalised_as_stores_are(rows: Path) -> None:
    """Rows a thousand times as large train the same dictionary; without units they do not."""
    np.save(rows / "large.npy", 1000 * np.load(rows / "x.npy"))
    for more, same in (((), True), (("--no-normalise",), False)):
        _train(rows, "small", *more)
        call("train", "--data", rows / "large.npy", "--method", "topk(k=2)", "--n-q", 16, "--steps", 20,
             "--batch-size", 32, "--out", rows / "large", *more)  # fmt: skip
        small, large = (load_model(rows / name).W_E for name in ("small", "large"))
        assert bool(torch.allclose(small, 1000 * large, rtol=1e-3, atol=1e-4)) == same
        for name in ("small", "large"):
            for path in (rows / name).iterdir():
                path.unlink()


def test_a_dictionary_worse_than_the_mean_is_said_to_be(rows: Path) -> None:
    assert "the mean of the rows is nearer; lower --lr" in _train(rows, "high", "--lr", 1e6).stderr

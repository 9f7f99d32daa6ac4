"""Rows from stores and tables, and `monosem inspect` as a user calls it, right and wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monosem import Anchors, load_model, method, save_model
from monosem.base.errors import ArgumentError, CheckpointError, DataError
from monosem.base.files import write_json
from monosem.data.trained import anchors_of
from monosem.inspect.rows import read_images, read_texts, rows_from
from monosem.networks import models
from monosem.networks.harvest import harvest
from tests.cli.calls import call
from tests.inspect.samples import unpack

WORDS = (" a", " b", "<i>c</i>", "\n")


class _Network(nn.Module):
    """Embeds four tokens in six dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp = nn.Embedding(4, 6), nn.Linear(6, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.mlp(self.embed(input_ids))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("acts")
    torch.manual_seed(0)
    batches = [torch.randint(0, 4, (3, 20)) for _ in range(4)]
    harvest(_Network().eval(), "embed:out; mlp:in,out", batches, folder, vocabulary=WORDS, shard_rows=64)
    return folder


def _saved(folder: Path, name: str, r: int = 6, **more: Any) -> Path:
    model, _ = method(name).build(16, (6,), (r,))
    return save_model(model, folder / name.partition("(")[0], {"method": name} | more)


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    return _saved(tmp_path, "topk(k=2)")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((90, 6)).astype(np.float32))
    return tmp_path / "x.npy"


def _data(page: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    text = page.read_text(encoding="utf-8")
    return unpack(text.partition('id="data">')[2].partition("<")[0])


def test_a_store_brings_tokens_and_documents(store: Path) -> None:
    model, _ = method("topk(k=2)").build(16, (6,), (6,))
    rows = rows_from(store, model, read="mlp:in")
    assert (rows.kind, rows.count) == ("tokens", 240)
    assert rows.token is not None
    assert rows.document is not None
    assert rows.decode is not None
    assert rows.decode([2, 3, 9, -1]) == ["<i>c</i>", "\n", "<9>", ""]
    assert rows.document.tolist() == np.repeat(np.arange(12), 20).tolist()
    assert len(set(rows.segment.tolist())) == 12
    transcoder, _ = method("topk_transcoder(k=2)").build(16, (6,), (5,))
    both = rows_from(store, transcoder, write="mlp:out").source
    assert (both.p_widths, both.r_widths) == ((6,), (5,))
    first = rows_from(store, model, read="mlp:in", rows=50)
    assert first.count == len(first.token if first.token is not None else ()) == 50
    assert first.title.startswith("the first 50 of 240 rows of")


def test_a_store_with_a_choice_asks(store: Path) -> None:
    model, _ = method("topk(k=2)").build(16, (6,), (6,))
    with pytest.raises(ArgumentError, match="mlp:in"):
        rows_from(store, model)
    with pytest.raises(ArgumentError, match="a store knows its sites"):
        rows_from(store, model, target="y.npy")


def test_rows_without_tokens_are_plain(tmp_path: Path) -> None:
    batches = [torch.randn(5, 6), torch.randn(4, 6)]
    harvest(nn.Sequential(nn.Linear(6, 6)).eval(), "0:in", batches, tmp_path / "acts")
    model, _ = method("topk(k=2)").build(16, (6,), (6,))
    rows = rows_from(tmp_path / "acts", model)
    assert (rows.kind, rows.count, rows.token) == ("rows", 9, None)


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\ntwo\n\nfour\n", encoding="utf-8")
    assert list(read_texts(tmp_path / "t.txt", 4)) == ["one", "two", "", "four"]
    (tmp_path / "t.json").write_text(json.dumps(["a\nb", "c"]), encoding="utf-8")
    assert list(read_texts(tmp_path / "t.json", 2)) == ["a\nb", "c"]
    np.save(tmp_path / "t.npy", np.array(["x", "y"]))
    assert list(read_texts(tmp_path / "t.npy", 2)) == ["x", "y"]
    with pytest.raises(DataError, match="4 texts for 3 rows"):
        read_texts(tmp_path / "t.txt", 3)
    np.save(tmp_path / "n.npy", np.arange(3))
    with pytest.raises(DataError, match="holds no text"):
        read_texts(tmp_path / "n.npy", 3)
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        read_texts(tmp_path / "l.txt", 1)


def test_images(tmp_path: Path) -> None:
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    image = read_images(tmp_path / "grey.npy", 3)(1)
    assert image.shape == (4, 5, 3)
    assert (image == grey[1][:, :, None]).all()
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in (2, 0, 1):
        Image.fromarray(grey[i]).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("not an image")
    assert (read_images(folder, 3)(2)[:, :, 0] == grey[2]).all()
    with pytest.raises(DataError, match="holds 3 images for 4 rows"):
        read_images(folder, 4)
    np.save(tmp_path / "float.npy", grey.astype(np.float32))
    with pytest.raises(DataError, match="float32"):
        read_images(tmp_path / "float.npy", 3)
    (folder / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1\.png is not a whole image"):
        read_images(folder, 3)(1)


def test_anchors_of_a_model(tmp_path: Path) -> None:
    assert anchors_of(tmp_path) == (None, ())
    Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2]).save(tmp_path / "anchors.safetensors")
    (tmp_path / "anchors.json").write_text(json.dumps({"classes": ["x", "y"]}))
    anchors, names = anchors_of(tmp_path)
    assert anchors is not None
    assert (anchors.k, names) == (2, ("x", "y"))


def test_the_command_on_a_table(sae: Path, table: Path) -> None:
    np.save(table.with_name("y.npy"), np.array(["even", "odd"])[np.arange(90) % 2])
    table.with_name("t.txt").write_text("\n".join(f"text {i}" for i in range(90)))
    Anchors(torch.eye(6)[:, :1], torch.eye(6)[:, :1]).save(sae / "anchors.safetensors")
    options = ("--labels", table.with_name("y.npy"), "--texts", table.with_name("t.txt"), "--top", 3, "--sample", 1)
    ran = call("inspect", sae, "--data", table, *options)
    assert ran.exit_code == 0, ran.stderr
    assert "opens in a browser without a server" in ran.stdout
    header, arrays = _data(sae / "latents.html")
    assert (header["kind"], header["n_q"], header["rows"]) == ("texts", 16, 90)
    assert header["classes"] == ["even", "odd"]
    assert header["method"] == "topk(k=2)"
    assert header["anchored"]["names"] == ["anchor 0"]
    assert arrays["top.count"].max() == 3


def test_the_command_on_a_store(tmp_path: Path, sae: Path, store: Path) -> None:
    ran = call("inspect", sae, "--data", store, "--read", "mlp:in", "--out", tmp_path / "p.html", "--title", "T<1>")
    assert ran.exit_code == 0, ran.stderr
    assert "--network" in ran.stderr  # says how to see promoted tokens
    header, _ = _data(tmp_path / "p.html")
    assert set(header["vocabulary"]) == set(WORDS)
    assert "<title>T&lt;1&gt;</title>" in (tmp_path / "p.html").read_text(encoding="utf-8")
    folder = _saved(tmp_path, "topk_transcoder(k=2)", 5)
    sites = ("--read", "mlp:in", "--write", "mlp:out")
    assert call("inspect", folder, "--data", store, *sites).exit_code == 0


class _Tokenizer:
    """As much of a tokenizer as the command asks."""

    all_special_tokens: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(WORDS)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [WORDS[i] for i in ids]


class _Language(nn.Module):
    """As much of a language model as logit effects ask."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_a_model_of_a_store_needs_no_options(tmp_path: Path, sae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder says which store and site, and the store says which network: promoted tokens come by themselves."""
    language, asked = _Language(), []

    def opened(name: str, **_: object) -> tuple[nn.Module, _Tokenizer]:
        asked.append(name)
        return language, _Tokenizer()

    monkeypatch.setattr(models, "open_network", opened)
    batches = [torch.randint(0, 4, (3, 20)) for _ in range(2)]
    about = {"model": ["a language model"]}
    harvest(_Network().eval(), "embed:out; mlp:in", batches, tmp_path / "acts", vocabulary=WORDS, about=about)
    write_json(sae / "source.json", {"store": str(tmp_path / "acts"), "read": ["embed:out"], "write": None})
    ran = call("inspect", sae)
    assert ran.exit_code == 0, ran.stderr
    header, arrays = _data(sae / "latents.html")
    assert header["title_rows"].endswith("embed:out")
    exact = (language.head.weight @ load_model(sae).W_D).detach().numpy()
    promoted = arrays["up"].reshape(16, -1)[:, 0]
    assert [header["vocabulary"][word] for word in promoted] == [WORDS[word] for word in exact.argmax(0)]
    assert asked == ["a language model"]

    assert call("inspect", sae, "--network", "none").exit_code == 0
    assert "effect" not in _data(sae / "latents.html")[0]
    ran = call("inspect", sae, "--read", "mlp:in")
    assert "does not write into the residual stream" in ran.stderr
    assert asked == ["a language model"]

    write_json(sae / "source.json", {"store": "gone", "read": ["embed:out"], "write": None})
    ran = call("inspect", sae)
    assert (ran.exit_code, "gone, which is not here" in ran.stderr) == (2, True)
    (sae / "source.json").unlink()
    ran = call("inspect", sae)
    assert (ran.exit_code, "give rows with --data" in ran.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "absent.npy"), "absent.npy does not exist"),
        (("--data", "x.npy", "--top", "0"), "top=0"),
        (("--data", "x.npy", "--read", "a:in"), "is no store"),
        (("--data", "x.npy", "--rows", "0"), "--rows 0; it must be at least 1"),
        (("--data", "x.npy", "--network", "nothing"), "neither a folder nor a known network"),
        (("--data", "narrow.npy"), "(n_p, n_r) = (3, 3), the model (6, 6)"),
    ],
)
def test_wrong_input_is_one_line(
    options: tuple[str, ...], said: str, sae: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    np.save("narrow.npy", np.ones((4, 3), dtype=np.float32))
    ran = call("inspect", sae, *options)
    assert ran.exit_code == 2
    assert said in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert not (sae / "latents.html").exists()


def test_anchors_of_another_width(table: Path, sae: Path, tmp_path: Path) -> None:
    path = Anchors(torch.eye(4)[:, :1], torch.eye(4)[:, :1]).save(tmp_path / "a.safetensors")
    ran = call("inspect", sae, "--data", table, "--anchors", path)
    assert ran.exit_code == 2
    assert "(n_r, k) = (4, 1)" in ran.stderr

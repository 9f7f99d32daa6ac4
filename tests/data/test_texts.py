"""Documents from files, windows of tokens, the texts of tokens, and networks from folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, CheckpointError, DataError
from monosem.data.batches import Batch, TokenFilter, masked
from monosem.data.store import open_store
from monosem.data.texts import Document, pieces, read_documents, text_batches
from monosem.networks.models import open_network
from tests.cli.calls import call

transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
WORDS = ["<pad>", "<s>", *"abcdefghij"]


def _tokenizer(level: str = "word") -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>")


def _rows(batches: list[Batch]) -> list[tuple[int, int, str]]:
    """(document, position, word) of every kept token, sorted."""
    found = []
    for batch in batches:
        assert batch.keep is not None
        assert batch.token is not None
        _, columns = batch.columns(batch.keep.shape[1])
        cells = (columns["document"].tolist(), columns["position"].tolist(), columns["token"].tolist())
        found += [(d, p, WORDS[t]) for d, p, t in zip(*cells, strict=True)]
    return sorted(found)


TEXTS = ["a b c d e f g", "h", "i j", "a a a a", "b b b"]


def test_windows_carry_on_counting() -> None:
    """Seven words in windows of four tokens, each with its own <s>."""
    batches = list(text_batches(_tokenizer(), TEXTS, length=4, tokens=8, keep=TokenFilter(drop=(1,))))
    rows = _rows(batches)
    assert [row for row in rows if row[0] == 0] == [
        (0, 1, "a"), (0, 2, "b"), (0, 3, "c"), (0, 5, "d"), (0, 6, "e"), (0, 7, "f"), (0, 9, "g"),
    ]  # fmt: skip
    assert [(d, w) for d, _, w in rows if d > 0] == [(1, "h"), (2, "i"), (2, "j")] + [(3, "a")] * 4 + [(4, "b")] * 3
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert (ids[:, 0] == 1).all()
        assert ids.numel() <= 8
        assert int(mask.sum(1).max()) == ids.shape[1]
        assert torch.equal(ids == 0, mask == 0)
    cut = _rows(list(text_batches(_tokenizer(), TEXTS, length=4, long="cut", keep=TokenFilter(drop=(1,)))))
    assert [word for d, _, word in cut if d == 0] == ["a", "b", "c"]


def test_batches_are_of_like_lengths_and_always_the_same() -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abcdefghij"), generator.integers(1, 30))) for _ in range(300)]
    made = list(text_batches(_tokenizer(), iter(texts), tokens=128, labels=[len(text) % 5 for text in texts]))
    again = list(text_batches(_tokenizer(), texts, tokens=128, labels=[len(text) % 5 for text in texts]))
    assert all(torch.equal(a.inputs["input_ids"], b.inputs["input_ids"]) for a, b in zip(made, again, strict=True))
    padded = sum(batch.inputs["input_ids"].numel() for batch in made) / sum(batch.tokens for batch in made)
    assert padded < 1.1
    assert sorted(int(d) for batch in made for d in batch.document) == list(range(300))
    for batch in made:
        assert batch.label is not None
        assert batch.label.tolist() == [len(texts[int(d)]) % 5 for d in batch.document]


@pytest.mark.usefixtures("as_in_production")
def test_a_share_of_the_tokens_is_replaced() -> None:
    texts = ["a b c d e f g h i j"] * 60 + ["a b"] * 7
    keep, plain = TokenFilter(drop=(0, 1)), list(text_batches(_tokenizer(), texts, tokens=64, keep=TokenFilter((0, 1))))
    made = list(masked(text_batches(_tokenizer(), texts, tokens=64, keep=keep), 0.3, WORDS.index("j")))
    count = changed = 0
    for before, after in zip(plain, made, strict=True):
        assert torch.equal(after.inputs["input_ids"], after.token)
        assert torch.equal(after.inputs["attention_mask"], before.inputs["attention_mask"])
        differs = before.token != after.token
        assert not bool((differs & ~before.keep).any())
        assert set(after.token[differs].tolist()) <= {WORDS.index("j")}
        count, changed = (
            count + int((before.keep & (before.token != WORDS.index("j"))).sum()),
            changed + int(differs.sum()),
        )
    assert changed / count == pytest.approx(0.3, abs=0.06)
    again = list(masked(text_batches(_tokenizer(), texts, tokens=64, keep=keep), 0.3, WORDS.index("j")))
    assert all(torch.equal(a.token, b.token) for a, b in zip(made, again, strict=True))
    with pytest.raises(DataError, match="no tokens to replace"):
        list(masked([torch.ones(2, 3)], 0.1, 0))


@pytest.mark.usefixtures("as_in_production")
def test_texts_that_are_none() -> None:
    with pytest.raises(ArgumentError, match="text 1 is no text"):
        list(text_batches(_tokenizer(), ["a", 5]))  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="length=1; a window"):
        next(text_batches(_tokenizer(), ["a"], length=1))


def test_documents(tmp_path: Path) -> None:
    txt = tmp_path / "x.txt"
    txt.write_text("one\ntwo\n\n\nthree\n")
    read = {each: [d.text for d in read_documents([txt], each)] for each in ("line", "paragraph", "file")}  # type: ignore[arg-type]
    assert read == {
        "line": ["one", "two", "three"],
        "paragraph": ["one\ntwo", "three"],
        "file": ["one\ntwo\n\n\nthree\n"],
    }
    jsonl = tmp_path / "x.jsonl"
    jsonl.write_text(json.dumps({"body": "ü", "kind": 3}) + "\n\n" + json.dumps({"body": "b", "kind": "x"}))
    assert list(read_documents([jsonl], field="body", label="kind")) == [Document("ü", "3"), Document("b", "x")]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = tmp_path / "x.parquet"
    table = pyarrow.table({"text": ["a", "", "c"], "n": [1, 2, 3]})
    pytest.importorskip("pyarrow.parquet").write_table(table, parquet)
    assert list(read_documents([parquet], label="n")) == [Document("a", "1"), Document("c", "3")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text"', "line 2, is not JSON"),
        ("x.jsonl", b'{"body": "a"}', "line 1, has no field 'text' but body; name the field"),
        ("x.jsonl", b'{"text": 3}', "line 1: 'text' is no text"),
        ("x.jsonl", b"[1]", "line 1, has no field 'text' but list"),
        ("x.txt", b"a\xff", "is not UTF-8 text"),
        ("x.doc", b"", "is no .txt or .jsonl or .parquet file"),
    ],
)
def test_documents_that_are_none(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(read_documents([path]))
    with pytest.raises(DataError, match="is no file; give texts as"):
        list(read_documents([tmp_path / "none.txt"]))


def test_pieces_of_three_families() -> None:
    class Fake:
        def __init__(self, names: list[str]) -> None:
            self.names, self.all_special_tokens = names, ["[CLS]"]

        def __len__(self) -> int:
            return len(self.names)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [self.names[i] for i in ids]

    assert pieces(Fake(["[CLS]", "run", "##ning"])) == ["[CLS]", " run", "ning"]
    assert pieces(Fake(["[CLS]", "Ġrun", "ning", "Ċ", "Ã¼"])) == ["[CLS]", " run", "ning", "\n", "ü"]
    assert pieces(Fake(["[CLS]", "▁run", "ning"])) == ["[CLS]", " run", "ning"]
    assert pieces(Fake(["▁run", "▁a", "##"])) == [" run", " a", "##"]  # Llama's own "##" makes it no WordPiece


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer, as transformers saves them."""
    made = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, bos_token_id=1, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(made)
    _tokenizer().save_pretrained(made)
    return made


def test_a_network_from_a_folder(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = open_network(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    assert tokenizer("a b")["input_ids"] == [1, 2, 3]
    with pytest.raises(DataError, match=r"none is neither a folder nor a known network"):
        open_network(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no config.json"):
        open_network(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(CheckpointError, match="cannot be read by transformers"):
        open_network(tmp_path)


def test_a_network_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path))
    shutil.copytree(folder, tmp_path / "networks" / "mine")
    assert type(open_network("mine")[0]).__name__ == "LlamaForCausalLM"
    with pytest.raises(DataError, match=r"known network \(mine\); check the path, or put its transformers folder"):
        open_network("yours")


def test_the_command_from_texts_to_a_model(folder: Path, tmp_path: Path) -> None:
    """Harvest, go on, train a transcoder, sample; then what a user may get wrong."""
    lines = [json.dumps({"text": text, "kind": "abc"[len(text) % 3]}) for text in TEXTS * 6]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    options = ["--network", folder, "--text", tmp_path / "x.jsonl", "--length", 16, "--batch-tokens", 64]
    at = ["--read", "model.layers.*.mlp:in,out"]
    harvest = ["harvest", *options, *at, "--labels-key", "kind", "--out", tmp_path / "acts"]
    ran = call(*harvest)
    assert ran.exit_code == 0, ran.stderr
    rows = 6 * sum(len(text.split()) for text in TEXTS)
    assert f"{rows:,} rows of model.layers.0.mlp:in (8), model.layers.1.mlp:in (8)" in ran.stdout
    assert call(*harvest).stdout == ran.stdout
    assert call(*harvest[:-1], tmp_path / "broken", "--mask", 0.4).exit_code == 0
    plain, broken = (open_store(tmp_path / name) for name in ("acts", "broken"))
    assert broken.manifest["about"]["mask"] == 0.4
    assert 0.2 < np.mean(plain.tokens[:] != broken.tokens[:]) < 0.6
    train = ["train", "--data", tmp_path / "acts", "--n-q", 16, "--steps", 5, "--batch-size", 16]
    sites = ["--read", "**.1.mlp:in", "--write", "**.1.mlp:out"]
    done = call(
        *train, *sites, "--method", "topk_transcoder(k=2)", "--out", tmp_path / "m", "--labels", tmp_path / "acts"
    )
    assert done.exit_code == 0, done.stderr
    assert "3 anchors (class_means)" in done.stderr
    assert json.loads((tmp_path / "m" / "source.json").read_text())["read"] == ["model.layers.1.mlp:in"]
    deep = call(*train, "--method", "topk_cross_layer(k=2)", "--out", tmp_path / "c")
    assert deep.exit_code == 0, deep.stderr
    drawn = call("sample", "--network", folder, "--out", tmp_path / "s.jsonl", "--documents", 3, "--tokens", 5)
    assert drawn.exit_code == 0, drawn.stderr
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 3
    for wrong, says in (
        ([*train, "--method", "topk(k=2)", "--out", tmp_path / "w"], "an SAE reads one site; say which"),
        ([*train, *sites[:2], "--method", "topk(k=2)", "--out", tmp_path / "w", "--widths", "8"], "leave out widths"),
        (["harvest", *options, "--read", "model.layer.0:out", "--out", tmp_path / "w"], "no module is called"),
        (["harvest", *options[:4], *at, "--out", tmp_path / "w"], "--length 256 is more than the network's 16"),
        (["harvest", "--network", folder, *options, *at, "--out", tmp_path / "w"], "several networks need names"),
        (["sample", "--network", folder, "--out", tmp_path / "s.txt"], "is no .jsonl file"),
    ):  # fmt: skip
        refused = call(*wrong)
        assert refused.exit_code == 2
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr

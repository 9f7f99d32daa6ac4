"""Texts of one's own: what the page says fires on them is what the dictionary says of the network's activations."""

from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.base.errors import DataError
from monosem.inspect.own import own_texts
from monosem.inspect.page import inspect_page
from tests.inspect.samples import token_rows
from tests.inspect.test_browser import END, TOOLS
from tests.networks.llamas import VOCABULARY, WIDTH, llama, trained
from tests.report.browser import BROWSER, evaluate

WORDS = [f"w{i}" for i in range(VOCABULARY)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"<pad>": 0, "<s>": 1, **{word: i for i, word in enumerate(WORDS) if i > 1}}
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokens.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>")


@pytest.mark.parametrize(
    ("method", "at", "to"),
    [("topk(k=3)", "model.layers.1:out", None), ("topk_transcoder(k=3)", "model.layers.1.mlp:in,out", None)],
)
def test_latents_of_every_token(method: str, at: str, to: str | None, tokenizer: Any) -> None:
    network, sdl = llama(), trained(method, 24, (WIDTH,), (WIDTH,))
    text = own_texts(sdl, network, tokenizer, ["w5 w9 w5 w20"], at, to)[0]
    assert text.words == ("w5", "w9", "w5", "w20")
    kept: list[torch.Tensor] = []
    module = network.model.layers[1] if to is None and "mlp" not in at else network.model.layers[1].mlp
    where = (
        module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        if "mlp" in at
        else module.register_forward_hook(lambda _, args, out: kept.append(out if torch.is_tensor(out) else out[0]))
    )
    with torch.no_grad():
        network(torch.tensor([[1, 5, 9, 5, 20]]))
        where.remove()
        code = sdl.encode(kept[0].reshape(5, WIDTH)).to_dense()[1:]
    for i in range(4):
        order = [int(j) for j in code[i].argsort(descending=True) if code[i, j] > 0]
        assert list(text.latents[i]) == order
        assert text.values[i] == pytest.approx(code[i, order].tolist(), rel=1e-4)


def test_a_text_without_tokens_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="'' has no tokens but special ones"):
        own_texts(trained("topk(k=3)", 24, (WIDTH,), (WIDTH,)), llama(), tokenizer, [""], "model.layers.1:out")


@pytest.mark.skipif(not BROWSER, reason="no chromium or chrome is installed")
def test_the_page_answers_for_a_token(tokenizer: Any, tmp_path: Path) -> None:
    sdl = trained("topk(k=3)", 24, (WIDTH,), (WIDTH,))
    own = own_texts(sdl, llama(), tokenizer, ["w5 w9"], "model.layers.1:out")
    small = trained("topk(k=3)", 24, (6,), (6,))
    steps = """
      probe.tokens = all("#detail .own .token").map((token) => token.textContent);
      all("#detail .own .token")[1].click();
      probe.latents = all("#detail .near button").map((button) => Number(button.textContent));
      $("#detail .near button").click();
      probe.marks = all("#detail .own mark").map((mark) => mark.textContent);
    """
    page = inspect_page(small, token_rows(), own=own)
    probe = evaluate(page, TOOLS + steps + END, tmp_path)
    assert probe["errors"] == ""
    assert probe["tokens"] == ["w5", "w9"]
    first = own[0].latents[1]
    assert probe["latents"][: len(first)] == list(first)
    assert probe["marks"] == [word for word, some in zip(("w5", "w9"), own[0].latents, strict=True) if first[0] in some]

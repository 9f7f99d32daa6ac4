"""`monosem evaluate` on a network and `monosem steer`, on a random Llama in a folder; and what a user may get wrong."""

import importlib
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.core.io import save_model
from monosem.core.model import SDL
from monosem.data.batches import TokenFilter
from monosem.data.store import open_store
from monosem.data.texts import text_batches
from monosem.networks.models import open_network
from monosem.networks.network import network_scores
from tests.cli.calls import call
from tests.inspect.samples import unpack
from tests.networks.llamas import trained

transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")
WORDS = ["<pad>", "<s>", *"abcdefghij"]
TEXTS = ["a b c d e f", "b c d", "j i h g f e d c", "a a b b"]
WIDTH = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, texts, an SAE trained on its store, and one of unknown origin."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("network")
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(root / "llama")
    known = {"tokenizer_object": tokens, "pad_token": "<pad>", "bos_token": "<s>"}
    transformers.PreTrainedTokenizerFast(**known).save_pretrained(root / "llama")
    (root / "x.txt").write_text("\n".join(TEXTS * 4))
    (root / "empty.txt").write_text("")
    harvest = ["harvest", "--network", root / "llama", "--text", root / "x.txt", "--length", 32]
    for command in (
        [*harvest, "--read", "model.layers.0:out", "--out", root / "acts"],
        ["train", "--data", root / "acts", "--n-q", 16, "--steps", 3, "--batch-size", 8, "--method", "topk(k=3)",
         "--out", root / "sae"],
    ):  # fmt: skip
        ran = call(*command)
        assert ran.exit_code == 0, ran.stderr
    save_model(trained("topk_transcoder(k=3)", 16, (WIDTH,), (WIDTH,)), root / "coder")
    return root


def _scores(made: Path, sae: SDL, at: str) -> dict[str, Any]:
    network, tokenizer = open_network(made / "llama")
    batches = list(text_batches(tokenizer, TEXTS * 4, keep=TokenFilter((0, 1))))
    return network_scores(network, sae, at, batches).plain()


def test_evaluate_knows_where_a_model_of_a_store_belongs(made: Path) -> None:
    from monosem.core.io import load_model

    ran = call("evaluate", made / "sae", "--text", made / "x.txt", "--json")
    assert ran.exit_code == 0, ran.stderr
    shown = json.loads(ran.stdout)
    assert (shown["network"], shown["read"]) == (str(made / "llama"), "model.layers.0:out")
    wanted = _scores(made, load_model(made / "sae"), "model.layers.0:out")
    assert shown["tokens"] == wanted["tokens"]
    assert shown["fvu"] == pytest.approx(wanted["fvu"], rel=1e-5)
    assert shown["effects"][0]["kl"] == pytest.approx(wanted["effects"][0]["kl"], rel=1e-4)
    table = call("evaluate", made / "sae", "--text", made / "x.txt").stdout
    for word in ("FVU", "vs mean", "recovered", f"{wanted['fvu']:.4f}", f"{wanted['effects'][0]['ce']['zero']:.4f}"):
        assert word in table


def test_evaluate_a_model_from_elsewhere(made: Path) -> None:
    given = ["--network", made / "llama", "--read", "model.layers.1.mlp:in,out"]
    ran = call("evaluate", made / "coder", "--text", made / "x.txt", *given)
    assert ran.exit_code == 0, ran.stderr
    assert "model.layers.1.mlp:out" in ran.stdout
    apart = ["--network", made / "llama", "--read", "model.layers.1.mlp:in", "--write", "model.layers.1.mlp:out"]
    same = call("evaluate", made / "coder", "--text", made / "x.txt", *apart)
    assert same.stdout == ran.stdout


def test_steer_writes_with_and_without(made: Path) -> None:
    options = [made / "sae", "--prompt", "a b c", "--tokens", 12]
    ran = call("steer", *options, "--add", "3,5=40", "--zero", "1")
    assert ran.exit_code == 0, ran.stderr
    first, plain, second, steered = ran.stdout.strip().splitlines()
    assert (first, second) == ("as it is", "steered")
    assert plain.startswith("a b c")
    assert steered.startswith("a b c")
    assert plain != steered
    lines = call("steer", *options, "--scale", "0,1=1").stdout.splitlines()
    assert lines[1] == lines[3] == plain  # nothing is changed
    sampled = [call("steer", *options, "--clamp", "2=9", "--temperature", 1.0, "--seed", s).stdout for s in (0, 0, 1)]
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]


BAD = {
    "evaluate on nothing": (["evaluate", "{sae}"], "either --task TASK, or --text FILES"),
    "evaluate on both": (["evaluate", "{sae}", "--task", "lrb/nano", "--text", "{x}"], "either --task TASK, or --text"),
    "evaluate without a text": (["evaluate", "{sae}", "--read", "model.layers.0:out"], "no text to score on"),
    "evaluate, place unknown": (["evaluate", "{coder}", "--text", "{x}"], "give --network and --read"),
    "evaluate, no such text": (["evaluate", "{sae}", "--text", "{x}x"], "is no file; give texts as"),
    "evaluate, empty text": (["evaluate", "{sae}", "--text", "{empty}"], "no token is counted"),
    "evaluate, other site": (
        ["evaluate", "{sae}", "--text", "{x}", "--read", "lm_head:out"], "lm_head:out has width 12",
    ),
    "evaluate, no such site": (["evaluate", "{sae}", "--text", "{x}", "--read", "layer:out"], "no module is called"),
    "steer, nothing": (["steer", "{sae}"], "no edit is given"),
    "steer, unreadable": (["steer", "{sae}", "--add", "three"], "cannot read --add 'three'"),
    "steer, no amount": (["steer", "{sae}", "--clamp", "3"], "cannot read --clamp '3'"),
    "steer, too much": (["steer", "{sae}", "--zero", "3=1"], "cannot read --zero '3=1'"),
    "steer, no such latent": (["steer", "{sae}", "--add", "99=1"], "an edit names latents [99], the model has n_q=16"),
    "steer, temperature": (["steer", "{sae}", "--zero", "3", "--temperature", "-1"], "a temperature is at least 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_told_in_a_line(case: str, made: Path) -> None:
    command, says = BAD[case]
    places = {name: str(made / name) for name in ("sae", "coder")}
    files = {"x": str(made / "x.txt"), "empty": str(made / "empty.txt")}
    ran = call(*(part.format(**places, **files) for part in command))
    assert ran.exit_code == 2, ran.stdout
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_judge_explains_latents_and_the_page_shows_its_words(made: Path, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("import sys\np = sys.stdin.read()\nprint('none' if 'numbers' in p else 'the letter a')\n")
    ran = call("explain", made / "sae", "--latents", "0-3,5", "--judge", f"{sys.executable} {judge}", "--json")
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    labels = json.loads(Path(said["labels"]).read_text())
    assert said["explained"] == len(labels) >= 1
    assert {one["label"] for one in labels.values()} == {"the letter a"}
    assert {one["detection"] for one in labels.values()} <= {0.5, None}  # none chosen: chance
    page = tmp_path / "page.html"
    assert call("inspect", made / "sae", "--network", "none", "--out", page).exit_code == 0
    data = re.search(r'<script[^>]*id="data"[^>]*>([^<]+)<', page.read_text())
    assert data is not None
    shown = unpack(data[1].strip())[0]["labels"]
    assert {one["label"] for one in shown.values()} == {"the letter a"}


def test_a_page_takes_labels_and_a_text_of_ones_own(made: Path, tmp_path: Path) -> None:
    exported, page = tmp_path / "labels.json", tmp_path / "page.html"
    label = {"latent": 7, "label": "by me", "judge": "by hand", "detection": None, "fuzzing": None, "passages": 0}
    exported.write_text(json.dumps({"7": label}))
    ran = call("inspect", made / "sae", "--try", "a b a", "--exported", exported, "--out", page)
    assert ran.exit_code == 0, ran.stderr
    data = re.search(r'<script[^>]*id="data"[^>]*>([^<]+)<', page.read_text())
    assert data is not None
    header = unpack(data[1].strip())[0]
    assert header["labels"]["7"]["label"] == "by me"
    assert json.loads((made / "sae/labels.json").read_text())["7"]["label"] == "by me"
    assert header["own"][0]["words"] == ["a", "b", "a"]
    assert [len(latents) for latents in header["own"][0]["latents"]] == [3, 3, 3]  # TopK, k = 3
    ran = call("inspect", made / "sae", "--try", "a b", "--network", "none", "--out", page)
    assert ran.exit_code == 2
    assert "--try needs the language model and its site" in ran.stderr


def test_the_page_and_its_network_are_made_where_and_as_asked(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the network of the store too, which is not named."""
    from monosem.inspect import page as pages
    from monosem.networks import logits

    seen: list[Any] = []
    monkeypatch.setattr(pages, "inspect_page", lambda model, *_, **__: seen.append(model.b_E.device.type) or "page")
    monkeypatch.setattr(logits, "logit_effect", lambda _, network: seen.append(network.dtype))
    assert call("inspect", made / "sae", "--dtype", "bfloat16").exit_code == 0
    assert call("inspect", made / "sae", "--network", "none", "--device", "meta").exit_code == 0
    assert seen == [torch.bfloat16, "cpu", "meta"]


def test_latents_are_explained_where_and_as_asked(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    module = importlib.import_module("monosem.inspect.explain")  # the package's attribute is the function
    monkeypatch.setattr(module, "explain", lambda model, *_, **__: seen.append(model.b_E) or [])
    totals: list[int] = []  # of the bar: rows, as what it is told
    bar = importlib.import_module("monosem.cli.explain")
    monkeypatch.setattr(bar, "rate_bar", lambda total: totals.append(total) or nullcontext(print))
    for options in (("--dtype", "bfloat16"), ("--device", "meta")):
        assert call("explain", made / "sae", "--judge", "true", *options).exit_code == 0
    assert totals == 2 * [open_store(made / "acts").rows]
    assert (seen[0].dtype, seen[1].device.type) == (torch.bfloat16, "meta")
    ran = call("explain", made / "sae", "--judge", "true", "--dtype", "int4")
    assert (ran.exit_code, "--dtype int4 is no type of weights; choose auto, float64" in ran.stderr) == (2, True)


def test_a_dictionary_in_bfloat16_explains(made: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    ran = call("explain", made / "sae", "--prompts", prompts, "--dtype", "bfloat16", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["waiting"] == len(prompts.read_text().splitlines()) > 0


def test_prompts_wait_for_answers_in_a_file(made: Path, tmp_path: Path) -> None:
    prompts, answers = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    for _ in range(4):
        ran = call("explain", made / "sae", "--latents", "1", "--prompts", prompts, "--answers", answers, "--json")
        assert ran.exit_code == 0, ran.stderr
        said = json.loads(ran.stdout)
        if not said["waiting"]:
            break
        with answers.open("a") as file:
            for line in prompts.read_text().splitlines():
                file.write(json.dumps({"id": json.loads(line)["id"], "answer": "none"}) + "\n")
    assert said["waiting"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--latents", "x"), "'x' is no number and no range"),
        (("--latents", "3-99"), "the dictionary has latents 0 to 15"),
        ((), "say who answers"),
        (("--judge", "false"), "failed (1)"),
    ],
)
def test_wrong_explanations_are_refused(made: Path, options: tuple[str, ...], message: str) -> None:
    who = () if not options or "--judge" in options else ("--judge", "true")
    ran = call("explain", made / "sae", *options, *who)
    assert ran.exit_code == 2
    assert message in " ".join(ran.stderr.split())


@pytest.mark.parametrize("command", ["harvest", "evaluate", "sample"])
def test_a_network_that_no_device_takes_is_refused(made: Path, command: str, tmp_path: Path) -> None:
    more: dict[str, tuple[object, ...]] = {
        "harvest": ("--read", "model.layers.0:out", "--text", made / "x.txt", "--out", tmp_path / "s"),
        "evaluate": (made / "sae", "--text", made / "x.txt", "--read", "model.layers.0:out"),
        "sample": ("--out", tmp_path / "t.jsonl"),
    }
    for options, message in (
        (("--device", "gpu"), "gpu is no device that torch knows"),
        (("--dtype", "float8"), "dtype='float8'"),
        (("--device", "meta", "--device-map", "auto"), "both say where the network lies"),
    ):
        ran = call(command, *more[command], "--network", made / "llama", *options)
        assert ran.exit_code == 2, ran.stdout
        assert message in " ".join(ran.stderr.split())


def test_a_network_in_bfloat16_is_stored(made: Path, tmp_path: Path) -> None:
    site = ("--read", "model.layers.0:out", "--text", made / "x.txt", "--out", tmp_path / "s")
    ran = call(
        "harvest", "--network", made / "llama", *site, "--dtype", "bfloat16", "--rows", 12, "--length", 32, "--json"
    )
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["rows"] == 12

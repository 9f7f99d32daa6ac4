"""A product of wrong commands: command x option x what can be wrong with it, in an order that a seed decides.

`python -m tests.wrong` runs all of it and writes the record and its page.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.cli import app as every
from tests.cli.calls import call

RECORD = Path(__file__).with_suffix(".json")
FILES = "data target labels anchors_file anchors texts images text problem records dictionary answers"
INPUTS = frozenset(FILES.split())
"""Parameters that name something to read."""
OUTPUTS = frozenset(["out_file", "out_folder", "prompts"])
"""Parameters that name something to write."""
NAMES = {
    "method": "topkk(k=2)",
    "methods": "topkk",
    "task": "lrb/none",
    "pairing": "saee",
    "format": "saelense",
    "what": "method",
    "names": "zero_los",
    "network": "no-such-network",
    "device": "gpu",
    "pool": "median",
    "store_dtype": "float31",
    "each": "word",
    "selection": "fp31",
    "dense": "fp31",
    "among": "uncles",
    "classes": "no-such-class",
    "read": "no.such.site:out",
    "write": "no.such.site:out",
    "widths": "3;3",
    "target_widths": "3;3",
    "add": "three",
    "clamp": "3",
    "scale": "3=",
    "zero": "3=1",
    "latents": "3-x",
    "judge": "no-such-program",
    "by": "no-such-criterion",
    "vary": "no-such-setting=1",
    "key": "no-such-tensor",
    "target_key": "no-such-tensor",
    "labels_key": "no-such-tensor",
    "texts_key": "no-such-column",
    "text_key": "no-such-field",
}
"""Names, and one that is not among them."""
BELOW = {"int": "-3", "float": "-3.5"}


@dataclass(frozen=True)
class Wrong:
    """A command, the option at fault, the class of the fault, the words, and the wrong value among them."""

    command: str
    option: str
    fault: str
    words: tuple[str, ...]
    value: str = ""


def language_model(folder: Path, width: int = 8) -> Path:
    """A random Llama with a tokenizer of twelve words, as transformers saves them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<s>", *"abcdefghij"]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    known = {"tokenizer_object": tokens, "pad_token": "<pad>", "bos_token": "<s>"}
    transformers.PreTrainedTokenizerFast(**known).save_pretrained(folder)
    return folder


def stage(folder: Path) -> dict[str, tuple[str, ...]]:
    """Files to work on, and a right call of every command: its words without the program's name."""
    from monosem import method, save_model

    rows = np.tile(np.eye(8), (60, 1)) * (1 + np.arange(480)[:, None] % 7)
    np.save(folder / "x.npy", rows.astype(np.float32))
    np.save(folder / "y.npy", np.arange(480) % 8 % 3)
    texts = ["a b c d e f", "b c d", "j i h g f e d c"] * 4
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "p.json").write_text('{"W_p": [[1, 0], [0, 1]], "n_q": 1}')
    (folder / "garbage").write_bytes(bytes(range(200, 256)) * 9)
    (folder / "records").mkdir()
    language_model(folder / "llama")
    save_model(method("topk(k=2)").build(16, (8,), (8,))[0], folder / "sae", {"method": "topk(k=2)"})
    rows, size = ("--data", "{x}/x.npy"), ("--method", "topk(k=2)", "--n-q", "16", "--steps", "2")
    labels, place = ("--labels", "{x}/y.npy"), ("--network", "{x}/llama", "--read", "model.layers.0:out")
    short = ("--steps", "1", "--seeds", "1", "--workers", "1", "--methods", "topk(k=2)", "--plain", "--no-report")
    return {
        "train": ("train", *rows, *size, "--out", "{x}/new/run"),
        "tune": ("tune", *rows, *size, "--vary", "k=1,2"),
        "inspect": ("inspect", "{x}/sae", *rows, "--network", "none", "--out", "{x}/new/page.html"),
        "evaluate": ("evaluate", "{x}/sae", *place, "--text", "{x}/t.jsonl"),
        "steer": ("steer", "{x}/sae", *place, "--zero", "3", "--tokens", "2", "--prompt", "a"),
        "harvest": ("harvest", *place, "--text", "{x}/t.jsonl", "--length", "32", "--out", "{x}/new/acts"),
        "sample": ("sample", *place[:2], "--documents", "2", "--tokens", "2", "--out", "{x}/new/s.jsonl"),
        "explain": ("explain", "{x}/sae", "--data", "{x}/new/acts", "--prompts", "{x}/new/prompts.jsonl"),
        "convert": ("convert", "{x}/sae", "{x}/new/copy"),
        "describe": ("describe", "{x}/sae"),
        "anchors discover": ("anchors", "discover", *rows, "--out", "{x}/new/a.safetensors"),
        "anchors from-classes": ("anchors", "from-classes", *rows, *labels, "--out", "{x}/new/b.safetensors"),
        "anchors score-classes": ("anchors", "score-classes", "{x}/sae", *rows, *labels),
        "bench": ("bench", "--task", "lrb/nano", *short, "--out", "{x}/new/bench"),
        "report": ("report", "{x}/new/bench", "--out", "{x}/new/report.html"),
        "check": ("check", "dead_latents", "--problem", "{x}/p.json"),
        "list": ("list",),
        "cite": ("cite", "topk"),
    }


@cache
def command_of(words: tuple[str, ...]) -> Any:
    """The command that words begin with."""
    command = every.command(words[0])
    return command.commands[words[1]] if hasattr(command, "commands") else command


def staged(folder: Path) -> list[Wrong]:
    """Files to work on, a right call of every command, and every wrong one."""
    calls = stage(folder)
    for name, words in calls.items():
        if name not in ("bench", "report"):  # these have tests of their own, and start processes
            right = call(*(word.format(x=folder) for word in words))
            assert right.exit_code == 0, (words, right.output)
    return product(calls)


def outcome(folder: Path, one: Wrong) -> tuple[str, str]:
    """How a wrong command ends, "refused" where it is as it should be, and its line."""
    result = call(*(word.format(x=folder) for word in one.words))
    lines = result.stderr.rstrip("\n").splitlines()
    last = lines[-1] if lines else ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "raw error", repr(result.exception)
    if result.exit_code != 2 or [line for line in lines if line.startswith("error: ")] != lines[-1:]:
        return f"exit {result.exit_code}", last
    names = [one.option.lstrip("-"), *re.split(r"[/:=.]", one.value.format(x=folder)), "empty word"]
    named = not one.option or any(name and name.replace("-", "_") in last.replace("-", "_") for name in names)
    return "refused" if named else "neither option nor value named", last.replace(str(folder), "here")


def recorded(folder: Path) -> dict[str, Any]:
    """Counts of a run of all, and a line for each class of fault."""
    wrong = staged(folder)
    ends = [outcome(folder, one) for one in wrong]
    pairs = sorted(zip(wrong, ends, strict=True), key=lambda pair: (pair[0].fault, pair[0].words))
    return {
        "commands": len(wrong),
        "outcomes": dict(Counter(kind for kind, _ in ends)),
        "by_fault": dict(sorted(Counter(one.fault for one in wrong).items())),
        "by_command": dict(sorted(Counter(one.command for one in wrong).items())),
        "lines": {one.fault: line for one, (_, line) in pairs if one.command == "train"},
    }


def product(calls: dict[str, tuple[str, ...]], seed: int = 0) -> list[Wrong]:
    """Every wrong command, shuffled."""
    wrong = [one for name, words in calls.items() for one in _of_command(name, words)]
    random.Random(seed).shuffle(wrong)
    return wrong


def _of_command(name: str, words: tuple[str, ...]) -> Iterator[Wrong]:
    command, start = command_of(words), len(name.split())
    yield Wrong(name, "", "unknown option", (*words, "--no-such-option"))
    yield Wrong(name, "", "one argument too many", (*words, *["too", "many"] * (name == "check"), "extra", "extra"))
    yield Wrong(name, "--config", "missing file", (*words, "--config", "{x}/none.toml"), "{x}/none.toml")
    yield Wrong(name, "--config", "damaged file", (*words, "--config", "{x}/garbage"), "{x}/garbage")
    for parameter in command.params:
        if name == "report" and parameter.name == "out_file":
            continue  # it is opened when the page is made, which takes seconds
        if name == "explain" and parameter.name == "answers":
            continue  # prompts wait for a file that is not there yet; tests/inspect tries damaged ones
        if parameter.name in ("help", "help_all", "config_file", "print_config", "as_json", "quiet"):
            continue
        if parameter.param_type_name == "argument":
            for fault, value in _values(parameter):
                at = start + [p.name for p in command.params if p.param_type_name == "argument"].index(parameter.name)
                yield Wrong(name, parameter.name, fault, (*words[:at], value, *words[at + 1 :]), value)
            continue
        option = max(parameter.opts, key=len)
        if parameter.required:
            at = words.index(option)
            yield Wrong(name, option, "missing", (*words[:at], *words[at + 2 :]))
        if parameter.is_flag:
            yield Wrong(name, option, "a value for a flag", (*words, f"{option}=maybe"))
            continue
        yield Wrong(name, option, "misspelt", (*words, f"{option}x", "1"))
        yield Wrong(name, option, "no value", (*words, option))
        for fault, value in _values(parameter):
            yield Wrong(name, option, fault, (*_without(words, option), option, *value.split(" ")), value)


def _without(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    at = words.index(option) if option in words else len(words)
    return (*words[:at], *words[at + 2 :])


def _values(parameter: Any) -> Iterator[tuple[str, str]]:
    """(class of fault, a wrong value) for one parameter."""
    kind = parameter.type_descriptor.annotation if hasattr(parameter, "type_descriptor") else str
    text = str(kind)
    many = " ".join if parameter.nargs == 1 else lambda words: " ".join([*words, *words])
    if kind in (int, float) or "float" in text:
        yield "text for a number", many(["many"])
        yield "negative", many([BELOW["int" if kind is int else "float"]])
        if kind is int:
            yield "fraction", "2.5"
        else:
            yield "not a number", many(["nan"])
    written = parameter.name in OUTPUTS or (parameter.name == "target" and parameter.param_type_name == "argument")
    if parameter.name in INPUTS and not written:
        yield "missing file", "{x}/none.npy"
        yield "damaged file", "{x}/garbage"
        yield "empty name", ""
    elif written:
        yield "below a file", "{x}/x.npy/below.safetensors"
        yield "no permission", "/proc/none/below.safetensors"
    elif parameter.name in NAMES:
        yield "unknown name", NAMES[parameter.name]

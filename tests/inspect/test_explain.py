"""Words for latents: prompts, scores of judges that know, guess or lie, answers in a file, labels on the page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, CheckpointError, DataError
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.inspect.explain import Answers, Passage, command_judge, explain, load_labels, save_labels
from monosem.inspect.page import inspect_page
from monosem.inspect.rows import Rows
from monosem.methods import method
from tests.inspect.samples import unpack

WORDS = [" cat", " dog", " the", " ran", " sat", " a", " to", " of"]


def _rows() -> Rows:
    """120 documents of 20 words; a row is its word's unit vector."""
    random = np.random.default_rng(0)
    token = random.choice(8, 2400, p=[0.04, 0.04, 0.3, 0.15, 0.15, 0.12, 0.1, 0.1])
    document = np.repeat(np.arange(120), 20)
    source = TensorSource(torch.eye(8)[torch.from_numpy(token)])
    return Rows(source, None, token, document, np.tile(np.arange(20), 120), lambda ids: [WORDS[i] for i in ids])


def _model() -> SDL:
    """Latent j fires on word j; the last two never do."""
    model, _ = method("relu_l1").build(10, (8,), (8,))
    with torch.no_grad():
        model.encoder.weights[0].copy_(torch.eye(10, 8))
        model.b_E.copy_(torch.tensor([-0.5] * 10))
    return model.eval()


def _knows(prompt: str) -> str:
    """Names the marked word, and finds it."""
    if prompt.startswith("A feature of a language model"):
        return re.findall(r"^\d+\. .*?«\s*(\w+)", prompt, re.MULTILINE)[0]
    word = prompt.splitlines()[0].removeprefix("A feature of text: ")
    lines = [line for line in prompt.splitlines() if re.match(r"\d+\. ", line)]
    marked = "between" in prompt
    hits = [re.search(rf"«\s*{word}\b" if marked else rf"\b{word}\b", line.partition(". ")[2]) for line in lines]
    return ", ".join(line.partition(".")[0] for line, hit in zip(lines, hits, strict=True) if hit) or "none"


def test_scores_of_judges() -> None:
    """One that knows, one that always says none, one that says all."""
    by_judge = {}
    for name, judge in (
        ("knows", _knows),
        ("none", lambda prompt: "none"),
        ("all", lambda prompt: ", ".join(map(str, range(1, 99)))),
        ("lies", lambda prompt: "fish" if "Say in one" in prompt else _knows(prompt.replace("text: fish", "text: of"))),
    ):
        by_judge[name] = explain(_model(), _rows(), judge, [0, 1, 9], shown=8, scored=12)
    cat, dog = by_judge["knows"]
    assert (cat.latent, cat.label, dog.label) == (0, "cat", "dog")  # latent 9 never fires
    for value in (cat, dog):
        assert value.detection == value.fuzzing == 1
        assert value.passages == 12
    for name in ("none", "all"):
        assert all(value.detection == value.fuzzing == 0.5 for value in by_judge[name])
    assert all(value.detection is not None and value.detection < 0.8 for value in by_judge["lies"])


def test_what_is_asked() -> None:
    """The prompt shows other passages than those that are scored; quiet passages do not hold the word."""
    prompts: list[str] = []

    def judge(prompt: str) -> str:
        prompts.append(prompt)
        return _knows(prompt)

    explain(_model(), _rows(), judge, [0], shown=8, scored=12)
    words, detect, fuzz = (
        [line.partition(". ")[2] for line in p.splitlines() if re.match(r"\d+\. ", line)] for p in prompts
    )
    assert len(words) == 8
    assert all("« cat" in line.replace("«cat", "« cat") for line in words)
    assert len(detect) == 24
    assert sum("cat" in line for line in detect) == 12
    assert not {line.replace("«", "").replace("»", "").replace(" ", "") for line in words} & {
        line.replace(" ", "") for line in detect
    }
    assert len(fuzz) == 12
    assert sum(bool(re.search(r"«\s*cat", line)) for line in fuzz) == 6


def test_marks() -> None:
    passage = Passage((" the", " big", " cat", "."), (0.0, 1.5, 2.0, 0.0))
    assert passage.written(passage.fires) == "the« big cat»."
    assert passage.written() == "the big cat."
    assert Passage(("a", " b"), (0.0, 1.0)).written([False, True]) == "a« b»"


def test_answers_from_a_file(tmp_path: Path) -> None:
    """Two rounds: words first, then the questions that hold them."""
    answers, file = Answers(), tmp_path / "answers.jsonl"
    entries: list[dict[str, str]] = []
    for wanted in (2, 2, 2):
        assert explain(_model(), _rows(), answers, [0, 1], shown=8, scored=12) == []
        assert answers.write(tmp_path / "prompts.jsonl") == wanted
        asked = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
        entries += [{"id": entry["id"], "answer": _knows(entry["prompt"])} for entry in asked]
        file.write_text("\n".join(map(json.dumps, entries)))
        answers = Answers(file)
    explained = explain(_model(), _rows(), answers, [0, 1], shown=8, scored=12)
    assert [value.detection for value in explained] == [1, 1]
    assert not answers.open
    for damaged in (b'{"id": 3}\n', b"\xc8\xff\n", b"[" * 100_000):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r'answers.jsonl, line 1, is no \{"id"'):
            Answers(file)


def test_labels_land_on_the_page(tmp_path: Path) -> None:
    explained = explain(_model(), _rows(), _knows, [0], shown=8, scored=12)
    save_labels(tmp_path, explained, "a test")
    save_labels(tmp_path, explain(_model(), _rows(), _knows, [1], shown=8, scored=12), "a test")
    labels = load_labels(tmp_path)
    assert labels[1] == {
        "latent": 1,
        "label": "dog",
        "detection": 1.0,
        "fuzzing": 1.0,
        "passages": 12,
        "judge": "a test",
    }
    page = inspect_page(_model(), _rows(), labels=labels)
    data = re.search(r'<script[^>]*id="data"[^>]*>([^<]+)<', page)
    assert data is not None
    assert unpack(data[1].strip())[0]["labels"]["0"]["label"] == "cat"
    assert load_labels(tmp_path / "none") == {}


def test_a_program_as_judge() -> None:
    assert command_judge("tr a-z A-Z")("yes") == "YES"
    with pytest.raises(ArgumentError, match=r"failed \(3\): oh no"):
        command_judge("echo oh no >&2; exit 3")("")
    with pytest.raises(ArgumentError, match=r"took over 0\.1 s"):
        command_judge("sleep 5", 0.1)("")


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="the rows are rows; explanations need tokens"):
        explain(_model(), Rows(TensorSource(torch.eye(8))), _knows, [0])
    with pytest.raises(ArgumentError, match=r"latents \[10\] are not there"):
        explain(_model(), _rows(), _knows, [10])


@pytest.mark.parametrize("damaged", ['{"0": "cat"}', "[]", '{"0": {"latent": 0, "label": 3}}'])
def test_damaged_labels_are_one_named_error(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(damaged)
    with pytest.raises(CheckpointError, match=r"labels\.json"):
        load_labels(tmp_path)

"""Wrong input: one line that names what is wrong, exit code 2, no traceback."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.calls import call

X = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)

Case = tuple[dict[str, object], str]


def _with(row: int, column: int, value: float) -> np.ndarray:
    changed = X.copy()
    changed[row, column] = value
    return changed


FILES: dict[str, np.ndarray] = {
    "x": X,
    "nan": _with(3, 2, np.nan),
    "inf": _with(29, 5, np.inf),
    "cube": X.reshape(5, 6, 6),
    "line": X[:, 0],
    "none": X[:0],
    "words": X.astype(str),
    "short": X[:29],
    "ones": np.ones_like(X),
    "labels": np.arange(30) % 3,
    "few_labels": np.arange(29) % 3,
    "one_label": np.zeros(30, int),
}

CASES: dict[str, tuple[dict[str, str], str]] = {
    "NaN": ({"data": "nan"}, "nan.npy: row 3, column 2 (counted from 0) holds NaN"),
    "infinity": ({"data": "inf"}, "inf.npy: row 29, column 5 (counted from 0) holds infinity"),
    "rank 3": ({"data": "cube"}, "cube.npy has shape (5, 6, 6)"),
    "rank 1": ({"data": "line"}, "line.npy has shape (30,)"),
    "no rows": ({"data": "none"}, "none.npy is empty, shape (0, 6)"),
    "no numbers": ({"data": "words"}, "words.npy holds text, not real numbers"),
    "missing file": ({"data": "absent"}, "absent.npy does not exist"),
    "NaN in the target": ({"target": "nan", "method": "topk_transcoder(k=2)"}, "nan.npy: row 3, column 2"),
    "mismatched rows": (
        {"target": "short", "method": "topk_transcoder(k=2)"},
        "x.npy has 30 rows, {folder}/short.npy has 29",
    ),
    "a target that nothing writes": ({"target": "x"}, "as 'topk_transcoder'"),
    "no target": ({"method": "topk_transcoder(k=2)"}, "give it with --target"),
    "no widths": ({"method": "topk_crosscoder(k=2)"}, "give their widths"),
    "one source": ({"method": "topk_crosscoder(k=2)", "widths": "6"}, "reads several sources, the data have 1"),
    "negative penalty": ({"method": "relu_l1(l1=-1)"}, "l1 weighs -1; a weight is at least 0"),
    "half a latent": ({"method": "topk(k=4.5)"}, "k=4.5, it must be int"),
    "the same rows": ({"data": "ones"}, "all 30 sampled rows of x_p are the same; give rows that differ"),
    "the same targets": ({"target": "ones", "method": "topk_transcoder(k=2)"}, "rows of x_r are the same"),
    "x to x": ({"target": "x", "method": "topk_transcoder(k=2)"}, "would write what it reads"),
    "wrong widths": ({"method": "topk_crosscoder(k=2)", "widths": "3,4"}, "x.npy has 6 columns"),
    "widths that are no numbers": ({"method": "topk_crosscoder(k=2)", "widths": "3;3"}, '--widths "3;3"'),
    "k above n_q": ({"method": "topk(k=17)"}, "k=17 is larger than n_q=16"),
    "unknown method": ({"method": "topkk"}, "unknown method 'topkk'; did you mean 'topk'?"),
    "unknown argument": ({"method": "topk(q=3)"}, "topk takes k, aux, rank_by_norm, k_start, anneal; q is unknown"),
    "no call": ({"method": "topk(k=3"}, "cannot read 'topk(k=3'"),
    "too few labels": ({"labels": "few_labels"}, "few_labels.npy has 29 labels for 30 rows"),
    "one class": ({"labels": "one_label"}, "class means need two classes"),
    "labels of another rank": ({"labels": "x"}, "x.npy has shape (30, 6); labels are"),
    "unknown class": ({"labels": "labels", "classes": "0,9"}, "no row is labelled 9; known: 0, 1, 2"),
    "classes without labels": ({"classes": "0"}, "give them with --labels"),
    "no steps": ({"steps": "0"}, "steps=0; it must be at least 1"),
    "no rate": ({"lr": "0"}, "lr=0.0; it must be positive"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, values in FILES.items():
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_train_says_what_is_wrong(name: str, folder: Path) -> None:
    given, said = CASES[name]
    options = {"data": "x", "method": "topk(k=2)", "n-q": "16", "steps": "2"} | given
    for option in ("data", "target", "labels"):
        if option in options:
            options[option] = str(folder / f"{options[option]}.npy")
    arguments = [word for option, value in options.items() for word in (f"--{option}", value)]
    result = call("train", *arguments, "--out", folder / "out")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1
    assert said.format(folder=folder) in errors[0]
    assert "Traceback" not in result.output
    assert result.stderr.rstrip().endswith(errors[0])
    assert not (folder / "out" / "model.safetensors").exists()


def _garbage(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{")


OTHERS: dict[str, tuple[list[str], Callable[[Path], object], str]] = {
    "bench, unknown task": (["bench", "--task", "lrb/minni"], Path.mkdir, "did you mean 'lrb/mini'?"),
    "bench, unknown method": (["bench", "--methods", "topk,relu_l2"], Path.mkdir, "did you mean 'relu_l1'?"),
    "bench, no seeds": (["bench", "--seeds", "0"], Path.mkdir, "seeds = 0"),
    "bench, no workers": (["bench", "--workers", "0"], Path.mkdir, "--workers 0"),
    "bench, all anchored": (["bench", "--task", "lrb/nano", "--anchors", "24"], Path.mkdir, "leave none to score"),
    "bench, none anchored": (["bench", "--anchors", "0", "--anchored"], Path.mkdir, "anchored runs need at least one"),
    "report, no folder": (
        ["report", "{folder}"],
        lambda path: None,
        "is neither a folder of records nor a packed file",
    ),
    "report, no records": (["report", "{folder}"], Path.mkdir, "there are no records"),
    "report, damaged": (
        ["report", "{folder}"],
        lambda path: (path.mkdir(), (path / "a.record.json").write_text('{"schema": 1')),
        "a.record.json is not readable JSON",
    ),
    "evaluate, no model": (["evaluate", "{folder}", "--task", "lrb/nano"], Path.mkdir, "which no known format does"),
    "evaluate, damaged": (["evaluate", "{folder}", "--task", "lrb/nano"], _garbage, "config.json is not readable JSON"),
    "cite, unknown": (["cite", "tpok"], Path.mkdir, "did you mean 'topk'?"),
    "list, unknown": (["list", "nothing"], Path.mkdir, "choose one of methods"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_commands_say_what_is_wrong(name: str, tmp_path: Path) -> None:
    arguments, make, said = OTHERS[name]
    make(tmp_path / "there")
    result = call(*(word.format(folder=tmp_path / "there") for word in arguments))
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in result.output


def test_no_command_and_wrong_options_show_help() -> None:
    assert "Usage" in call().output
    wrong = call("bench", "--no-such-option")
    assert wrong.exit_code == 2
    assert "no-such-option" in wrong.output

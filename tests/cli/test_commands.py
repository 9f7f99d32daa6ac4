"""What the commands print and write: list, cite, train, evaluate, and the way they start."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.base.version import __version__
from monosem.cli.bench import split_methods
from monosem.cli.catalog import registered
from monosem.cli.options import catalogue
from monosem.core.io import load_model
from monosem.core.pairs import TensorSource
from monosem.methods import METHODS, method
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.cli.calls import call, environment


def test_version() -> None:
    assert call("--version").stdout == f"monosem {__version__}\n"


def test_the_module_is_the_command_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "monosem", "cite", "topk"], capture_output=True, text=True, env=environment(), check=True
    )
    assert ran.stdout.startswith("@misc{gao2024,")


def test_help_names_every_command() -> None:
    shown = call("--help").stdout
    for command in ("bench", "train", "evaluate", "report", "list", "cite"):
        assert command in shown


def test_list_names_everything_there_is() -> None:
    from monosem.bench.tasks import TASKS
    from monosem.core.activations import ACTIVATIONS
    from monosem.core.pairs import PAIRINGS
    from monosem.losses.objective import TERMS

    shown = " ".join(call("list").stdout.split())
    for name in (*METHODS, *PAIRINGS, *ACTIVATIONS, *TERMS, *TASKS):
        assert name in shown
    for recipe in METHODS.values():
        assert recipe.citation.authors in shown
    example = re.search(r'edits: "(.*?)"', " ".join(call("list", "methods").stdout.split()))
    assert example is not None
    assert method(example[1]).spec  # the grammar that it prints is the one that is read
    assert "n_q=16000" in call("list", "tasks").stdout
    assert "gated_aux" not in call("list", "tasks").stdout


def test_the_catalogue_is_what_the_registries_hold() -> None:
    kept, today = (  # modules that other tests imported first register first
        {part: sorted(entries, key=lambda entry: entry["name"]) for part, entries in listed.items()}
        for listed in (catalogue(), registered())
    )
    assert kept == today, "python -m studies pages catalog writes it anew"


@pytest.mark.parametrize("name", [*METHODS, "topk_crosscoder(k=8)", "jumprelu_skip_transcoder", "gated_cross_layer"])
def test_cite_gives_bibtex(name: str) -> None:
    shown = call("cite", name).stdout
    entries = [line for line in shown.splitlines() if line.startswith("@misc{")]
    assert entries.count("@misc{tang2025,") == 1
    assert len(entries) == len(set(entries))
    assert shown.count("{") == shown.count("}")
    expected = {"topk_crosscoder(k=8)": ("gao2024", "lindsey2024"), "jumprelu_skip_transcoder": ("paulo2025",)}
    for key in expected.get(name, ()):
        assert f"@misc{{{key}," in entries


def test_methods_are_split_outside_brackets() -> None:
    assert split_methods(["topk, jumprelu(l0=0.1, theta=0.2)", "matryoshka(fractions=(0.5, 1.0)),gated"]) == [
        "topk",
        "jumprelu(l0=0.1, theta=0.2)",
        "matryoshka(fractions=(0.5, 1.0))",
        "gated",
    ]
    assert split_methods([]) == split_methods([" , "]) == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows + 3)
    np.save(tmp_path / "r.npy", rows[:, :4])
    np.save(tmp_path / "y.npy", np.array(["cat", "dog", "owl"])[np.arange(200) % 3])
    return tmp_path


RAW = ("--no-normalise", "--held-out", 0)
"""Rows as they are, all of them."""


def _train(data: Path, *more: object) -> object:
    size = ("--n-q", 12, "--steps", 6, "--batch-size", 32, "--out", data / "out")
    return call("train", "--data", data / "x.npy", *size, *more)


def test_train_leaves_a_model_and_says_where(data: Path) -> None:
    result = _train(data, "--method", "topk(k=2)")
    assert result.exit_code == 0, result.output
    assert "topk(k=2, aux=0.03125) on 180 rows, n_p=8, n_r=8, n_q=12" in result.stderr
    for word in ("FVU", "L0", "dead", str(data / "out")):
        assert word in result.stdout.replace("\n", "")
    model = load_model(data / "out")
    assert model.pre_bias == "tied"
    assert float((model.b_D.detach() - 3).abs().max()) < 0.5  # started at the mean


def test_train_without_centring_is_fit(data: Path) -> None:
    assert _train(data, "--method", "topk(k=2)", "--no-centre", "--seed", 5, *RAW).exit_code == 0
    rows = torch.from_numpy(np.load(data / "x.npy"))
    wanted = fit("topk(k=2)", TensorSource(rows), 12, FitConfig(steps=6, batch_size=32, seed=5)).model
    assert torch.equal(load_model(data / "out").W_D, wanted.W_D)


def test_train_anchors_at_class_means(data: Path) -> None:
    result = _train(data, "--method", "topk(k=2)", "--labels", data / "y.npy", "--classes", "owl,cat", "--hard")
    assert result.exit_code == 0, result.output
    assert "2 anchors (class_means)" in result.stderr
    assert json.loads((data / "out" / "anchors.json").read_text())["classes"] == ["owl", "cat"]
    x, y = np.load(data / "x.npy").astype(np.float64), np.load(data / "y.npy")
    means = np.stack([x[y == name].mean(0) for name in ("cat", "dog", "owl")])
    means = means - means.mean(0)
    wanted = torch.from_numpy(means[[2, 0]] / np.linalg.norm(means[[2, 0]], axis=1, keepdims=True)).float()
    learned = torch.nn.functional.normalize(
        load_model(data / "out").W_D[:, :2].T, dim=1
    )  # in raw units they are longer
    assert torch.allclose(learned, wanted, atol=1e-5)


def test_train_warns_of_anchors_that_coincide(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((90, 4))
    rows[60:] += 50.0  # two of three classes lie together
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", np.repeat([0, 1, 2], 30))
    command = ["train", "--data", "x.npy", "--labels", "y.npy", "--method", "topk(k=1)", "--n-q", "8", "--steps", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "monosem", *command, "--out", "out"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        check=True,
    )
    warned = [line for line in ran.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "have cosine" in warned[0]


@pytest.mark.parametrize(
    ("method", "more", "shape"),
    [
        ("topk_transcoder(k=2)", ("--target", "r.npy"), (4, 12)),
        ("relu_l1_skip_transcoder", ("--target", "r.npy"), (4, 12)),
        ("topk_crosscoder(k=2)", ("--widths", "5,3"), (8, 12)),
    ],
)
def test_train_every_pairing(method: str, more: tuple[str, str], shape: tuple[int, int], data: Path) -> None:
    option, value = more
    result = _train(data, "--method", method, option, data / value if value.endswith("npy") else value)
    assert result.exit_code == 0, result.output
    assert tuple(load_model(data / "out").W_D.shape) == shape


def test_train_goes_on_from_its_checkpoint_and_refuses_another_run(data: Path) -> None:
    first = _train(data, "--method", "topk(k=2)")
    again = _train(data, "--method", "topk(k=2)")
    assert "resuming from there" not in first.stderr
    assert "resuming from there" in again.stderr
    assert again.exit_code == 0
    other = _train(data, "--method", "topk(k=2)", "--lr", "0.5", "--no-centre")
    assert other.exit_code == 2
    assert "belongs to another run: " in other.stderr
    assert "lr was 0.001, is 0.5; method.init.b_D was mean, is zero; method.pre_bias was tied, is none" in other.stderr


def test_train_extends_a_finished_run_and_refuses_a_shorter_one(data: Path) -> None:
    _train(data, "--method", "topk(k=2)")
    log = data / "out" / "log.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()][-1]
    longer = _train(data, "--method", "topk(k=2)", "--steps", 2 * steps, "--log-every", 1)
    assert longer.exit_code == 0, longer.output
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][-steps - 1 :] == [
        *range(steps, 2 * steps + 1)
    ]
    shorter = _train(data, "--method", "topk(k=2)", "--steps", steps)
    assert shorter.exit_code == 2
    assert f"holds {2 * steps} steps of this run, more than steps={steps}; ask for at least as many" in shorter.stderr


def test_evaluate_scores_a_model_on_its_task(tmp_path: Path) -> None:
    from monosem.bench.task_scores import evaluate_model
    from monosem.bench.tasks import TaskSource, task

    value = task("lrb/nano", "transcoder", 1)
    source = TaskSource(value)
    model = fit("topk_transcoder(k=2)", source, 48, FitConfig(steps=20, batch_size=64), out=tmp_path).model
    shown = call("evaluate", tmp_path, "--task", "lrb/nano", "--world", 1, "--rows", 512, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert (told["pairing"], told["scored"], told["world"]) == ("transcoder", 20, 1)
    wanted = evaluate_model(model, source, value.scored(), 512)
    assert told["metrics"]["decoder_cosine.M_IP"]["value"] == pytest.approx(wanted["decoder_cosine"]["M_IP"])
    assert told["metrics"]["fvu"]["value"] == pytest.approx(wanted["fvu"])
    assert {"chance", "oracle"} <= set(told["metrics"]["fvu"])
    table = call("evaluate", tmp_path, "--task", "lrb/nano", "--rows", 512).stdout
    for word in ("decoder_cosine", "encoder_raw", "encoder_cosine", "decoder_signed", "fvu", "chance", "oracle"):
        assert word in table
    other = call("evaluate", tmp_path, "--task", "lrb/mini")
    assert other.exit_code == 2
    assert "(n_p, n_r) = (16, 16), lrb/mini as transcoder has (96, 96)" in other.stderr

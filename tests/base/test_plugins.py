"""Parts of one's own: loaded once, on request alone, known to workers and named in records by their hash."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from monosem.base import plugins
from monosem.base.errors import ArgumentError
from monosem.bench.records import read_records
from monosem.losses.objective import TERMS
from monosem.methods import method, text_of
from tests.cli.calls import environment

TERM = '''
from dataclasses import dataclass
from typing import ClassVar
from monosem.losses.objective import TERMS, Term

@TERMS.register("square")
@dataclass(frozen=True)
class Square(Term):
    """Mean over rows of the sum of squares of the latents."""
    name: ClassVar[str] = "square"
    def apply(self, step, state):
        return step.mean(step.code.values.square(), step.code)
'''
assert len(TERM.strip().splitlines()) <= 12


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plugins, "_LOADED", {})
    yield
    TERMS._items.pop("square", None)


def write(folder: Path, text: str = TERM) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_term_of_ones_own_is_named_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ArgumentError, match="unknown term 'square'"):
        method("relu + square(0.5)")
    assert plugins.loaded() == {}
    plugins.load(str(path))
    plugins.load(str(path))
    made = method("relu + square(0.5)")
    assert made.terms[1].weight == 0.5
    assert text_of(made) == made.spec
    assert plugins.loaded() == {"loaded": {"mine": hashlib.sha256(path.read_bytes()).hexdigest()}}
    assert plugins.sources() == (str(path.resolve()),)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 / 0", "ZeroDivisionError"), ("import no_such_thing", "no_such_thing"), ("(", "SyntaxError")],
)
def test_a_file_that_fails_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        plugins.load(str(write(tmp_path, text)))
    assert plugins.loaded() == {}


def test_what_is_not_there_or_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"there is no file absent\.py"):
        plugins.load("absent.py")
    with pytest.raises(ArgumentError, match="no installed package has an entry point 'absent'"):
        plugins.load("absent")
    plugins.load(str(write(tmp_path)))
    write(tmp_path, TERM + "\n# changed\n")
    with pytest.raises(ArgumentError, match="another mine is loaded already"):
        plugins.load(str(tmp_path / "mine.py"))


def test_an_entry_point_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_parts.py").write_text(TERM)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("theirs", "their_parts", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (point,) if group == plugins.GROUP else ())
    plugins.load("theirs")
    assert method("relu + square(0.5)").terms[1].name == "square"
    assert set(plugins.loaded()["loaded"]) == {"theirs"}
    del sys.modules["their_parts"]


def test_the_command_line_its_workers_and_the_record_know_it(tmp_path: Path) -> None:
    """`monosem --load mine.py bench` trains in spawned processes."""
    path, out = write(tmp_path), tmp_path / "runs"
    command = [sys.executable, "-m", "monosem", "--load", str(path), "bench", "--task", "lrb/nano", "--methods"]
    more = ["topk(k=2) + square(0.01)", "--plain", "--seeds", "1", "--steps", "3", "--out", str(out)]
    ran = subprocess.run([*command, *more], capture_output=True, text=True, env=environment(), check=False)
    assert ran.returncode == 0, ran.stderr
    (record,) = read_records(out)
    assert record["method"]["loaded"] == {"mine": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert "square(weight=0.01)" in record["method"]["spec"]
    assert record["method"]["name"] == "topk+square"
    assert "square(weight=0.01)" in (out / "report.html").read_text()
    assert str(tmp_path) not in json.dumps(record)
    listed = subprocess.run(
        [sys.executable, "-m", "monosem", "--load", str(path), "list", "terms"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert "square" in listed.stdout

"""A slice of `make attack` that takes seconds: some files of every fault class, and some kills."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.attack.damage import OPERATORS
from tests.attack.faults import RUNS, life
from tests.attack.page import PAGE, RECORD, page
from tests.attack.product import attack, sample
from tests.attack.targets import TARGETS, Target, fill, warm, write
from tests.attack.worker import GOOD
from tests.cli.calls import call

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attack") / "whole"
    write(folder)
    return folder


def test_there_are_twenty_fault_classes() -> None:
    assert len({operator.fault for operator in OPERATORS.values()}) >= 20


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_calls_are_of_todays_commands(target: Target, tmp_path: Path) -> None:
    (tmp_path / "train.toml").touch()
    for text in target.calls:
        asked = call(*fill(text, tmp_path, tmp_path / "out"), "--print-config")
        assert asked.exit_code == 0, asked.output


def _outcomes(root: Path, scratch: Path, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Damage so many files: every one is accepted or refused in one line, and nothing hangs or runs code.

    Returns how often each fault class had each outcome.
    """
    cases = sample(root, 1, count, seed)
    warm(root, scratch / "outputs", dict.fromkeys(case.target for case in cases))
    verdicts = [attack(case, root, scratch, seed) for case in cases]
    wrong = [(v.case, v.outcome, v.said[-400:]) for v in verdicts if v.outcome not in GOOD]
    assert not wrong
    return Counter((verdict.fault, verdict.outcome) for verdict in verdicts)


def test_damaged_files(root: Path, tmp_path: Path) -> None:
    assert {outcome for _, outcome in _outcomes(root, tmp_path, 15, seed=15)} == set(GOOD)


@pytest.mark.slow
def test_sixty_damaged_files(root: Path, tmp_path: Path) -> None:
    assert {outcome for _, outcome in _outcomes(root, tmp_path, 60, seed=7)} == set(GOOD)


@pytest.mark.slow
def test_a_seed_decides_every_outcome(root: Path, tmp_path: Path) -> None:
    """The same seed gives the same counts by class; a fresh one as many cases of each class, as good."""
    first, again, fresh = (_outcomes(root, tmp_path / str(i), 22, seed) for i, seed in enumerate((3, 3, 4)))
    assert first == again
    assert _by_fault(first) == _by_fault(fresh)


def _by_fault(counts: Counter[tuple[str, str]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (fault, _), count in counts.items():
        sums[fault] += count
    return sums


@pytest.mark.parametrize("kind", sorted(RUNS))
def test_disturbed_runs_end_as_others(kind: str, tmp_path: Path) -> None:
    """A full disk, then kills."""
    _disturb(kind, range(2), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(RUNS))
def test_disturbed_often(kind: str, tmp_path: Path) -> None:
    _disturb(kind, range(2, 12), tmp_path)


def _disturb(kind: str, numbers: range, scratch: Path) -> None:
    lives = [life(kind, number, scratch / str(number), Random(number)) for number in numbers]
    assert [one for one in lives if one.outcome != "same"] == []


def test_the_page_is_that_of_the_record() -> None:
    assert PAGE.read_text() == page(), f"{RECORD.name} has changed; write the page with python -m tests.attack page"

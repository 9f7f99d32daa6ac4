"""A slice of `make attack` that takes seconds: some files of every fault class, and some kills."""

from pathlib import Path
from random import Random

import pytest

from tests.attack.damage import OPERATORS
from tests.attack.faults import RUNS, life
from tests.attack.page import PAGE, RECORD, page
from tests.attack.product import attack, sample
from tests.attack.targets import build
from tests.attack.worker import GOOD

pytest.importorskip("transformers", reason="transformers is not installed (the extra `real`)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attack") / "whole"
    build(folder)
    return folder


def test_there_are_twenty_fault_classes() -> None:
    assert len({operator.fault for operator in OPERATORS.values()}) >= 20


def test_sixty_damaged_files(root: Path, tmp_path: Path) -> None:
    """Every one is accepted or refused in one line; nothing hangs, runs code or changes what it reads."""
    verdicts = [attack(case, root, tmp_path, seed=7) for case in sample(root, 1, 60, seed=7)]
    wrong = [(v.case, v.outcome, v.said[-400:]) for v in verdicts if v.outcome not in GOOD]
    assert not wrong
    assert {verdict.outcome for verdict in verdicts} == set(GOOD)


@pytest.mark.parametrize("kind", sorted(RUNS))
def test_disturbed_runs_end_as_others(kind: str, tmp_path: Path) -> None:
    lives = [life(kind, number, tmp_path / str(number), Random(number)) for number in range(2)]
    assert [one for one in lives if one.outcome != "same"] == []


def test_the_page_is_that_of_the_record() -> None:
    assert PAGE.read_text() == page(), f"{RECORD.name} has changed; write the page with python -m tests.attack page"

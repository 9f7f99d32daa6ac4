"""What docs/theory/absorption.md says of trained models is what the committed records hold."""

import json
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, page

absorption = pytest.importorskip("studies.absorption", reason="the figures need matplotlib")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_generated_part_is_that_of_the_records() -> None:
    """`python -m studies.absorption` writes it anew."""
    between = page("theory/absorption.md").text.split(absorption.START)[1].split(absorption.END)[0]
    assert between.strip() == absorption.generated(absorption.read()).strip()


def test_the_study_is_complete_and_paired() -> None:
    """Seven methods, three arms each, the same five worlds or more, every arm on the same features."""
    section = absorption.read()
    assert len(section.lines) == 7
    for line in section.lines:
        arms = absorption.arms(line)
        assert [absorption.kind(arm) for arm in arms] == list(absorption.ARMS)
        assert len({arm.seeds for arm in arms}) == 1
        assert len(arms[0].seeds) >= 5
        for world in zip(*(arm.records for arm in arms), strict=True):
            assert len({record["task"]["data_digest"] for record in world}) == 1
            assert len({record["config"]["held_out"] for record in world}) == 1


def test_the_study_of_sizes_is_complete() -> None:
    from studies.absorption_sizes import BETAS, METHODS, OUT, SEEDS

    found = json.loads(Path(OUT).read_text())["runs"]
    assert set(found) == {f"{m} beta={b} seed={s}" for m in METHODS for b in BETAS for s in SEEDS}

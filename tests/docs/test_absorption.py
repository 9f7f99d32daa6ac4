"""What docs/theory/absorption.md says of trained models is what the committed records hold."""

import pytest

from monosem.report.markdown import between
from studies.stored import stored
from tests.docs.pages import ROOT, page

absorption = pytest.importorskip("studies.absorption", reason="the figures need matplotlib")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_generated_part_is_that_of_the_records() -> None:
    """`python -m studies pages absorption` writes it anew."""
    text = page("theory/absorption.md").text
    assert between(text, "trained", absorption.generated(absorption.read())) == text


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
    record = stored(absorption.SIZES)
    assert record is not None
    wanted = {f"{m} beta={b} seed={s}" for m in absorption.METHODS for b in absorption.BETAS for s in absorption.SEEDS}
    assert set(record["runs"]) == wanted

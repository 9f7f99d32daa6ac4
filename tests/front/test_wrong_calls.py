"""Every wrong call of the grid is answered in one line by an error of monosem's own; right ones are accepted."""

import json
from pathlib import Path

import pytest

from tests.front.wrong_calls import RECORD, answers


@pytest.mark.usefixtures("as_in_production")
def test_no_wrong_call_ends_in_a_raw_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = list(answers(tmp_path))
    assert len(given) >= 200
    raw = [f"{answer.call}: {answer.text}" for answer in given if answer.kind == "raw"]
    assert not raw, "\n".join(raw)
    wrong = [answer for answer in given if answer.call.endswith("(right)") and answer.kind != "accepted"]
    assert not wrong, wrong
    refused = [answer for answer in given if answer.text]
    assert all("\n" not in answer.text and len(answer.text) > 20 for answer in refused)
    assert len(refused) >= 200


def test_the_record_has_no_raw_error() -> None:
    record = json.loads(RECORD.read_text())
    assert record["calls"] == sum(record["answers"].values()) >= 200
    assert "raw" not in record["answers"]

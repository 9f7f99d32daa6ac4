"""Records that are no longer true are noticed, and it is said why where only scores can be compared."""

import copy
from pathlib import Path
from typing import Any

import pytest
import typer

from monosem.bench.records import NEW_IN_2, outdated, pack_records, read_record, results_digest
from monosem.bench.run import Job, plan, run_job
from monosem.methods import NUMERICS
from monosem.report.page import page
from studies import rerun
from studies.rerun import again, cells, compared

JOBS: list[Job] = plan("lrb/nano", ["topk(k=3)"], plain=True, anchored=False, seeds=2, steps=20)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("records")
    return [read_record(run_job(job, folder)) for job in JOBS]


def test_a_run_again_has_the_same_bits(records: list[dict[str, Any]]) -> None:
    known = cells(JOBS, records)
    assert [(cell.job, cell.record, len(cell.arm)) for cell in known] == [
        (job, record, 2) for job, record in zip(JOBS, records, strict=True)
    ]
    verdict = again(known[0])
    assert (verdict.agrees, verdict.text) == (True, "same bits")


def test_a_wrong_digest_is_noticed(
    records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [records[0], records[1] | {"digest": "0" * 64}]
    pack_records(tmp_path / "mine.jsonl.gz", wrong)
    monkeypatch.setattr(rerun, "studied", lambda: iter([("mine", "mine", JOBS)]))
    monkeypatch.setattr(rerun, "packed", lambda name: tmp_path / f"{name}.jsonl.gz")
    with pytest.raises(typer.Exit) as end:
        rerun.rerun(k=2)
    assert end.value.exit_code == 1
    answer = capsys.readouterr()
    assert answer.out.count("agrees: same bits") == 1
    assert answer.out.count("DIFFERS: OTHER BITS") == 1
    assert "1 runs do not agree" in answer.err


def test_where_the_processor_differs_scores_are_compared(records: list[dict[str, Any]]) -> None:
    (cell, _), now = cells(JOBS, records), copy.deepcopy(records[0])
    now["env"]["features"] = ["another"]
    now["digest"] = "1"
    assert compared(cell, now).text == "other processor: scores agree over 2 seeds"
    now["metrics"]["decoder_cosine.M_IP"]["value"] += 0.9
    verdict = compared(cell, now)
    assert not verdict.agrees
    assert "decoder_cosine.M_IP" in verdict.text
    now["env"] = records[0]["env"] | {"torch": "9"}
    assert compared(cell, now).text.startswith("other torch")


def test_records_of_schema_1_compare_what_they_hold(records: list[dict[str, Any]]) -> None:
    old = {name: value for name, value in records[0].items() if name not in NEW_IN_2} | {"schema": 1}
    old["digest"] = results_digest(old)
    (cell,) = cells(JOBS, [old])
    assert compared(cell, records[0]).text.startswith("same bits in every score")
    other = records[0] | {"training": records[0]["training"] | {"loss": [0.0] * len(records[0]["training"]["loss"])}}
    assert compared(cell, other).text.startswith("processor features and kernels were not recorded: scores agree")


def test_an_older_numerics_is_printed_as_such(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert outdated(records) == ""
    assert "numerics" not in page(records)
    monkeypatch.setitem(NUMERICS, "topk", 2)
    assert outdated(records) == "2 of topk with numerics 1, now 2"
    assert "Older bits: 2 of topk with numerics 1, now 2." in page(records)
    (cell, _) = cells(JOBS, records)
    assert compared(cell, records[0] | {"numerics": 2}).text == "numerics 1, now 2: scores agree over 2 seeds"

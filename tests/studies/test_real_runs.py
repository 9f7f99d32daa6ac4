"""Absorption on downloaded texts runs as a user would run it, small, and leaves records and a figure."""

from pathlib import Path

import pytest

from monosem.bench.records import read_records
from studies import real_absorption
from tests.real import need

pytestmark = pytest.mark.real


def test_absorption_of_newsgroups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("newsgroups", "minilm")
    small = "--dataset newsgroups --limit 400 --n-q 64 --k 8 --steps 30 --batch 64 --seeds 1 --out"
    real_absorption.main([*small.split(), str(tmp_path)])
    assert capsys.readouterr().out.count("| comp | comp.") == 5
    records = read_records(tmp_path)
    plain, anchored = ([r for r in records if bool(r["anchors"]) == arm] for arm in (False, True))
    assert len(plain) == 1
    assert sorted(r["anchors"]["form"].partition("/")[2] for r in anchored) == ["both", "decoder"]
    assert {r["anchors"]["k"] for r in anchored} == {4}
    for record in records:
        silent, absorbed = (record["metrics"][f"comp.comp.graphics.{what}"]["value"] for what in ("silent", "absorbed"))
        assert 0 <= absorbed <= silent <= 1
    assert "<svg" in (tmp_path / "newsgroups.svg").read_text()

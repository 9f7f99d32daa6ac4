"""The table in the documentation says what the proofs recorded, and nothing more."""

import json
from typing import Any

import pytest

from benchmarks.peers import PEERS
from monosem.report.markdown import between
from tests.interop.rows import ROWS
from tests.interop.table import NOTES, PAGE, RECORD, proved

VERIFIED: dict[str, str] = json.loads(RECORD.read_text())


def test_page_holds_the_generated_table() -> None:
    page = PAGE.read_text()
    assert between(page, "proved", proved(VERIFIED)) == page, "run: python tests/interop/table.py --write"


def test_record_is_of_known_rows_and_pinned_versions() -> None:
    rows = {str(row): row for row in ROWS}
    assert len(rows) == len(ROWS), "two rows have one name"
    for name, version in VERIFIED.items():
        peer = rows[name].peer
        assert peer is not None, f"{name} has no peer that could have verified it"
        assert version == PEERS[peer].pin, f"{name} was verified with {version}; run tests/interop/table.py again"


@pytest.mark.parametrize("format", ["openai", "crosscoder"])
def test_what_nobody_verified_says_so(format: str) -> None:
    assert all(str(row) not in VERIFIED for row in ROWS if row.format == format)


def test_table_says_notes_for_what_is_not_recorded() -> None:
    empty: dict[str, Any] = {}
    assert all(line.endswith(f"{NOTES} |") for line in proved(empty).splitlines()[2:])

"""The tables of docs/real/ are what their records give."""

import pytest

from studies.real_pages import DOCS, filled, tables

PAGES = sorted(DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return tables()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page: object, found: dict[str, str]) -> None:
    text = page.read_text()  # type: ignore[attr-defined]
    assert filled(text, found) == text, "run python -m studies.real_pages"


def test_a_changed_table_would_be_seen(found: dict[str, str]) -> None:
    text = "<!-- table: resampling -->\n| another | table |\n<!-- end -->"
    assert filled(text, found) != text
    assert "| no remedy |" in filled(text, found)

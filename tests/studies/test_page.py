"""The page writer: markers, tables, and what is named behind a page's numbers."""

from pathlib import Path
from typing import Any

import pytest

from monosem.base.errors import DataError
from monosem.report.markdown import between, fill, table
from studies.page import provenance, write_generated


def test_only_what_lies_between_the_markers_of_the_name_changes() -> None:
    text = "head\n<!-- begin a -->\nold\n<!-- end a -->\nmiddle\n<!-- begin b -->\nkept\n<!-- end b -->\ntail\n"
    changed = between(text, "a", "new\n")
    assert changed == text.replace("old", "new")
    assert between(changed, "a", "new") == changed


@pytest.mark.parametrize(
    "text",
    [
        "no marker",
        "<!-- begin a --> and no end",
        "<!-- end a --> before <!-- begin a -->",
        "<!-- begin a --><!-- end a --><!-- begin a --><!-- end a -->",
        "<!-- begin ab --><!-- end ab -->",
    ],
)
def test_a_page_without_its_markers_once_and_in_order_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="<!-- begin a -->"):
        between(text, "a", "new")


def test_a_page_is_filled_whole_or_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin a --><!-- end a -->")
    with pytest.raises(DataError, match="begin b"):
        fill(page, {"a": "1", "b": "2"})
    assert page.read_text() == "<!-- begin a --><!-- end a -->"
    fill(page, {"a": "1"})
    assert page.read_text() == "<!-- begin a -->\n1\n<!-- end a -->"


def test_a_generated_page_says_which_command_made_it(tmp_path: Path) -> None:
    write_generated(tmp_path / "page.md", "classical", "# Title\n")
    first, _, title = (tmp_path / "page.md").read_text().partition("\n\n")
    assert "`python -m studies pages classical`" in first
    assert title == "# Title\n"


def test_tables_hold_numbers_and_align_them() -> None:
    assert table([("a", "n"), ("x", 3)], numbers=True) == "| a | n |\n| --- | ---: |\n| x | 3 |"


def test_provenance_names_every_commit_machine_and_version_once() -> None:
    runs: list[dict[str, Any]] = [
        {"env": {"cpu": "B", "torch": "2.13.0", "commit": "b" * 40 + "+dirty"}},
        {"env": {"cpu": "A", "torch": "2.13.0", "commit": "a" * 40}, "config": {"device": "cpu"}},
        {"env": {"cpu": "A", "torch": "2.12.0", "commit": None}, "config": {"device": "cuda"}},
    ]
    text = provenance(runs, packages=("torch", "scikit_learn"))
    assert text == f"A, B, cuda; torch 2.12.0, 2.13.0; commits {'a' * 12}, {'b' * 12}+dirty, unknown"
    assert provenance(runs[:1]) == f"B; torch 2.13.0; commit {'b' * 12}+dirty"

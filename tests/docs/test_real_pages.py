"""The tables of docs/real/ are what their records give."""

from pathlib import Path

import pytest

from monosem.report.markdown import between
from studies import real_absorption, real_pages
from tests.docs.pages import ROOT

PAGES = {
    "classes.md": real_pages.page,
    "resampling.md": real_pages.page,
    "absorption.md": real_absorption.page,
}


@pytest.fixture(scope="module")
def filled() -> dict[str, str]:
    """Every page of docs/real as the records fill it; nothing is written."""
    texts: dict[str, str] = {}

    def fill(path: Path, parts: dict[str, str]) -> None:
        text = (ROOT / path).read_text()
        for name, new in parts.items():
            text = between(text, name, new)
        texts[Path(path).name] = text

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for module in (real_pages, real_absorption):
            patch.setattr(module, "fill", fill)
            patch.setattr(module, "write_figure", lambda path, figure, label: None)
        for write in dict.fromkeys(PAGES.values()):
            write()
    return texts


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_those_of_the_records(name: str, filled: dict[str, str]) -> None:
    assert filled[name] == (ROOT / "docs" / "real" / name).read_text(), "run `make pages`"

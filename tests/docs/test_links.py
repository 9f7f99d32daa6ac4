"""Links between pages, to files and to headings lead somewhere, and pages named in the code exist."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Page, page


def broken(here: Page) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in here.links:
        target, _, anchor = link.partition("#")
        path = (here.path.parent / target).resolve() if target else here.path
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in Page(path).anchors):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("here", PAGES, ids=lambda here: here.name)
def test_links_lead_somewhere(here: Page) -> None:
    assert not broken(here)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One heading\n")
    text = "[a](there.md#one-heading) [b](there.md#none) [c](gone.md) [d](https://x.y) `[e](f)`\n\n    [g](h)\n"
    (tmp_path / "here.md").write_text(text)
    assert broken(Page(tmp_path / "here.md")) == ["there.md#none", "gone.md"]


def test_pages_that_the_code_names_exist() -> None:
    named = {
        (name, str(path.relative_to(ROOT)))
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"docs/[\w/.-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named, "no page is named at all"
    assert not [(name, where) for name, where in named if not (ROOT / name).exists()]


def test_the_index_leads_to_every_page() -> None:
    index = page("README.md")
    reached = {(index.path.parent / link.partition("#")[0]).resolve() for link in index.links}
    pages = {p.path for p in PAGES if p.path.parent == index.path.parent} - {index.path}
    assert pages <= reached


def test_the_index_of_decisions_lists_each_with_its_title() -> None:
    table = page("adr/README.md").table("number")
    listed = {number[1:5]: row["decision"] for number, row in table.items()}
    titles = {p.path.name[:4]: p.text.splitlines()[0] for p in PAGES if re.match(r"\d{4}-", p.path.name)}
    assert {number: f"# {number}: {title}" for number, title in listed.items()} == titles


def test_tests_that_hold_a_promise_exist() -> None:
    text = page("trust.md").text
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    names = {path.stem for path in sources} | set(re.findall(r"def (test_\w+)\(", "\n".join(sources.values())))
    named = set(re.findall(r"test_\w+", text))
    assert named, "no test is named at all"
    assert named <= names

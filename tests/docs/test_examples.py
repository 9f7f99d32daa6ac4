"""Every block marked python runs, page by page from top to bottom; what it registers is taken away again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from monosem.base.registry import Registry
from monosem.bench.folds import CODE_METRICS
from monosem.bench.metrics import DICTIONARY_METRICS, SIMILARITIES
from monosem.bench.tasks import TASKS
from monosem.core.activations import ACTIVATIONS
from monosem.core.pairs import PAIRINGS
from monosem.losses.objective import TERMS
from monosem.methods import METHODS
from tests.docs.pages import PAGES, Page

REGISTRIES: tuple[Registry[object], ...] = (  # type: ignore[assignment]
    ACTIVATIONS,
    TERMS,
    PAIRINGS,
    METHODS,
    TASKS,
    SIMILARITIES,
    DICTIONARY_METRICS,
    CODE_METRICS,
)
WITH_CODE = [page for page in PAGES if page.blocks]


@pytest.fixture(autouse=True)
def _registries_as_they_were() -> Iterator[None]:
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, items in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - set(items):
            del registry._items[name]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "documentation"}
    for line, code in page.blocks:
        exec(compile("\n" * (line - 1) + code, str(page.path), "exec"), space)


def test_the_pages_with_code_are_seen() -> None:
    assert {"README.md", "docs/extending.md"} <= {page.name for page in WITH_CODE}


@pytest.mark.parametrize("page", [page for page in PAGES if "/theory/" in page.name], ids=lambda page: page.name)
def test_a_page_of_theory_states_a_problem_and_shows_its_landscape_in_five_lines(page: Page) -> None:
    parts = ("landscape(", '.of("', ".encoder", ".minimum(", ".plot()", "assert ")
    stated = [code for _, code in page.blocks if "import monosem as ms" in code and all(part in code for part in parts)]
    assert stated, page.name
    for code in stated:
        lines = [line for line in code.splitlines() if line and not line.startswith(("import ", "#"))]
        assert len(lines) <= 5, lines

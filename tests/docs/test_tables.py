"""Tables of names agree with the registries, both ways, and what they say of each name agrees with the code."""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest

from monosem.anchors.term import Anchoring
from monosem.base.registry import Registry
from monosem.bench.folds import CODE_METRICS
from monosem.bench.metrics import DICTIONARY_METRICS, SIMILARITIES
from monosem.bench.tasks import TASKS
from monosem.core.activations import ACTIVATIONS
from monosem.core.init import Init
from monosem.core.pairs import PAIRINGS
from monosem.losses import fidelity, revival, sparsity  # they register the terms
from monosem.losses.objective import TERMS
from monosem.methods import METHODS, method
from monosem.train.config import FitConfig
from tests.docs.pages import page

assert all((fidelity, revival, sparsity))  # they register the terms

NAMES: list[tuple[str, str, Iterable[str]]] = [
    ("problem.md", "method", METHODS),
    ("activations.md", "activation", ACTIVATIONS),
    ("terms.md", "term", TERMS),
    ("terms.md", "AUXK_PUBLISHED", revival.AUXK_PUBLISHED),
    ("pairings.md", "pairing", PAIRINGS),
    ("bench.md", "task", TASKS),
    ("bench.md", "similarity", SIMILARITIES),
    ("bench.md", "dictionary metric", DICTIONARY_METRICS),
    ("bench.md", "code metric", CODE_METRICS),
]
FIELDS: list[tuple[str, type]] = [("training.md", FitConfig), ("training.md", Init), ("anchoring.md", Anchoring)]


@pytest.mark.parametrize(
    ("where", "what", "registered"), NAMES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_table_names_what_is_registered(where: str, what: str, registered: Iterable[str]) -> None:
    assert set(page(where).table(what)) == set(registered)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_made_of_what_the_table_says(name: str) -> None:
    row, built = page("problem.md").table("method")[name], method(name)
    assert type(built.activation) is ACTIVATIONS[row["activation"]]
    assert [term.name for term in built.terms] == row["terms"].split(" + ")
    citation = METHODS[name].citation
    assert row["source"] == f"{citation.authors} ({citation.year})"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_the_table_says(name: str) -> None:
    row, kind = page("activations.md").table("activation")[name], ACTIVATIONS[name]
    assert row["eq 10"] == kind.eq10
    assert row["homogeneous"] == ("yes" if kind.homogeneous else "no")
    assert row["pattern"] == kind.pattern_kind


def shown(value: Any) -> str:
    """A value as the tables write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "n_r // 2"
    return str(Fraction(value)) if isinstance(value, float) else str(value)


@pytest.mark.parametrize("name", revival.AUXK_PUBLISHED)
def test_published_forms_of_auxk_are_those_of_the_table(name: str) -> None:
    row, term = page("terms.md").table("AUXK_PUBLISHED")[name], revival.AUXK_PUBLISHED[name]
    assert row == {"AUXK_PUBLISHED": name} | {f.name: shown(getattr(term, f.name)) for f in dataclasses.fields(term)}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_have_the_numbers_of_the_table(name: str) -> None:
    task = TASKS[name]
    world = task.world
    law: Any = world.law
    S = getattr(law, "sparsity", None) or f"{1 - law.rates(world.n).mean():.3g}"
    numbers = {"n": world.n, "n_p": world.widths[0], "n_q": task.n_q, "S": S, "M": world.max_interference}
    numbers |= {"rows": world.rows, "anchors": task.anchors}
    assert page("bench.md").table("task")[name] == {"task": name} | {key: str(value) for key, value in numbers.items()}


@pytest.mark.parametrize(
    ("where", "kind"), FIELDS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_fields_and_defaults_are_those_of_the_table(where: str, kind: Any) -> None:
    said = {name: row["default"] for name, row in page(where).table(kind.__name__).items()}
    assert said == {f.name: str(f.default) for f in dataclasses.fields(kind)}


def test_pairings_cite_their_source() -> None:
    from monosem.methods import recipe_of

    for name, row in page("pairings.md").table("pairing").items():
        citation = None if name == "sae" else recipe_of(f"topk_{name}")[1]
        assert row["source"] == (f"{citation.authors} ({citation.year})" if citation else "Tang et al. (2025)")


def test_a_name_that_is_missing_would_be_seen() -> None:
    registry: Registry[int] = Registry("thing")
    registry.add("relu", 1)
    assert set(page("activations.md").table("activation")) != set(registry)

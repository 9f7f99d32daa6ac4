"""Registry, specifications, schedules, citations, errors."""

import json
import keyword
import math
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monosem.base import errors, literature
from monosem.base.errors import ArgumentError, RefusedError, UnknownNameError, check
from monosem.base.guard import guarded
from monosem.base.literature import Citation
from monosem.base.registry import Registry
from monosem.base.schedule import Ramp, WarmupDecay, at_step
from monosem.base.spec import canonical, digest, format_call, parse_call, to_plain


def shapes() -> Registry[int]:
    registry = Registry[int]("shape")
    registry.add("square", 4)
    registry.register("triangle")(3)
    return registry


def test_registry_keeps_order_and_names() -> None:
    registry = shapes()
    assert list(registry) == ["square", "triangle"]
    assert len(registry) == 2
    assert registry["triangle"] == 3
    assert "square" in registry
    assert "circle" not in registry


def test_registry_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown shape 'sqaure'; did you mean 'square'\?$"):
        shapes()["sqaure"]
    with pytest.raises(KeyError, match="known: square, triangle"):
        shapes()["zzz"]


def test_registry_takes_a_name_once() -> None:
    with pytest.raises(ArgumentError, match="'square' is registered already"):
        shapes().add("square", 5)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True).filter(lambda s: not keyword.iskeyword(s))


@given(NAMES, st.dictionaries(NAMES, LITERALS))
def test_calls_read_back(name: str, arguments: dict[str, object]) -> None:
    assert parse_call(format_call(name, arguments)) == (name, arguments)


@pytest.mark.parametrize(
    "text", ["topk(32)", "topk(k=n)", "topk(k=__import__('os'))", "a.b(k=1)", "topk(", "", "1", "f()()"]
)
def test_calls_that_are_not_literal_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="write a name with keyword literals"):
        parse_call(text)


@dataclass(frozen=True)
class Spec:
    n: int = 2
    widths: tuple[int, ...] = (3, 4)
    inner: object = None


def test_canonical_json_is_stable() -> None:
    """The digest names data sets and runs: it must not change from version to version."""
    spec = Spec(inner=Spec(n=1, widths=()))
    assert canonical(spec) == (
        '{"inner":{"inner":null,"n":1,"type":"Spec","widths":[]},"n":2,"type":"Spec","widths":[3,4]}'
    )
    assert digest({"b": 0.1, "a": [True, None, "x"]}) == digest({"a": (True, None, "x"), "b": 0.1})
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert json.loads(canonical(spec)) == to_plain(spec)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", Spec])
def test_a_specification_holds_plain_values_only(value: object) -> None:
    with pytest.raises(ArgumentError, match="cannot stand in a specification"):
        canonical({"value": value})


def test_a_specification_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(math.nan)


@given(st.integers(0, 200), st.integers(1, 100))
def test_ramp_is_linear_between_its_ends(step: int, steps: int) -> None:
    ramp, done = Ramp(2.0, -1.0, 0.25, 0.75), step / steps
    wanted = 2.0 if done <= 0.25 else -1.0 if done >= 0.75 else 2.0 - 3.0 * (done - 0.25) / 0.5
    assert ramp.at(step, steps) == pytest.approx(wanted)
    assert at_step(ramp, step, steps) == ramp.at(step, steps)
    assert at_step(0.7, step, steps) == 0.7


def test_ramp_of_no_width_is_a_jump() -> None:
    ramp = Ramp(0.0, 1.0, 0.5, 0.5)
    assert [ramp.at(step, 4) for step in range(5)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 1.0), (0.6, 0.5), (0.0, 1.1)])
def test_ramp_refuses_ends_out_of_order(begin: float, end: float) -> None:
    with pytest.raises(ArgumentError, match=r"begin=.*end="):
        Ramp(0.0, 1.0, begin, end)


def test_warm_up_and_decay() -> None:
    schedule = WarmupDecay(warmup=0.1, decay=0.2, floor=0.5)
    factors = [schedule.at(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:81] == pytest.approx([1.0] * 71)
    assert factors[81:] == pytest.approx([1 - 0.5 * (step - 80) / 20 for step in range(81, 100)])
    assert WarmupDecay(0.0, 0.0).at(0, 10) == 1.0


def test_citations_print() -> None:
    citations = [value for value in vars(literature).values() if isinstance(value, Citation)]
    assert citations
    for citation in citations:
        assert citation.short.startswith(f"{citation.authors} ({citation.year}), ")
        assert citation.bibtex.startswith(f"@misc{{{citation.key},\n")
        assert re.sub(r"[{} ]", "", citation.title) in re.sub(r"[{} ]", "", citation.bibtex)
        assert citation.arxiv or citation.venue
        assert str(citation.year) in citation.key
        assert citation.bibtex.count("{") == citation.bibtex.count("}")
    assert Citation("a", "B", "C", 2020).short == "B (2020)"


def test_bibtex_reads_every_author() -> None:
    """What BibTeX asks of an author field: ASCII, "and" between names, one comma at most in each, no "et al."."""
    for citation in (value for value in vars(literature).values() if isinstance(value, Citation)):
        entry = citation.bibtex
        assert entry.isascii()
        (author,) = re.findall(r"^  author = \{(.*)\},$", entry, re.M)
        people = author.split(" and ")
        assert all(name.strip() and name.count(",") <= 1 and "et al" not in name for name in people)
        assert "others" not in people[:-1]
        first = people[0].partition(",")[0].replace("{\\'e}", "é")
        assert citation.authors.startswith(first)
        assert (people[-1] == "others") == (not citation.people and "et al." in citation.authors)
    assert literature.TANG_2025.people.count(" and ") == 7


def test_errors_are_also_the_usual_ones() -> None:
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(UnknownNameError, KeyError)
    assert issubclass(RefusedError, ValueError)
    assert str(UnknownNameError("a message")) == "a message"
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert kinds
    for kind in kinds:
        assert issubclass(kind, errors.MonosemError)


def test_check_raises_the_error_it_is_given() -> None:
    check(True, "never")
    with pytest.raises(errors.DataError, match="both numbers"):
        check(False, "both numbers", errors.DataError)


def test_an_annotation_for_type_checkers_only_is_not_checked() -> None:
    @guarded
    def shift(n: int, by: "OfCheckers | None" = None) -> int:  # type: ignore[name-defined]  # noqa: F821
        return n + 1

    assert shift(1, by=object()) == 2
    with pytest.raises(ArgumentError, match="shift: n='1'; give a whole number"):
        shift("1")  # type: ignore[arg-type]

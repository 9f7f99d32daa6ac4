"""`make mutants` tries what it says: so many different programs, each with one change, in every part."""

import ast

from tests.mutants import OPERATORS, REASONS, ROOT, SOURCE, TESTS, changed, draw, known, report


def test_every_mutant_is_another_program() -> None:
    mutants = draw(200, 0, tuple(TESTS))
    assert len({mutant.name for mutant in mutants}) == 200
    assert mutants == draw(200, 0, tuple(TESTS)) != draw(200, 1, tuple(TESTS))
    assert {mutant.part for mutant in mutants} == set(TESTS)
    assert {mutant.operator for mutant in mutants} == set(OPERATORS)
    programs = set()
    for mutant in mutants[:60]:
        before = (SOURCE / mutant.path).read_text(encoding="utf-8")
        after = ast.unparse(changed(mutant)[0])
        assert after != ast.unparse(ast.parse(before))
        compile(after, mutant.path, "exec")
        programs.add(after)
    assert len(programs) == 60


def test_survivors_are_listed_with_their_change() -> None:
    outcome = {
        "name": "monosem/core/model.py::SDL.decode::sign::0",
        "outcome": "survived",
        "change": "line 1: -a  ->  a",
    }
    caught = {"name": "monosem/core/model.py::SDL.decode::sign::1", "outcome": "caught", "change": ""}
    text = report([outcome, caught])
    assert "core: 1 of 2 caught (50%)" in text
    assert "line 1: -a  ->  a" in text


def test_every_survivor_has_a_reason_and_the_page_counts_what_the_record_holds() -> None:
    outcomes = known()
    survivors = {name for name, outcome in outcomes.items() if outcome["outcome"] == "survived"}
    assert survivors == set(REASONS)
    count = f"of {len(outcomes)}, {len(outcomes) - len(survivors)} are caught"
    assert count in (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")

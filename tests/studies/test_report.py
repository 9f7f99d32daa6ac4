"""Tables of studies: numbers by hand from made-up runs, printed numbers as printed, and what was not run."""

import pytest

from studies.bench.base import SCALES, Entry
from studies.bench.catalog import STUDIES
from studies.report.study import NOT_RUN, cells, facts, study_table, study_tables, study_text
from studies.report.study_counts import fits, forbidden, least_mean, shared_counts, summary
from tests.studies.samples import outcomes_of

NANO = SCALES["nano"]
T_ONE = 12.7062047364  # Student's t at .975 with one degree of freedom, from a table
SHARES = {"paper": (0.2, 0.3), "paper+anchors": (0.3, 0.6), "ours": (0.5, 0.5), "ours+discovered": (0.9, 1.0)}


def _share(entry: Entry, world: int) -> float | None:
    return SHARES[entry.arm][world] if entry.arm in SHARES else None


TABLE1 = outcomes_of(STUDIES["table1"], NANO, _share)
CELLS = {(cell.row, cell.arm): cell for cell in cells(STUDIES["table1"], TABLE1)}


def test_values_are_means_over_worlds_with_their_interval() -> None:
    (first, *_) = study_tables(STUDIES["table1"], TABLE1)
    line = dict(zip(first.head, first.lines[0], strict=True))
    half = T_ONE * 0.05  # s = .0707, over the root of two worlds
    assert line == {
        "row": "relu_l1",
        "arm": "paper",
        "runs": "2",
        "paper": "0 / 0.205",
        "raw": "12.5 / 0.312",
        "cosine": f"25.0 ± {100 * half:.1f} / 0.625",
        "all": "25.0 / 0.625",
    }


def test_gain_is_paired_with_the_plain_run_of_the_same_settings() -> None:
    gain = CELLS["topk", "paper+anchors"].gain()
    assert gain is not None
    assert (gain.mean, gain.half) == pytest.approx((0.2, T_ONE * 0.1))  # .1 in one world, .3 in the other
    found = CELLS["topk", "ours+discovered"].gain()
    assert found is not None
    assert found.mean == pytest.approx(0.45)
    assert CELLS["topk", "paper"].gain() is None


def test_without_its_plain_run_an_anchored_run_has_no_gain() -> None:
    alone = outcomes_of(STUDIES["table1"], NANO, lambda entry, world: 0.5 if entry.arm == "paper+anchors" else None)
    made = {(cell.row, cell.arm): cell for cell in cells(STUDIES["table1"], alone)}
    assert made["topk", "paper+anchors"].gain() is None


def test_found_anchors_are_compared_with_themselves_alone_over_every_feature() -> None:
    cell = CELLS["topk", "ours+discovered"]
    beyond = cell.beyond()
    assert cell.told("x") == "all.x"
    assert beyond is not None
    assert beyond.mean == pytest.approx(0.95 - 0.25)
    assert CELLS["topk", "paper+anchors"].told("x") == "x"
    (_, _, third) = study_tables(STUDIES["table1"], TABLE1)
    lines = {line[:2]: dict(zip(third.head, line, strict=True)) for line in third.lines}
    assert lines["topk", "ours+discovered"]["anchors"] == "20 (0.900, 0.750)"
    assert lines["topk", "paper"]["anchors"] == "-"
    assert lines["topk", "paper"]["L0"] == "7.2"


@pytest.mark.parametrize("name", ["table1", "table4", "table5", "table6", "table7"])
def test_every_printed_number_stands_in_its_row(name: str) -> None:
    study = STUDIES[name]
    (first, *_) = study_tables(study, outcomes_of(study, SCALES["paper"], lambda entry, world: None))
    said = {line[:2]: line[3] for line in first.lines}
    assert set(study.printed) <= {(row, arm) for row, arm in said}
    for key, (share, mean) in study.printed.items():
        numbers = [None if text == "-" else float(text) for text in said[key].split(" / ")]
        assert numbers == [share, mean]
    assert {line[2] for line in first.lines} == {NOT_RUN}


PRINTED = [
    ("table1", "batch_topk", "paper+anchors", (89.38, 0.988)),
    ("table1", "topk_transcoder", "paper", (23.60, 0.838)),
    ("table4", "n = 1400", "paper+anchors", (8.57, 0.207)),
    ("table5", "M = 0.2, batch_topk", "paper+anchors", (90.7, None)),
    ("table6", "rate 0.005, jumprelu", "paper+anchors", (74.8, 0.970)),
    ("table6", "rate 0.01, topk", "paper", (84.90, 0.983)),
    ("table7", "k = 64", "paper+anchors", (93.4, 0.991)),
]


@pytest.mark.parametrize(("name", "row", "arm", "pair"), PRINTED)
def test_printed_numbers_are_the_papers(name: str, row: str, arm: str, pair: tuple[float, float | None]) -> None:
    assert STUDIES[name].printed[row, arm] == pair


def test_what_was_not_run_says_so() -> None:
    half = outcomes_of(
        STUDIES["table7"], NANO, lambda entry, world: 0.5 if entry.arm == "paper" and not world else None
    )
    lines = study_table(STUDIES["table7"], half).splitlines()
    assert "| k = 32 | paper | 1 of 2 | 100 / 0.999 | 25.0 / 0.375 | 50.0 / 0.750 | 50.0 / 0.750 |" in lines
    assert f"| k = 32 | paper+anchors | {NOT_RUN} | 100 / 0.999 | - | - | - |" in lines
    assert facts(half).startswith("3 of 18 cells run, 3 runs of `lrb/nano`, worlds 0; 100 steps of")
    nothing = [(entry, world, None) for entry, world, _ in half]
    assert facts(nothing) == "Not run (18 cells)."
    assert "**What anchors add**" not in study_table(STUDIES["table7"], nothing)


def test_a_terminal_of_80_columns_holds_the_tables() -> None:
    text = study_text(STUDIES["table1"], TABLE1).split("\n\npaper: ")[0]
    assert max(map(len, text.splitlines())) <= 80
    assert "topk_crosscoder\n  paper" in text


def test_a_printed_cell_forces_its_mean() -> None:
    assert least_mean(0.5, 0.9) == 0.45
    assert [row for row, *_ in forbidden(STUDIES["table4"].printed)] == [f"n = {n}" for n in range(800, 1300, 100)]
    for name in ("table1", "table5", "table6", "table7"):
        assert not forbidden(STUDIES[name].printed)


def test_percentages_tell_their_denominators() -> None:
    assert fits(50.0, 2)
    assert not fits(33.3, 4, digits=1)
    assert shared_counts([12.5], range(1, 20)) == [8, 16]
    assert shared_counts([84.9, 84.8, 83.7, 23.6], [970, 1000]) == [1000]


def test_a_summary_counts_rows_and_what_their_intervals_say() -> None:
    found = summary(CELLS.values(), "ours+discovered")
    assert found is not None
    assert (found.rows, found.low[1], found.reached) == (7, 0.95, 0)
    assert found.range == (pytest.approx(0.45), pytest.approx(0.45))
    assert (found.up, found.down, found.open, found.single) == (0, 0, 7, 0)  # .4 and .5: two worlds cannot tell
    sure = outcomes_of(STUDIES["table1"], NANO, lambda entry, world: 1.0 if "+" in entry.arm else 0.5)
    told = summary(cells(STUDIES["table1"], sure), "ours+anchors")
    assert told is not None
    assert (told.up, told.reached) == (7, 7)
    assert summary(CELLS.values(), "ours+anchors") is None

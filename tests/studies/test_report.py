"""Tables of studies: numbers by hand from made-up runs, printed numbers as printed, and what was not run."""

import pytest

from studies.catalog import STUDIES
from studies.engine.cells import NOT_RUN, summary
from studies.engine.scale import SCALES
from studies.engine.study import Entry
from studies.engine.tables import bench_tables, facts, markdown, text
from studies.engine.words import fits, forbidden, least_mean, shared_counts
from tests.studies.samples import results_of

NANO = SCALES["nano"]
T_ONE = 12.7062047364  # Student's t at .975 with one degree of freedom, from a table
SHARES = {"paper": (0.2, 0.3), "paper+anchors": (0.3, 0.6), "ours": (0.5, 0.5), "ours+discovered": (0.9, 1.0)}


def _share(entry: Entry, world: int) -> float | None:
    return SHARES[entry.arm][world] if entry.arm in SHARES else None


TABLE1 = results_of(STUDIES["table1"], NANO, _share)
CELLS = {(cell.row, cell.arm): cell for cell in TABLE1.cells}


def test_values_are_means_over_worlds_with_their_interval() -> None:
    (first, *_) = bench_tables(TABLE1)
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
    discovered = CELLS["topk", "ours+discovered"].gain()
    assert discovered is not None
    assert discovered.mean == pytest.approx(0.45)
    assert CELLS["topk", "paper"].gain() is None


def test_without_its_plain_run_an_anchored_run_has_no_gain() -> None:
    alone = results_of(STUDIES["table1"], NANO, lambda entry, world: 0.5 if entry.arm == "paper+anchors" else None)
    assert alone.by_place["topk", "paper+anchors"].gain() is None


def test_discovered_anchors_are_compared_with_themselves_alone_over_every_feature() -> None:
    cell = CELLS["topk", "ours+discovered"]
    beyond = cell.beyond()
    assert cell.fair("x") == "all.x"
    assert beyond is not None
    assert beyond.mean == pytest.approx(0.95 - 0.25)
    assert CELLS["topk", "paper+anchors"].fair("x") == "x"
    (_, _, third) = bench_tables(TABLE1)
    lines = {line[:2]: dict(zip(third.head, line, strict=True)) for line in third.lines}
    assert lines["topk", "ours+discovered"]["anchors"] == "20 (0.900, 0.750)"
    assert lines["topk", "paper"]["anchors"] == "-"
    assert lines["topk", "paper"]["L0"] == "7.2"


@pytest.mark.parametrize("name", ["table1", "table4", "table5", "table6", "table7"])
def test_every_printed_number_stands_in_its_row(name: str) -> None:
    study = STUDIES[name]
    (first, *_) = bench_tables(results_of(study, SCALES["paper"], lambda entry, world: None))
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
    table7 = STUDIES["table7"]
    half = results_of(table7, NANO, lambda entry, world: 0.5 if entry.arm == "paper" and not world else None)
    lines = markdown(half).splitlines()
    assert "| k = 32 | paper | 1 of 2 | 100 / 0.999 | 25.0 / 0.375 | 50.0 / 0.750 | 50.0 / 0.750 |" in lines
    assert f"| k = 32 | paper+anchors | {NOT_RUN} | 100 / 0.999 | - | - | - |" in lines
    assert facts(half).startswith("3 of 18 cells run, 3 runs of `lrb/nano`, worlds 0; 100 steps of")
    nothing = results_of(table7, NANO, lambda entry, world: None)
    assert facts(nothing) == "Not run (18 cells)."
    assert "**What anchors add**" not in markdown(nothing)


def test_a_terminal_of_80_columns_holds_the_tables() -> None:
    shown = text(TABLE1).split("\n\npaper: ")[0]
    assert max(map(len, shown.splitlines())) <= 80
    assert "topk_crosscoder\n  paper" in shown


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
    one = summary(CELLS.values(), "ours+discovered")
    assert one is not None
    assert (one.rows, one.low[1], one.reached) == (7, 0.95, 0)
    assert one.range == (pytest.approx(0.45), pytest.approx(0.45))
    assert (one.up, one.down, one.open, one.single) == (0, 0, 7, 0)  # .4 and .5: two worlds cannot tell
    sure = results_of(STUDIES["table1"], NANO, lambda entry, world: 1.0 if "+" in entry.arm else 0.5)
    clear = summary(sure.cells, "ours+anchors")
    assert clear is not None
    assert (clear.up, clear.reached) == (7, 7)
    assert summary(CELLS.values(), "ours+anchors") is None

"""Means, intervals and the order of records, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from monosem.base.errors import DataError
from monosem.report.interval import interval, interval_of, paired
from monosem.report.summary import HEADLINE, sections
from tests.report.samples import sample, samples


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    got = interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert got.half is not None
    assert got.n == n
    assert np.allclose([got.mean - got.half, got.mean + got.half], [low, high])


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert interval([0.25]).text() == "0.250"
    assert interval([0.25]).text(sign=True) == "+0.250"
    assert interval_of([None, None]) is None
    one = interval_of([None, 2.0])
    assert one is not None
    assert (one.mean, one.n) == (2.0, 1)


def test_differences_are_taken_seed_by_seed() -> None:
    before, after = {0: 0.1, 1: 0.5, 2: 0.9}, {1: 0.7, 0: 0.3, 5: 0.0}
    got = paired(before, after)
    assert got is not None
    assert got.mean == pytest.approx(0.2)
    assert got.half == pytest.approx(0.0, abs=1e-12)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_sections_lines_and_arms_are_in_order() -> None:
    (section,) = sections(reversed(samples()))
    assert [line.label for line in section.lines] == ["relu_l1", "topk", "topk_crosscoder"]
    assert section.pairings == ("sae", "crosscoder")
    for line in section.lines:
        assert [arm.name for arm in line.arms] == ["plain", "anchored"]
        assert [arm.seeds for arm in line.arms] == [(0, 1, 2)] * 2
        gain = line.gain(line.anchored[0])
        assert gain is not None
        assert gain.mean == pytest.approx(0.2)
        assert line.plain is not None
        assert line.gain(line.plain) is None
    topk = section.lines[1].plain
    assert topk is not None
    score = topk.interval(HEADLINE)
    assert score is not None
    assert score.mean == pytest.approx(0.45)
    assert topk.curve("training", "loss") == [2.0, 1.0]


def test_references_count_each_world_once() -> None:
    (section,) = sections(samples(2))
    chance = section.reference("sae", HEADLINE, "chance")
    assert chance is not None
    assert (chance.mean, chance.n) == (0.125, 2)
    assert section.reference("transcoder", HEADLINE, "chance") is None


def test_tasks_versions_and_studies_are_sections_of_their_own() -> None:
    other = sample() | {"study": "sweep"}
    found = sections([sample(), sample(name="lrb/nano"), other])
    assert sorted((s.task, s.study) for s in found) == [
        ("lrb/mini", "bench"),
        ("lrb/mini", "sweep"),
        ("lrb/nano", "bench"),
    ]
    assert {s.title for s in found} >= {"lrb/mini (version 1)", "lrb/mini (version 1), study sweep"}


def test_what_differs_is_in_the_label_and_never_averaged() -> None:
    records = [sample(), sample("topk(k=8)"), sample(steps=200), sample("relu_l1")]
    (section,) = sections(records)
    assert [line.label for line in section.lines] == [
        "relu_l1",
        "topk(k=4) steps=100",
        "topk(k=4) steps=200",
        "topk(k=8)",
    ]


def test_several_ways_of_anchoring_are_arms_of_one_line() -> None:
    (section,) = sections([sample(), sample(anchors=12, value=0.6), sample(anchors=12, value=0.8, weight=1.0)])
    (line,) = section.lines
    gains = [gain.mean for arm in line.anchored if (gain := line.gain(arm))]
    assert gains == pytest.approx([0.1, 0.3])
    assert "weight 1.0" in line.anchored[1].note


def test_a_method_that_this_version_does_not_know_is_shown_all_the_same() -> None:
    strange = sample()
    strange["method"] = {"name": "future", "spec": "future(k=1)"}
    (section,) = sections([strange, sample()])
    assert [line.label for line in section.lines] == ["topk", "future"]


def test_no_records_is_an_error() -> None:
    with pytest.raises(DataError, match="there are no records"):
        sections([])

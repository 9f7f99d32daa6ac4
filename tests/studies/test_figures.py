"""Figures of studies are drawn from made-up runs; drawn studies write their numbers beside their picture."""

from pathlib import Path
from typing import Any

import pytest

from monosem.base.errors import DataError
from monosem.base.files import read_json
from monosem.bench.records import write_record
from monosem.report.style import to_svg
from monosem.theory.hierarchy import absorb
from monosem.theory.patterns import pattern_of
from studies.bench.base import SCALES
from studies.bench.catalog import STUDIES
from studies.report import study_drawn
from studies.report.study_drawn import dog, draw_study
from studies.report.study_figures import FIGURES, study_figure
from tests.studies.samples import outcomes_of

NANO = SCALES["nano"]
PANELS = {
    "table1": 1,
    "table4": 2,
    "table5": 5,
    "table6": 5,
    "table7": 1,
    "figure6": 7,
    "samples": 3,
    "convergence": 14,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_panel_for_each_method(name: str) -> None:
    study = STUDIES[name]
    figure = study_figure(study, outcomes_of(study, NANO, lambda entry, world: 0.5 + 0.1 * world))
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == PANELS[name]
    assert all(axes.lines for axes in shown)


def test_a_curve_shows_means_at_the_studys_values_and_what_is_printed() -> None:
    study = STUDIES["table7"]
    found = outcomes_of(study, NANO, lambda entry, world: 0.5 + 0.1 * world if entry.arm == "paper" else None)
    figure = study_figure(study, found)
    assert figure is not None
    lines = [
        [(float(x), round(float(y), 9)) for x, y in zip(*line.get_data(), strict=True)] for line in figure.axes[0].lines
    ]
    assert [(32.0, 0.55), (64.0, 0.55), (128.0, 0.55)] in lines
    crosses = {
        (32.0, 1.0),
        (64.0, 0.939),
        (128.0, 0.867),
        (64.0, 0.934),
        (128.0, 0.88),
    }  # anchored ones too, though not run
    assert {line[0] for line in lines if len(line) == 1} == crosses
    assert to_svg(figure, "a & b").startswith('<svg role="img" aria-label="a &amp; b"')


def test_without_runs_there_is_no_figure() -> None:
    nothing = outcomes_of(STUDIES["table7"], NANO, lambda entry, world: None)
    assert study_figure(STUDIES["table7"], nothing) is None


def test_dog_is_absorbed_as_figure_5_says() -> None:
    problem, W_E = dog()
    split = absorb(problem, W_E, 0)
    assert str(pattern_of(problem, W_E)) == "{0,1,2,3}"
    assert split.reached
    assert split.child == 0
    codes = split.problem.codes(split.W_E)
    assert float(codes[0, 0]) == 0.0
    assert bool((codes[1:, 0] > 0).all())


def test_a_drawn_study_writes_its_picture_and_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def checked(*names: str) -> dict[str, Any]:
        asked.extend(names)
        return {name: {"as_documented": True} for name in names}

    monkeypatch.setattr(study_drawn, "_checked", checked)
    text = draw_study("figure5", tmp_path, NANO)
    record = read_json(tmp_path / "figure5.json")
    assert record["pattern"] == {"before": "{0,1,2,3}", "after": "{1,2,3} {0}"}
    assert record["loss"]["after"] < record["loss"]["before"]
    assert "Checks as documented: absorption, absorption_printed, parent_invisible." in text
    assert asked == list(record["checks"])
    assert (tmp_path / "figure5.svg").read_text().startswith("<svg")


def test_figure_9_draws_table_1s_runs_and_says_what_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run of table1 at scale nano"):
        draw_study("figure9", tmp_path, NANO)
    ours = outcomes_of(STUDIES["table1"], NANO, lambda entry, world: 0.5 if entry.arm == "ours" and not world else None)
    for _, _, record in ours:
        if record is not None:
            write_record(tmp_path, record)
    assert "is not known to us" in draw_study("figure9", tmp_path, NANO)
    assert len(read_json(tmp_path / "figure9.json")["runs"]) == 7

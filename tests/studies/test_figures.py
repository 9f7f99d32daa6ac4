"""Figures of studies are drawn from made-up runs; drawn studies write their numbers beside their picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from monosem.base.files import read_json
from monosem.report.style import to_svg
from monosem.theory.hierarchy import absorb
from monosem.theory.patterns import pattern_of
from monosem.train.config import FitConfig
from studies.catalog import STUDIES
from studies.engine.cells import Results
from studies.engine.records import Records
from studies.engine.scale import SCALES
from studies.engine.study import Entry
from studies.engine.tables import text
from studies.paper import figure5
from studies.paper.figure5 import dog
from studies.paper.figure10_11 import top_examples
from tests.studies.samples import results_of

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


@pytest.mark.parametrize("name", PANELS)
def test_a_figure_has_a_panel_for_each_method(name: str) -> None:
    figure = _figure(name, lambda entry, world: 0.5 + 0.1 * world)
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == PANELS[name]
    assert all(axes.lines for axes in shown)


def test_a_curve_shows_means_at_the_studys_values_and_what_is_printed() -> None:
    figure = _figure("table7", lambda entry, world: 0.5 + 0.1 * world if entry.arm == "paper" else None)
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


@pytest.mark.parametrize("name", [name for name in STUDIES if STUDIES[name].figure])
def test_without_runs_there_is_no_figure(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    assert study.figure is not None
    assert study.figure(Results.of(study, NANO, Records(tmp_path))) is None


def _figure(name: str, share: Callable[[Entry, int], float | None]) -> Figure | None:
    study = STUDIES[name]
    assert study.figure is not None
    return study.figure(results_of(study, NANO, share))


def test_dog_is_absorbed_as_figure_5_says() -> None:
    problem, W_E = dog()
    split = absorb(problem, W_E, 0)
    assert str(pattern_of(problem, W_E)) == "{0,1,2,3}"
    assert split.reached
    assert split.child == 0
    codes = split.problem.codes(split.W_E)
    assert float(codes[0, 0]) == 0.0
    assert bool((codes[1:, 0] > 0).all())


def test_a_figure_without_training_is_drawn_from_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def checked(*names: str) -> dict[str, Any]:
        asked.extend(names)
        verdict = {"claim": "theorem", "as_documented": True, "verdict": {"holds": True, "trials": 5}}
        return {name: {**verdict, "counter_cases": {"one": {"caught": True}}} for name in names}

    monkeypatch.setattr(figure5, "checked", checked)
    study = STUDIES["figure5"]
    (entry,) = study.entries(NANO)
    record = read_json(entry.run.run(tmp_path, lambda step: None))
    assert record["pattern"] == {"before": "{0,1,2,3}", "after": "{1,2,3} {0}"}
    assert record["loss"]["after"] < record["loss"]["before"]
    assert asked == list(record["checks"])
    results = Results.of(study, NANO, Records(tmp_path))
    assert study.says is not None
    assert "Checks as documented: absorption, absorption_printed, parent_invisible." in study.says(results)
    assert "1 of 1" in text(results)
    assert study.figure is not None
    figure = study.figure(results)
    assert figure is not None
    shown = [[label.get_text() for label in axes.texts] for axes in figure.axes]
    assert shown == [
        [f"{value:.2f}" for row in record["codes"][stage] for value in row] for stage in ("before", "after")
    ]


def test_examples_are_drawn_from_the_rows_that_the_record_names(tmp_path: Path) -> None:
    record = top_examples(True, tmp_path, FitConfig(steps=3, batch_size=64, threads=1))
    assert [one["latent"] for one in record["latents"]] == [0, 1, 2, 3, 4]
    assert all(len(set(one["rows"])) == 10 for one in record["latents"])
    study = STUDIES["figure11"]
    (entry, *_) = study.entries(NANO)
    assert study.figure is not None
    assert study.figure(Results(study, NANO, [(entry, record)])) is not None
    rows = [{**one, "rows": [0] * 10} for one in record["latents"]]
    figures = [study.figure(Results(study, NANO, [(entry, record | {"latents": these})])) for these in (rows, rows)]
    pixels = [[axes.images[0].get_array().sum() for axes in figure.axes] for figure in figures if figure]
    assert len(set(pixels[0])) == 1  # every panel shows row 0, as the record says


def test_figure_9_draws_table_1s_runs_and_says_what_is_not_known() -> None:
    study = STUDIES["figure9"]
    ours = results_of(study, NANO, lambda entry, world: 0.5 if entry.arm == "ours" and not world else None)
    assert {entry.run.key for entry, _ in ours.outcomes} < {entry.run.key for entry in STUDIES["table1"].entries(NANO)}
    assert study.figure is not None
    assert study.figure(ours) is not None
    assert study.says is not None
    assert "is not known to us" in study.says(ours)

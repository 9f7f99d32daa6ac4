"""Every study by name, and its committed results."""

from functools import cache
from pathlib import Path

from monosem.base import Registry
from studies.engine.cells import Results
from studies.engine.records import Records
from studies.engine.scale import SCALES
from studies.engine.study import Study
from studies.paper import (
    anchoring,
    figure4,
    figure5,
    figure7,
    figure9,
    figure10_11,
    open_questions,
    settings,
    table1,
    table2,
    table4,
    table5,
    table6,
    table7,
    untrained,
)

STUDIES: Registry[Study] = Registry("study")
for _study in (
    *(module.STUDY for module in (table1, table2, table4, table5, table6, table7)),
    *(module.STUDY for module in (figure4, figure5)),
    table1.FIGURE6,
    *(module.STUDY for module in (figure7, figure9)),
    figure10_11.FIGURE10,
    figure10_11.FIGURE11,
    open_questions.SAMPLES,
    open_questions.CONVERGENCE,
    settings.STUDY,
    untrained.STUDY,
    anchoring.ANCHORING,
    anchoring.CROWDED,
):
    STUDIES.add(_study.name, _study)


def committed(name: str, scale: str) -> Results:
    """A study's results from the records of this repository."""
    study, size = STUDIES[name], SCALES[scale]
    return Results.of(study, size, _records(study.committed(size)))


@cache
def _records(packed: Path) -> Records:
    return Records(packed)

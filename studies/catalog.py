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
    convergence,
    figure4,
    figure5,
    figure6,
    figure7,
    figure9,
    figure10_11,
    samples,
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
    *(module.STUDY for module in (figure4, figure5, figure6, figure7, figure9)),
    figure10_11.FIGURE10,
    figure10_11.FIGURE11,
    *(module.STUDY for module in (samples, convergence, settings, untrained)),
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

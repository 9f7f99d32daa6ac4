"""Studies on real rows as people see them: their tables, figures and legends, from records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.base.registry import Registry
from monosem.bench.records import read_records
from studies.real.base import RealJob, record_of
from studies.real.catalog import REAL_STUDIES
from studies.report.real_classes import class_figure, class_tables
from studies.report.real_resampling import remedy_figure, remedy_tables
from studies.report.study import StudyTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Shown:
    """How a study on real rows is shown: tables and a figure of its records, and what the columns are."""

    tables: Callable[[_Records], tuple[StudyTable, ...]]
    figure: Callable[[_Records], "Figure"]
    legend: Mapping[str, str]


SHOWN: Registry[Shown] = Registry("study on real rows")
SHOWN.add(
    "table2",
    Shown(
        class_tables,
        class_figure,
        {
            "paper": "M_GT in percent / M_IP as printed, on CLIP embeddings of ImageNet-1K, which we do not have",
            "held out, anchored, all": "mean best |cos| of a decoder column with the centred mean of a class, counted "
            "over the classes that anchor nothing, those that do, and both",
            ">.8": "the share of these classes above .8",
            "FVU": "fraction of variance unexplained on held-out rows",
            "gain": "held out, anchored minus plain, paired by seed, ± half the 95 % t interval",
            "beyond joined": "the same against the plain dictionary with the untrained anchors put beside it: what "
            "anchoring learned",
        },
    ),
)
SHOWN.add(
    "figure7",
    Shown(
        remedy_tables,
        remedy_figure,
        {
            "highest, at the end": "the share of latents that are dead, that have not fired for the window",
            "silent": "the share of latents that never fire on rows no step saw",
            "FVU": "fraction of variance unexplained on those rows",
            "against none": "FVU minus that of no remedy, paired by seed, ± half the 95 % t interval",
        },
    ),
)


def real_records(jobs: Sequence[RealJob], folder: str | Path) -> list[Mapping[str, Any]]:
    """The records of these jobs in a folder or a packed file, in the order of the jobs."""
    there = read_records(folder) if Path(folder).exists() else []
    found = (record_of(job, there) for job in jobs)
    return [record for record in found if record is not None]


def real_text(name: str, records: _Records, wanted: int) -> str:
    """A study's table for a terminal, with what its columns are."""
    one, title = SHOWN[name], REAL_STUDIES[name].title
    if not records:
        return f"{title}\n\nNot run ({wanted} runs).\n"
    legend = "\n".join(f"{column}: {what}" for column, what in one.legend.items())
    tables = "\n\n".join(table.text() for table in one.tables(records))
    return f"{title}\n\n{len(records)} of {wanted} runs.\n\n{tables}\n\n{legend}\n"


def real_markdown(name: str, records: _Records) -> str:
    """A study's tables as Markdown, each under its title."""
    return "\n\n".join(f"**{one.title}**\n\n{one.markdown()}" for one in SHOWN[name].tables(records))


def real_figure(name: str, records: _Records) -> "Figure | None":
    """A study's figure; None where nothing was run."""
    return SHOWN[name].figure(records) if records else None

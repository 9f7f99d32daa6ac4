"""The tables and figures of docs/real/classes.md and docs/real/resampling.md, from records alone."""

from pathlib import Path

from monosem.base.files import write_atomic
from monosem.bench.records import read_records
from monosem.report.style import to_svg
from studies.page import fill
from studies.report.study_real import real_figure, real_markdown
from studies.stored import packed

DOCS, FIGURES = Path("docs/real"), Path("docs/figures")
PAGES = (
    ("classes", "table2", "real-classes", "Class means found by plain and anchored dictionaries, held out and all"),
    ("resampling", "figure7", "real-resampling", "Dead latents and error over training, with no remedy and with four"),
)
"""(page and marker, study, packed file of its records, title of its figure)."""


def page() -> None:
    """Fill both pages, draw both figures."""
    for name, study, runs, title in PAGES:
        records = read_records(packed(runs))
        fill(DOCS / f"{name}.md", {name: real_markdown(study, records)})
        figure = real_figure(study, records)
        assert figure is not None
        write_atomic(FIGURES / f"real-{name}.svg", to_svg(figure, title).encode())

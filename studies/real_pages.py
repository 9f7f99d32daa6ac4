"""The tables and figures of docs/real/classes.md and docs/real/resampling.md, from records alone."""

from pathlib import Path

from monosem.report import fill, write_figure
from studies.catalog import committed
from studies.engine.tables import markdown

DOCS, FIGURES = Path("docs/real"), Path("docs/figures")
PAGES = (
    ("classes", "table2", "Class means found by plain and anchored dictionaries, held out and all"),
    ("resampling", "figure7", "Dead latents and error over training, with no remedy and with four"),
)
"""(page and marker, study, title of its figure)."""


def page() -> None:
    """Fill both pages, draw both figures."""
    for name, study, title in PAGES:
        results = committed(study, "mini")
        fill(DOCS / f"{name}.md", {name: markdown(results)})
        figure = results.study.figure(results) if results.study.figure else None
        assert figure is not None
        write_figure(FIGURES / f"real-{name}.svg", figure, title)

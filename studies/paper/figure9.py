"""Figure 9: similarity of true features and latents, drawn from table 1's runs."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from monosem.report import Line, similarity_figure
from studies.engine.cells import Results
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study
from studies.paper import table1

_ARMS = ("ours", "ours+discovered")


def _runs(scale: Scale) -> Iterator[Entry]:
    yield from (entry for entry in table1.runs(scale) if entry.arm in _ARMS)


def _figure(results: Results) -> Figure | None:
    """Heat maps of every method, plain above discovered; what the paper's figure 9 shows is not known."""
    cells = results.by_place
    lines = []
    for row in dict.fromkeys(row for row, _ in cells):
        runs = [ran for arm in _ARMS if (cell := cells.get((row, arm))) and (ran := cell.ran)]
        plain = next((ran for ran in runs if not ran.anchored), None)
        pairing = runs[0].records[0]["task"]["pairing"]
        lines.append(Line(row, row, pairing, {}, plain, tuple(ran for ran in runs if ran.anchored)))
    return similarity_figure(lines) if lines else None


def _about() -> str:
    return (
        "**With a reservation:** our copy of the paper's text does not say what figure 9 shows. Heat maps of the "
        "similarity between true features and latents are our guess."
    )


def _says(results: Results) -> str:
    return (
        "cos of the first scored features (rows) with their best latents (columns), our defaults, plain above found "
        "anchors, one world each. What the paper's figure 9 shows is not known to us: our copy of its text names "
        "the figure and no more."
    )


STUDY = Study(
    "figure9",
    "Figure 9: similarity of true features and latents, on table 1's runs",
    _runs,
    about=_about,
    says=_says,
    tables=lambda results: (),
    figure=_figure,
)

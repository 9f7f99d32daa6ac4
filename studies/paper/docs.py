"""docs/paper/ and its figures, from records alone."""

from collections.abc import Mapping
from pathlib import Path

from monosem.report import table, write_figure
from studies.catalog import STUDIES, committed
from studies.engine.bench import ARMS
from studies.engine.cells import Results
from studies.engine.tables import MEANING, facts, markdown, tables
from studies.page import provenance, write_generated
from studies.paper.settings import arms_used
from studies.paper.untrained import section as untrained_section

DOCS, FIGURES = Path("docs/paper"), Path("docs/figures")
PAGES = ("table1", "table4", "table5", "table6", "table7", "figure6", "samples", "convergence")
DRAWN = ("figure4", "figure5", "figure9", "figure10", "figure11")
"""Figures without tables by scale."""
REAL = {"table2": "classes", "figure7": "resampling"}
"""Studies on real rows, and their pages in docs/real."""
SCALES_ABOUT: Mapping[str, str] = {
    "paper": "the paper's n, n_p, n_q, S, M and rows; what it does not give is in [settings](settings.md)",
    "mini": "125 features in 96 dimensions, 2000 latents: the paper's ratios at an eighth of the size. Rows of its "
    "tables are scaled in proportion (n to 1000, k to the 10 active features), so printed "
    "numbers are no target here. 500 steps, for the number of cells; the bench trains 2000 here "
    "([defaults](../defaults.md)), which ReLU and JumpReLU need",
}
"""What the scales of the pages are."""


def _page(name: str) -> str:
    """A study on the bench, scale by scale."""
    study = STUDIES[name]
    parts = [f"# {study.title}", study.about(), f"    python -m studies {name} --scale paper", _LEGEND]
    parts += [_section(committed(name, scale)) for scale in SCALES_ABOUT]
    untrained = committed("untrained", "paper").records
    if name == "table1" and untrained:
        parts.append(untrained_section(untrained[0], committed("table1", "paper")))
    return "\n\n".join(parts) + "\n"


def _section(results: Results) -> str:
    """One scale of a study: what was run, what it says, figure and tables."""
    study, scale = results.study, results.scale.name
    parts = [f"## At scale {scale}", facts(results)]
    if results.there:
        parts += [study.says(results) if study.says else "", _drawn(results, f"-{scale}", f", scale {scale}")]
    if results.there or (scale == "paper" and study.printed):
        parts.append(markdown(results))
    return "\n\n".join(part for part in parts if part)


def _drawn(results: Results, suffix: str = "", label: str = "") -> str:
    """Draw a study's figure; its link, or nothing where there is no figure or no run."""
    study = results.study
    figure = study.figure(results) if study.figure else None
    if figure is None:
        return ""
    path = FIGURES / f"paper-{study.name}{suffix}.svg"
    write_figure(path, figure, study.title + label)
    return f"![{study.title}{label}](../figures/{path.name})"


def _figure_page(name: str) -> str:
    """A figure, what it shows, and the checks behind it."""
    results = committed(name, "paper")
    study, records = results.study, results.records
    options = "" if study.packed else " --scale paper"
    parts = [f"# {study.title}", study.about(), f"    python -m studies {name}{options}"]
    if records:
        parts += [_drawn(results), study.says(results) if study.says else ""]
        parts += [one.markdown() for one in tables(results)]
        parts += [f"{_sentence(provenance(records))}."] * bool(study.packed)
    else:
        parts.append("Not run.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _settings_page() -> str:
    results = committed("settings", "paper")
    study = results.study
    said = study.says(results) if study.says else ""
    rows = "\n\n".join(one.markdown() for one in tables(results))
    return "\n\n".join([f"# {study.title}", study.about(), said, facts(results), rows, arms_used()]) + "\n"


_LEGEND = "[Scales, arms and columns](README.md#scales) are those of every page here."
_INTRO = (
    "Each page compares the printed numbers with ours: with the paper's settings as far as they can be inferred, and "
    "with our defaults. Cells without a record say *not run*."
)
_READING = (
    "## Columns\n\nRuns of a row share their worlds; plain and anchored runs are scored on the same features, those "
    "without an anchor. ± is half a 95 % Student t interval over the worlds; with three worlds t is 4.30, so intervals "
    "are wide. The tables of differences give the least and the most over the rows of a table, and in how many rows "
    "the interval lies above 0, lies below or holds 0; a row of one world has none."
)
_RUNNING = (
    "## How to run\n\n    python -m studies                               # what there is\n"
    "    python -m studies table7 --scale nano           # a minute\n"
    "    python -m studies table7 table1 --scale paper   # hours; resumes anywhere\n"
    "    python -m studies pages paper                   # these pages"
)


def _share(name: str, scale: str) -> str:
    results = committed(name, scale)
    return f"{results.there} of {len(results.outcomes)}" if results.there else "not run"


def _index() -> str:
    rows = [("study", "", "cells run, scale paper", "scale mini")]
    rows += [(f"[{n}]({n}.md)", STUDIES[n].title, _share(n, "paper"), _share(n, "mini")) for n in PAGES]
    rows += [(f"[{n}]({n}.md)", STUDIES[n].title, "-", "-") for n in DRAWN]
    rows.append(("[settings](settings.md)", "Settings not given", _share("settings", "paper"), "-"))
    rows += [(f"[{n}](../real/{page}.md)", STUDIES[n].title, "-", _share(n, "mini")) for n, page in REAL.items()]
    known = {*PAGES, *DRAWN, "settings", "README"}
    more = [f"- [{path.stem}]({path.name})" for path in sorted(DOCS.glob("*.md")) if path.stem not in known]
    also = ["See also:", "\n".join(more)] if more else []
    arms = "\n".join(f"- `{arm}`: {what}." for arm, what in ARMS.items())
    scales = "\n".join(f"- `{scale}`: {what}." for scale, what in SCALES_ABOUT.items())
    columns = "\n".join(f"- *{column}*: {what}." for column, what in MEANING.items())
    title = "# The paper's experiments, beside its numbers"
    parts = [title, _INTRO, table(rows), *also, f"## Scales\n\n{scales}", f"## Arms\n\n{arms}", _READING, columns]
    return "\n\n".join([*parts, _RUNNING]) + "\n"


def main() -> None:
    """Write every page and figure."""
    pages = {name: _page(name) for name in PAGES} | {name: _figure_page(name) for name in DRAWN}
    for name, text in (pages | {"settings": _settings_page(), "README": _index()}).items():
        write_generated(DOCS / f"{name}.md", "paper", text)

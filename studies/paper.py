"""docs/paper/ and its figures, from the records of `monosem study` alone: python -m studies.paper."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from monosem.base.errors import DataError
from monosem.report.style import to_svg
from studies import untrained
from studies.bench.base import ARMS, SCALES, Study
from studies.bench.catalog import STUDIES
from studies.bench.queue import Outcome, outcomes
from studies.paper_settings import settings_page
from studies.paper_words import ABOUT, ABOUT_SCALES, statements
from studies.real.catalog import REAL_STUDIES
from studies.report.study import MEANING, cells, facts, study_table
from studies.report.study_drawn import DRAWN
from studies.report.study_figures import study_figure
from studies.report.study_real import real_records
from studies.stored import packed, stored

DOCS, FIGURES = Path("docs/paper"), Path("docs/figures")
NOTE = "<!-- Generated from records by `python -m studies.paper`; do not edit. -->\n\n"
PAGES = ("table1", "table4", "table5", "table6", "table7", "figure6", "samples", "convergence")


def found_at(study: Study, scale: str) -> list[Outcome]:
    """A study's runs at a scale, from the committed records."""
    return _read(study.name, scale)


@cache
def _read(name: str, scale: str) -> list[Outcome]:
    return outcomes(STUDIES[name], SCALES[scale], packed(f"study-{scale}"))


def section(study: Study, scale: str, figures: bool = True) -> str:
    """One scale of a study: what was run, what it says, figure and tables."""
    found = found_at(study, scale)
    made = cells(study, found)
    ran = any(record is not None for _, _, record in found)
    parts = [f"## At scale {scale}", f"{facts(found)} Scale: {ABOUT_SCALES[scale]}."]
    if ran:
        parts.append(statements(study, made, scale == "paper"))
        figure = study_figure(study, found) if figures else None
        if figure is not None:
            name = f"paper-{study.name}-{scale}.svg"
            (FIGURES / name).write_text(to_svg(figure, f"{study.title}, scale {scale}"))
            parts.append(f"![{study.title}, scale {scale}](../figures/{name})")
    if ran or (scale == "paper" and study.printed):
        parts.append(study_table(study, found).strip())
    return "\n\n".join(part for part in parts if part)


def page(study: Study) -> str:
    """A study's page."""
    command = f"    monosem study {study.name} --scale paper --out records/studies/paper"
    legend = "\n".join(f"- *{name}*: {what}." for name, what in MEANING.items())
    parts = [f"# {study.title}", ABOUT[study.name](), command]
    parts += [section(study, scale) for scale in ABOUT_SCALES]
    parts += [part for part in [untrained.section()] if part and study.name == "table1"]
    return NOTE + "\n\n".join([*parts, f"## Columns\n\n{legend}"]) + "\n"


def heat_maps_page(name: str = "figure9") -> str:
    """Figure 9 as far as it can be: drawn here from table 1's records."""
    one = DRAWN[name]
    try:
        figure, _, text = one.make(packed("study-paper"), SCALES["paper"])
    except DataError:
        return f"{NOTE}# {one.title}\n\n{DRAWN_ABOUT[name]}\n\nNot run.\n"
    (FIGURES / f"paper-{name}.svg").write_text(to_svg(figure, one.title))
    command = f"    monosem study {name} --scale paper --out records/studies/paper"
    parts = [f"# {one.title}", DRAWN_ABOUT[name], command, f"![{one.title}](../figures/paper-{name}.svg)", text]
    return NOTE + "\n\n".join(parts) + "\n"


def drawn_page(name: str, about: str) -> str:
    """Figure 4 or 5: what its record says, and its picture."""
    record = stored(f"drawn/{name}")
    title = DRAWN[name].title
    command = f"    monosem study {name} --out records/studies/drawn"
    if record is None:
        return f"{NOTE}# {title}\n\n{about}\n\n{command}\n\nNot run.\n"
    lines = [
        f"| `{check}` | {one['claim']} | {'yes' if one['verdict']['holds'] else 'NO'} | {one['verdict']['trials']} | "
        f"{sum(case['caught'] for case in one['counter_cases'].values())} of {len(one['counter_cases'])} |"
        for check, one in record.get("checks", {}).items()
    ]
    head = ["| check | claim | holds | random cases | counter-cases caught |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *lines]) if lines else ""
    commit = str(record["env"]["commit"])[:12]
    parts = [f"# {title}", about, command, f"![{title}](../figures/paper-{name}.svg)", record["shows"], table]
    return NOTE + "\n\n".join(part for part in [*parts, f"Commit {commit}."] if part) + "\n"


_EXAMPLES = (
    "Images of scikit-learn's digits, which need no download. [Figure 10](figure10.md) is without anchoring, [figure "
    "11](figure11.md) with it. **With a reservation:** our copy of the paper's text says that figures 10 and 11 show "
    "top-activating examples without and with anchoring, not which shows what. Any dictionary can be looked at in this "
    "way: [inspect](../inspect.md)."
)
DRAWN_ABOUT = {
    "figure4": "Theorem 3.4 in four arrows; the whole story is in [zero loss](../theory/zero-loss.md).",
    "figure5": "Example 3.7: a latent for Dog, and a breed that gets a latent of its own; the Dog latent then stays "
    "silent "
    "on it. The construction is the repaired one of [absorption](../theory/absorption.md), which also measures "
    "absorption "
    "in training.",
    "figure9": "**With a reservation:** our copy of the paper's text does not say what figure 9 shows. Heat maps of "
    "the "
    "similarity between true features and latents are our guess.",
    "figure10": _EXAMPLES,
    "figure11": _EXAMPLES,
}
REAL = {"table2": ("classes", "real-classes"), "figure7": ("resampling", "real-resampling")}
"""Studies on real rows: the page in docs/real and the packed file of the records."""


_INTRO = (
    "Each page sets the printed numbers beside ours: with the paper's settings as far as they can be inferred, and "
    "with our defaults. Cells without a record say *not run*.\n"
)
_READING = (
    "## How to read a row\n\nRuns of a row share their worlds; plain and anchored runs are scored on the same "
    "features, those beyond the anchored ones. *raw* is the paper's metric (inner products of encoder rows), *cosine* "
    "ours (|cos| of decoder columns), *all* counts every feature. ± is half a 95 % Student t interval over the "
    "worlds; with three worlds t is 4.30, so intervals are wide.\n"
)
_RUNNING = (
    "## How to run\n\n    monosem study                                   # what there is\n"
    "    monosem study table7 --scale nano               # a minute\n"
    "    monosem study table7 table1 --scale paper --out records/studies/paper   # hours; resumes anywhere\n"
    "    python -m studies.paper                           # these pages\n"
)


def _share(found: Sequence[Outcome]) -> str:
    there = sum(record is not None for _, _, record in found)
    return f"{there} of {len(found)}" if there else "not run"


def index() -> str:
    """The index."""
    rows = [
        f"| [{name}]({name}.md) | {STUDIES[name].title} | {_share(found_at(STUDIES[name], 'paper'))} | "
        f"{_share(found_at(STUDIES[name], 'mini'))} |"
        for name in PAGES
    ]
    rows += [f"| [{name}]({name}.md) | {DRAWN[name].title} | - | - |" for name in DRAWN_ABOUT]
    rows.append(
        f"| [settings](settings.md) | Settings not given | {_share(found_at(STUDIES['settings'], 'paper'))} | - |"
    )
    for name, (where, folder) in REAL.items():
        jobs = REAL_STUDIES[name].at("mini")
        there = len(real_records(jobs, packed(folder)))
        rows.append(f"| [{name}](../real/{where}.md) | {REAL_STUDIES[name].title} | - | {there} of {len(jobs)} |")
    more = [f"- [{path.stem}]({path.name})" for path in sorted(DOCS.glob("*.md")) if path.stem not in _known()]
    arms = "\n".join(f"- `{arm}`: {what}." for arm, what in ARMS.items())
    return NOTE + "\n".join(
        [
            "# The paper's experiments, beside its numbers\n",
            _INTRO,
            "| study | | cells run, scale paper | scale mini |\n|---|---|---|---|",
            *rows,
            *(["", "See also:", "", *more] if more else []),
            "",
            f"## Arms\n\n{arms}\n",
            _READING,
            _RUNNING,
        ]
    )


def _known() -> set[str]:
    return {*PAGES, *DRAWN_ABOUT, "settings", "README"}


def main() -> None:
    """Write every page and figure."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (DOCS / f"{name}.md").write_text(page(STUDIES[name]))
    for name, about in DRAWN_ABOUT.items():
        made = heat_maps_page() if name == "figure9" else drawn_page(name, about)
        (DOCS / f"{name}.md").write_text(made)
    (DOCS / "settings.md").write_text(NOTE + settings_page(found_at(STUDIES["settings"], "paper")))
    (DOCS / "README.md").write_text(index())


if __name__ == "__main__":
    main()

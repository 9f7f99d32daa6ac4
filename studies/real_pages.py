"""Tables and figures of docs/real/ from records alone: python -m studies.real_pages."""

import re
from pathlib import Path

from examples import real_absorption
from monosem.bench.records import read_records
from monosem.report.style import to_svg
from studies.report.study_real import real_figure, real_markdown

DOCS, FIGURES, RECORDS = Path("docs/real"), Path("docs/figures"), Path("records")

FIGURES_OF = (
    (
        "table2",
        "real-classes",
        "real-classes.svg",
        "Class means found by plain and anchored dictionaries, held out and all",
    ),
    (
        "figure7",
        "resampling",
        "real-resampling.svg",
        "Dead latents and error over training, with no remedy and with four",
    ),
)
"""(study, folder of its records, file, title) of the figures here."""


def tables() -> dict[str, str]:
    """Every generated table by the name in its marker."""
    absorbed = read_records(RECORDS / "real-absorption")
    sets = sorted({record["task"]["name"] for record in absorbed})
    return {
        "classes": real_markdown("table2", read_records(RECORDS / "real-classes")),
        "resampling": real_markdown("figure7", read_records(RECORDS / "resampling")),
        **{
            data.partition("/")[2]: real_absorption.report([r for r in absorbed if r["task"]["name"] == data], data)
            for data in sets
        },
    }


def filled(text: str, found: dict[str, str]) -> str:
    """A page with its tables: whatever stands between `<!-- table: NAME -->` and `<!-- end -->` is replaced."""

    def put(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{found[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", put, text, flags=re.S)


def main() -> None:
    """Fill every page, draw every figure."""
    found = tables()
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(filled(page.read_text(), found))
    for name, folder, file, title in FIGURES_OF:
        figure = real_figure(name, read_records(RECORDS / folder))
        assert figure is not None
        (FIGURES / file).write_text(to_svg(figure, title))
    absorbed = read_records(RECORDS / "real-absorption")
    for data in sorted({record["task"]["name"] for record in absorbed}):
        name = data.partition("/")[2]
        real_absorption.draw(
            [r for r in absorbed if r["task"]["name"] == data], data, FIGURES / f"absorption-{name}.svg"
        )


if __name__ == "__main__":
    main()

"""Tables and figures of docs/real/ from records alone: python -m tools.real_pages."""

import re
from pathlib import Path

from examples import real_absorption, real_embeddings, real_resampling
from monosem.bench.records import read_records

DOCS, FIGURES, RECORDS = Path("docs/real"), Path("docs/figures"), Path("records")


def tables() -> dict[str, str]:
    """Every generated table by the name in its marker."""
    absorbed = read_records(RECORDS / "real-absorption")
    sets = sorted({record["task"]["name"] for record in absorbed})
    return {
        "classes": real_embeddings.report(read_records(RECORDS / "real-classes")),
        "resampling": real_resampling.report(read_records(RECORDS / "resampling")),
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
    real_embeddings.draw(read_records(RECORDS / "real-classes"), FIGURES / "real-classes.svg")
    real_resampling.draw(read_records(RECORDS / "resampling"), FIGURES / "real-resampling.svg")
    absorbed = read_records(RECORDS / "real-absorption")
    for data in sorted({record["task"]["name"] for record in absorbed}):
        name = data.partition("/")[2]
        real_absorption.draw(
            [r for r in absorbed if r["task"]["name"] == data], data, FIGURES / f"absorption-{name}.svg"
        )


if __name__ == "__main__":
    main()

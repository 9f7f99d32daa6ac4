"""Figures of the README and the docs, from committed records alone: python -m studies.figures."""

from pathlib import Path

from monosem.bench.records import read_records
from monosem.report.figures import recovery_figure, tau_figure
from monosem.report.style import to_svg
from monosem.report.summary import sections

OUT = Path("docs/figures")


def main() -> None:
    """Write every figure."""
    OUT.mkdir(parents=True, exist_ok=True)
    (section,) = sections(read_records("records/mini-hard"))
    label = "Recovery of features that were not anchored, per method, plain and anchored"
    (OUT / "recovery.svg").write_text(to_svg(recovery_figure(section), label))
    (OUT / "tau.svg").write_text(to_svg(tau_figure(section), "M_GT against tau, per method, plain and anchored"))


if __name__ == "__main__":
    main()

"""Every page and figure that is made from records, anew: python -m studies.pages [NAME ...], or `make pages`.

Nothing is run or measured: what no record holds stays as it is, or says that it was not run.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from studies import (
    absorption,
    anchoring,
    classical_page,
    discovery,
    figures,
    paper,
    real_pages,
    search_tables,
    tables,
)

PAGES: Mapping[str, Callable[[], None]] = {
    "tables": tables.main,
    "figures": figures.main,
    "paper": paper.main,
    "anchoring": anchoring.main,
    "discovery": lambda: discovery.main(["page"]),
    "classical": classical_page.main,
    "real": real_pages.main,
    "absorption": absorption.main,
    "search": search_tables.main,
}
"""What writes which: the defaults, benchmarks and README; figures of both; docs/paper; the rest by its page's name."""


def main(names: Sequence[str] = ()) -> None:
    """Write the named pages, or all."""
    for name in names or PAGES:
        started = time.perf_counter()
        PAGES[name]()
        print(f"{name:<10} {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Every page and figure that is made from records: `python -m studies pages [NAME ...]`, or `make pages`.

Nothing is run or measured: what no record holds stays as it is, or says that it was not run. RUNS are the studies that
are no table of the paper: `python -m studies classical sweep` hands `sweep` to the function of that name.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from monosem.cli.catalog import write_catalog
from studies import (
    absorption,
    board,
    board_rows,
    classical,
    commands,
    discovery,
    families,
    field,
    finetuned,
    fitted,
    lenses,
    live,
    network,
    phase,
    probing,
    real_absorption,
    real_pages,
    recovery,
    results,
    revival,
    sample_law,
    stability,
    steering,
    synthsae,
    target_l0,
    tuning,
    world3d,
)
from studies.paper import anchoring_page, docs
from studies.theory import claims, search, walls

_BOTH = (
    absorption, board, board_rows, classical, discovery, families, field, finetuned, fitted, lenses, live, network,
    phase, probing, real_absorption, recovery, revival, sample_law, search, stability, synthsae, target_l0, tuning,
)  # fmt: skip
_BY_NAME = {module.__name__.rpartition(".")[2]: module for module in _BOTH}
PAGES: Mapping[str, Callable[[], None]] = {
    "catalog": write_catalog,
    "commands": commands.page,
    "readme": results.readme_page,
    "benchmarks": results.benchmarks_page,
    "defaults": results.defaults_page,
    "paper": docs.main,
    "anchoring": anchoring_page.main,
    "real": real_pages.page,
    "traps": walls.part,
    "stories": network.stories_page,
    **{name: module.page for name, module in _BY_NAME.items()},
}
RUNS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "claims": claims.main,
    "steering": steering.main,
    "stories": network.stories,
    "traps": walls.main,
    "world3d": world3d.main,
    **{name: module.main for name, module in _BY_NAME.items()},
}
"""What each takes is in the first lines of its module."""


def main(names: Sequence[str] = ()) -> None:
    """Write the named pages, or all."""
    for name in names or PAGES:
        started = time.perf_counter()
        PAGES[name]()
        print(f"{name:<15} {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)

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
    classical,
    commands,
    discovery,
    field,
    finetuned,
    lenses,
    live,
    network,
    real_absorption,
    real_pages,
    recovery,
    results,
    revival,
    steering,
    synthsae,
    target_l0,
    tuning,
    world3d,
)
from studies.paper import anchoring_page, docs
from studies.theory import claims, search, walls

PAGES: Mapping[str, Callable[[], None]] = {
    "catalog": write_catalog,
    "commands": commands.page,
    "readme": results.readme_page,
    "benchmarks": results.benchmarks_page,
    "defaults": results.defaults_page,
    "paper": docs.main,
    "anchoring": anchoring_page.main,
    "discovery": discovery.page,
    "classical": classical.page,
    "field": field.page,
    "real": real_pages.page,
    "real_absorption": real_absorption.page,
    "absorption": absorption.page,
    "search": search.page,
    "traps": walls.part,
    "network": network.page,
    "lenses": lenses.page,
    "recovery": recovery.page,
    "revival": revival.page,
    "stories": network.stories_page,
    "finetuned": finetuned.page,
    "live": live.page,
    "synthsae": synthsae.page,
    "target_l0": target_l0.page,
    "tuning": tuning.page,
    "board": board.page,
}
RUNS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "absorption": absorption.main,
    "claims": claims.main,
    "classical": classical.main,
    "discovery": discovery.main,
    "field": field.main,
    "network": network.main,
    "real_absorption": real_absorption.main,
    "lenses": lenses.main,
    "recovery": recovery.main,
    "revival": revival.main,
    "steering": steering.main,
    "stories": network.stories,
    "finetuned": finetuned.main,
    "live": live.main,
    "search": search.main,
    "traps": walls.main,
    "synthsae": synthsae.main,
    "target_l0": target_l0.main,
    "tuning": tuning.main,
    "board": board.main,
    "world3d": world3d.main,
}
"""What each takes is in the first lines of its module."""


def main(names: Sequence[str] = ()) -> None:
    """Write the named pages, or all."""
    for name in names or PAGES:
        started = time.perf_counter()
        PAGES[name]()
        print(f"{name:<15} {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)

"""Table 7: TopK by its k."""

from collections.abc import Iterator

from studies.engine.bench import arms
from studies.engine.figures import curve_figure
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study, printed
from studies.engine.words import printed_share, statements
from studies.paper import table1

PRINTED = printed(
    {
        "k = 32": ((100.0, 0.999), (100.0, 0.999)),
        "k = 64": ((93.9, 0.992), (93.4, 0.991)),
        "k = 128": ((86.7, 0.986), (88.0, 0.987)),
    }
)
"""Source: Tang et al. (arXiv 2512.05534 v3), table 7."""


def _runs(scale: Scale) -> Iterator[Entry]:
    for k in (32, 64, 128):
        text = f"topk(k={scale.k(k)}, aux=0.0)"
        yield from arms(scale, f"k = {k}", "topk", scale.base, ("paper", "paper+anchors", "ours+discovered"), text=text)


def _about() -> str:
    k = ", ".join(f"{row}: {printed_share(PRINTED, row, arm):g}" for row, arm in PRINTED if arm == "paper")
    plain, anchored = (printed_share(PRINTED, "k = 64", arm) for arm in ("paper", "paper+anchors"))
    return (
        f"**The printed numbers turn on k.** Printed plain M_GT by k: {k}; table 1's TopK has "
        f"{printed_share(table1.PRINTED, 'topk', 'paper'):g} at a k that is not given. 10 features are active on "
        "average, so k = 128 leaves 118 latents for nothing. With k = 32 the printed number is complete without any "
        f"anchor. At k = 64 the printed anchored run is lower than the plain one ({plain:g} to {anchored:g})."
    )


STUDY = Study(
    "table7",
    "Table 7: TopK by its k",
    _runs,
    PRINTED,
    _about,
    statements,
    figure=curve_figure("k (10 features are active on average)", log=True),
)

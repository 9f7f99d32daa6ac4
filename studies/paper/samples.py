"""How many samples recovery takes, which the paper leaves open."""

from collections.abc import Iterator

from studies.engine.bench import arms
from studies.engine.figures import curve_figure
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study
from studies.engine.words import statements


def _runs(scale: Scale) -> Iterator[Entry]:
    """Recovery against the number of rows that training sees over and over."""
    for times in (4, 10, 30, 100, 300):
        for name in ("relu_l1", "topk", "batch_topk"):
            task = scale.vary(rows=times * scale.base.world.n)
            yield from arms(scale, f"{times} n rows, {name}", name, task, ("ours", "ours+discovered"))


def _about() -> str:
    return (
        "The paper leaves open how many samples recovery takes (its appendix F). Here training sees the same rows over "
        "and over, from 4 to 300 per true direction; discovery sees exactly those rows too."
    )


STUDY = Study(
    "samples",
    "Recovery against the number of samples",
    _runs,
    about=_about,
    says=statements,
    figure=curve_figure("rows over n", log=True),
)

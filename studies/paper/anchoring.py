"""What anchoring does to features that are not anchored: by number, weight, quality and form of the anchors."""

from collections.abc import Iterator
from dataclasses import replace

from monosem import Anchoring, WorldSpec
from monosem.anchors import PRINTED
from monosem.bench import Independent, Task, Zipf
from monosem.train import Ramp
from studies.engine.bench import BenchRun
from studies.engine.scale import Scale
from studies.engine.study import Entry, Study

SHORT = 4
"""Most TopK runs take the scale's steps over this; ReLU + L1 has found next to nothing by then and takes them all."""
WEIGHTS = (0.01, 0.1, 1.0, 10.0)
NOISE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
LOOSE_NOISE = (0.8, 0.9, 0.95)
LOOSE = {"start only": "start only", "annealed": "decoder, start, annealed"}
"""Forms that let go of their anchors, which are tried on noisy ones too: the column's name to the form's."""
WRONG = (0.1, 0.3, 0.5)
FORMS = {
    "start only": Anchoring(weight=0.0),
    "decoder, start": Anchoring(),
    "decoder, no start": Anchoring(init=False),
    "both, start": Anchoring(sides="both"),
    "both, no start": Anchoring(sides="both", init=False),
    "encoder, start": Anchoring(sides="encoder"),
    "decoder, start, direction": Anchoring(form="direction"),
    "both, start, direction": Anchoring(sides="both", form="direction"),
    "decoder, start, annealed": Anchoring(weight=Ramp(1.0, 0.0)),
    "decoder, start, hard": Anchoring(hard=True),
    "both, start, hard": Anchoring(sides="both", hard=True),
}
"""Forms of anchoring by name; those that a penalty holds have weight 1 unless the name says otherwise."""

CROWDED_TASK = Task("crowded", 1, WorldSpec(1000, (96, 96), 0.15, Independent(0.98)), n_q=2000, anchors=100)
"""1000 features in 96 dimensions, 20 of them active, an endless stream: ten features to a dimension."""


def zipf_task(scale: Scale) -> Task:
    """The scale's task with rates that fall as 1 over the rank, at the same mean rate, and four times the rows."""
    world = scale.base.world
    law = world.law
    assert isinstance(law, Independent)
    rows = None if world.rows is None else 4 * world.rows
    zipf = Zipf(mean_rate=round(1.0 - law.sparsity, 9))
    return replace(scale.base, name=f"{scale.base.name}-zipf", world=replace(world, law=zipf, rows=rows))


def _anchoring(scale: Scale) -> Iterator[Entry]:
    """Every run is scored beyond the largest k, twice the task's usual number: plain ones too."""
    usual, most = scale.base.anchors, 2 * scale.base.anchors
    config = replace(scale.config, steps=scale.config.steps // SHORT)
    base = BenchRun(scale.base, scale.recipe("topk"), 0, config, held_out=most, study="anchoring")
    anchored = replace(base, anchors=usual)
    yield Entry("topk", "plain", base)
    for name, form in FORMS.items():
        yield Entry("topk, form", name, replace(anchored, anchoring=form))
    for weight in WEIGHTS:
        yield Entry(f"topk, weight {weight}", "printed", replace(anchored, anchoring=replace(PRINTED, weight=weight)))
        yield Entry(f"topk, weight {weight}", "default", replace(anchored, anchoring=Anchoring(weight=weight)))
    for k in (usual // 4, usual // 2, usual, most):
        yield Entry(f"topk, k = {k}", "default", replace(anchored, anchors=k))
        yield Entry(f"topk, k = {k}", "printed", replace(anchored, anchors=k, anchoring=PRINTED))
    for cosine in NOISE:
        noisy = replace(anchored, given=f"noisy(cosine={cosine})")
        yield Entry(f"topk, cosine {cosine}", "default", noisy)
        for arm, loose in LOOSE.items() if cosine in LOOSE_NOISE else ():
            yield Entry(f"topk, cosine {cosine}", arm, replace(noisy, anchoring=FORMS[loose]))
    for share in WRONG:
        yield Entry(f"topk, wrong {share}", "default", replace(anchored, given=f"wrong(share={share})"))
    zipf = replace(base, task=zipf_task(scale))
    yield Entry("topk, zipf", "plain", zipf)
    yield Entry("topk, zipf", "all", replace(zipf, anchors=usual))
    for half in ("frequent", "rare"):
        yield Entry("topk, zipf", half, replace(zipf, anchors=most, among=half))
    whole = replace(base, config=scale.config)
    yield Entry("topk, full length", "plain", whole)
    for name in ("decoder, start", "start only"):
        yield Entry("topk, full length", name, replace(whole, anchors=usual, anchoring=FORMS[name]))
    relu = replace(base, method=scale.recipe("relu_l1"), config=scale.config)
    yield Entry("relu_l1", "plain", relu)
    for name in ("start only", "decoder, start", "decoder, no start", "both, start", "both, no start"):
        yield Entry("relu_l1, form", name, replace(relu, anchors=usual, anchoring=FORMS[name]))
    yield Entry("relu_l1, form", "printed", replace(relu, anchors=usual, anchoring=PRINTED))


def _crowded(scale: Scale) -> Iterator[Entry]:
    """Far more features than dimensions: the regime in which the printed form was seen to destroy recovery."""
    if scale.name != "mini-hard":
        return
    text = "topk(k=20)"
    config = replace(scale.config, steps=1000)
    plain = BenchRun(CROWDED_TASK, text, 0, config, held_out=CROWDED_TASK.anchors, study="crowded")
    anchored = replace(plain, anchors=CROWDED_TASK.anchors)
    yield Entry("topk", "plain", plain)
    for name in ("both, no start", "decoder, start", "start only", "both, start, direction"):
        yield Entry("topk", name, replace(anchored, anchoring=FORMS[name]))
    there = replace(anchored, anchoring=FORMS["both, start, direction"])
    yield Entry("topk", "learned rows", replace(there, given=f"learned(text='{text}', steps={config.steps})"))
    yield Entry("topk", "suppressing rows", replace(there, given="suppressing"))
    yield Entry("topk", "printed, weight 0.01", replace(anchored, anchoring=replace(PRINTED, weight=0.01)))
    yield Entry("topk", "decoder, no start", replace(anchored, anchoring=FORMS["decoder, no start"]))
    yield Entry("topk", "printed, weight 100", replace(anchored, anchoring=replace(PRINTED, weight=100.0)))
    yield Entry("topk", "both, start, hard", replace(anchored, anchoring=FORMS["both, start, hard"]))


ANCHORING = Study("anchoring", "What anchoring does to features that are not anchored", _anchoring)
CROWDED = Study("crowded", "Anchoring 100 of 1000 features in 96 dimensions", _crowded, seeds=(0, 1, 2))

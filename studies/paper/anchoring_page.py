"""docs/paper/anchoring.md and its figures, from records alone."""

from collections.abc import Iterable
from pathlib import Path

from monosem.bench.records import read_records
from monosem.report.interval import Interval
from monosem.report.style import to_svg
from studies.catalog import committed
from studies.engine.cells import Results
from studies.engine.scale import SCALES
from studies.engine.tables import facts
from studies.page import write_generated
from studies.paper.anchoring import FORMS, LOOSE, LOOSE_NOISE, NOISE, WEIGHTS, WRONG
from studies.paper.anchoring_tables import (
    against_default,
    beyond_default,
    by_form,
    chosen,
    encoder_rows,
    forms,
    longer,
    rows_of,
    said,
    sweeps,
)
from studies.stored import packed

LONGER, CHOSEN = packed("bench-mini-hard"), packed("sweep-anchoring")
PAGE, FIGURES = Path("docs/paper/anchoring.md"), Path("docs/figures")
TURNED = (("topk", "plain"), ("topk, form", "decoder, start"), ("topk, form", "both, no start"), ("relu_l1", "plain"))
ASKED = {
    "the start alone": "start only",
    "the penalty alone, decoder": "decoder, no start",
    "the penalty alone, both sides": "both, no start",
    "start and penalty, decoder": "decoder, start",
    "start and penalty, both sides": "both, start",
    "start and penalty, encoder": "encoder, start",
    "hard, decoder": "decoder, start, hard",
    "hard, both sides": "both, start, hard",
}
TEXT = """\
# What anchoring does

k latents start at known directions and are held there ([anchoring](../anchoring.md)). That these k are found says
nothing; this page asks what it does to the features that **no run anchors**.

    gain     = M_GT of the anchored run - M_GT of the plain run        same world, same seeds, same held-out features
    leverage = gain x number of held-out features / k                  extra features recovered per anchor

Everything below is on `lrb/mini-hard` unless it says otherwise: 300 features in 96 dimensions, 6 active per row, 1400
rows, 2000 latents. Numbers are points of decoder M_GT(.95), ± half the 95 % t interval of the paired differences over
worlds; **a line with one world has no interval and shows a direction at most**. "default" is `Anchoring()`: slots start
at the anchors, decoder columns are held with weight 1. "printed" is the paper's form: both sides held, no start,
weight .1.

TopK takes a quarter of the task's usual steps, where its plain recovery has settled; ReLU + L1 has found next to
nothing by then and takes them all. The section "Longer runs" is at full length for every method. Repeat or complete
the page with `python -m studies anchoring crowded --scale mini-hard`, then
`python -m studies pages anchoring`; what has not been run says so.

{facts}

## In short

{short}

What helps the other features is the **start** at the anchors, with encoder rows free. Holding decoder columns adds next
to nothing to a start, and does next to nothing without one; holding encoder rows too costs most of what a start gives.
And a penalty keeps the errors of noisy anchors in, which a start alone lets the data correct. The forms are compared at
a quarter of the steps; at full length the start alone was behind the default in the two worlds of the sweep, by less
than their intervals.

![gain against number, weight, noise and errors of the anchors](../figures/paper-anchoring.svg)

## How many anchors

{said_k}

{k}

## How strongly they are held

{said_weight}

{weight}

## Which form

{said_forms}

{forms}

![gain by form](../figures/paper-anchoring-forms.svg)

Hollow: one world, no interval. The first figure leaves such points out.

### ReLU + L1

{said_relu}

{relu}

### The forms at full length, in the worlds that the default was chosen on

Gains of 60 anchors over plain runs, 1500 steps, worlds 100 and 101 (two worlds: wide intervals).

{chosen}

## Anchors that are not quite right

Each anchor is turned away from the truth in a direction of its own, to the cosine that stands there. The default form
holds the decoder to the noisy direction; "start only" leaves it to the data, "annealed" lets go of it over the run.

{said_noise}

{noise}

## Anchors that are wrong

A share of the anchors is replaced by random directions; leverage counts these too. {said_wrong}

{wrong}

## Frequent or rare features

Rates fall as 1 over the rank at the same mean rate, four times the rows; "frequent" and "rare" anchor the features of
the upper and lower half of the ranks among the first 120 of the order, "all" the first 60. {said_zipf}

{zipf}

## Longer runs

The bench's own records at 1500 steps, all seven methods, 60 anchors of the default form, scored on the other 240.

{longer}

The shipped default against the start alone at full length, scored beyond 120 as above:

{whole}

## Far more features than dimensions

1000 features in 96 dimensions, 20 active, TopK with k = 20, an endless stream, 1000 steps, 100 anchors, scored on the
other 900. A prototype had seen the printed form at weight 1 destroy recovery here (M_GT .75 to .001), and suspected
encoder rows pinned at w_p against the interference-suppressing rows that training wants. "learned rows" and
"suppressing rows" anchor the encoder elsewhere, with the decoder at the truth: at the rows that a run with a free
encoder ended with, and at the best linear detectors Cov(x_p)^-1 w_p.

{said_crowded}

{crowded_facts}

{crowded}

### What encoder rows do when they are free

|cos| with w_p of the encoder row that is nearest to each held-out feature, and the largest raw product <w_E, w_p>,
averaged over features. The suspicion needs rows that turn away from w_p in the crowded world.

{crowded_rows}

## The default

{said_default}
"""


class Gains:
    """The gains of a study's runs, in words."""

    def __init__(self, results: Results) -> None:
        self.cells = results.by_place

    def said(self, row: str, arm: str) -> str:
        """Gain of an arm over the plain run."""
        cell = self.cells.get((row, arm))
        return said(cell.gain() if cell else None)

    def beyond_default(self, row: str, arm: str) -> Interval | None:
        """An arm minus the default form of its row, world by world."""
        one, other = self.cells.get((row, arm)), self.cells.get((row, "default"))
        return beyond_default(one, other) if one and other else None

    @property
    def ks(self) -> list[int]:
        """Numbers of anchors."""
        return sorted({int(row.split("= ")[1]) for row, _ in self.cells if row.startswith("topk, k = ")})

    def listed(self, places: Iterable[tuple[str, str, str]]) -> str:
        """Gains by label."""
        gains = (f"{label}: {self.said(row, arm)}" for label, row, arm in places if (row, arm) in self.cells)
        return "; ".join(gains) or "not run"


def sentences(one: Gains, two: Gains) -> dict[str, str]:
    """What the page says, from the records."""
    usual, exact = SCALES["mini-hard"].base.anchors, one.said("topk, form", "decoder, start")

    def over(arm: str, label: str, row: str, values: Iterable[object]) -> str:
        return one.listed((label.format(value), f"topk, {row} {value}", arm) for value in values)

    forms = {
        method: f"Gain of {usual} anchors by what is done: "
        + one.listed((label, f"{method}, form", form) for label, form in ASKED.items())
        + "."
        for method in ("topk", "relu_l1")
    }
    noise = f"Default form: {over('default', '{}', 'cosine', NOISE)}; exact: {exact}."
    for arm, form in LOOSE.items():
        gains = ((c, one.beyond_default(f"topk, cosine {c}", arm)) for c in LOOSE_NOISE)
        noise += (
            f" {arm.capitalize()}: {over(arm, '{}', 'cosine', LOOSE_NOISE)}; exact: {one.said('topk, form', form)}; "
            "against the default in the same worlds, "
            + "; ".join(f"{c}: {said(value)}" for c, value in gains if value)
            + "."
        )
    better, worse, same = (", ".join(names) or "none" for names in against_default(one.cells, "topk"))
    return {
        "said_k": f"Default form: {over('default', 'k = {}', 'k =', one.ks)}. "
        f"Printed form: {over('printed', 'k = {}', 'k =', one.ks)}.",
        "said_weight": f"Printed form: {over('printed', 'λ = {}', 'weight', WEIGHTS)}. "
        f"Default form: {over('default', 'λ = {}', 'weight', WEIGHTS)}. "
        f"No penalty at all, only the start: {one.said('topk, form', 'start only')}.",
        "said_forms": forms["topk"],
        "said_relu": forms["relu_l1"],
        "said_noise": noise,
        "said_wrong": f"{over('default', '{:.0%}', 'wrong', WRONG)}; none wrong: {exact}.",
        "said_zipf": one.listed((arm, "topk, zipf", arm) for arm in ("all", "frequent", "rare")) + ".",
        "said_crowded": f"Here: {two.listed((arm, 'topk', arm) for _, arm in two.cells if arm != 'plain')}.",
        "said_default": f"TopK, against the shipped default in the same worlds. Better: {better}. Worse: {worse}. "
        f"Not to be told apart: {same}.",
        "short": f"- {usual} true anchors, default form, TopK: {exact}; {2 * usual}: "
        f"{one.said(f'topk, k = {2 * usual}', 'default')}.\n"
        f"- The paper's form, {usual} anchors: {one.said(f'topk, k = {usual}', 'printed')}. "
        f"Only the start at the anchors, no penalty: {one.said('topk, form', 'start only')}.\n"
        f"- ReLU + L1: default {one.said('relu_l1, form', 'decoder, start')}, "
        f"printed {one.said('relu_l1, form', 'printed')}.\n"
        f"- Half of the anchors wrong: {one.said('topk, wrong 0.5', 'default')}; all of them at cosine .9: "
        f"{one.said('topk, cosine 0.9', 'default')}.\n"
        f"- Far more features than dimensions, printed form at weight 1: {two.said('topk', 'both, no start')}; "
        f"default: {two.said('topk', 'decoder, start')}.",
    }


def _tables(one: Gains) -> dict[str, str]:
    """The tables of TopK by number, weight, noise and errors of the anchors."""
    both = ("default", "printed")
    wanted = {
        "k": [("plain", "topk", "plain"), *((f"k = {k}, {a}", f"topk, k = {k}", a) for a in both for k in one.ks)],
        "weight": [(f"weight {w}, {arm}", f"topk, weight {w}", arm) for arm in both for w in WEIGHTS],
        "noise": [
            *((f"cosine {c}, default", f"topk, cosine {c}", "default") for c in NOISE),
            *((f"cosine {c}, {a}", f"topk, cosine {c}", a) for a in LOOSE for c in LOOSE_NOISE),
        ],
        "wrong": [(f"{share:.0%} wrong", f"topk, wrong {share}", "default") for share in WRONG],
        "zipf": [(arm, "topk, zipf", arm) for arm in ("plain", "all", "frequent", "rare")],
        "whole": [(arm, "topk, full length", arm) for arm in ("plain", "decoder, start", "start only")],
    }
    return {name: rows_of(one.cells, *lines) for name, lines in wanted.items()}


def main() -> None:
    """Write the page and its figures."""
    anchoring, crowded = committed("anchoring", "mini-hard"), committed("crowded", "mini-hard")
    one, two = Gains(anchoring), Gains(crowded)
    label = "Gain of held-out features against number, weight, noise and errors of the anchors"
    (FIGURES / "paper-anchoring.svg").write_text(to_svg(sweeps(one.cells), label))
    (FIGURES / "paper-anchoring-forms.svg").write_text(to_svg(by_form(one.cells), "Gain of held-out features by form"))
    page = TEXT.format(
        **_tables(one),
        **sentences(one, two),
        forms=forms(one.cells, "topk", FORMS),
        relu=forms(one.cells, "relu_l1", (*FORMS, "printed")),
        facts=facts(anchoring),
        crowded_facts=facts(crowded),
        crowded=rows_of(two.cells, *((arm, row, arm) for row, arm in two.cells)),
        crowded_rows=encoder_rows([*two.cells.items(), *((at, one.cells[at]) for at in TURNED if at in one.cells)]),
        longer=longer(read_records(LONGER)),
        chosen=chosen(read_records(CHOSEN)),
    )
    write_generated(PAGE, "anchoring", page)

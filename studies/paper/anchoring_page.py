"""docs/paper/anchoring.md and its figures, from records alone."""

from pathlib import Path

from monosem.bench import read_records
from monosem.report import Interval, write_figure
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
TEXT = """\
# What anchoring does

k latents start at known directions and are held there ([anchoring](../anchoring.md)). This page measures the effect on
the features that **no run anchors**.

    gain     = M_GT of the anchored run - M_GT of the plain run        same world, same seeds, same held-out features
    leverage = gain x number of held-out features / k                  extra features recovered per anchor

The task is `lrb/mini-hard` unless a section says otherwise: 300 features in 96 dimensions, 6 active per row, 1400
rows, 2000 latents. Numbers are points of decoder M_GT(.95), ± half the 95 % t interval of the paired differences over
worlds; **a line with one world has no interval and shows a direction at most**. "default" is `Anchoring()`: slots start
at the anchors, decoder columns are held with weight 1. "printed" is the paper's form: both sides held, no start,
weight .1. TopK trains a quarter of the task's usual steps, where its plain recovery has settled, ReLU + L1 all of them;
"Longer runs" has full length for every method.

Repeat or complete the page with `python -m studies anchoring crowded --scale mini-hard`, then
`python -m studies pages anchoring`.

{facts}

## In short

{short}

The **start** at the anchors, with free encoder rows, helps the other features. Holding decoder columns adds next to
nothing to a start, and does next to nothing without one. Holding encoder rows too costs most of what a start gives. A
penalty keeps the errors of noisy anchors in; after a start alone the data correct them. At full length the start alone
was behind the default in the two worlds of the sweep, by less than their intervals.

![gain against number, weight, noise and errors of the anchors](../figures/paper-anchoring.svg)

## How many anchors

{k}

## How strongly they are held

{weight}

## Which form

60 anchors of each form; the last column is the paired difference from the default. Better than the default: {better}.
Worse: {worse}. The intervals of the others hold 0.

{forms}

![gain by form](../figures/paper-anchoring-forms.svg)

Hollow: one world, no interval. The first figure leaves such points out.

### ReLU + L1

{relu}

### The forms at full length, in the worlds that the default was chosen on

Gains of 60 anchors over plain runs, 1500 steps, worlds 100 and 101 (two worlds: wide intervals).

{chosen}

## Noisy anchors

Each anchor is turned away from the truth in a direction of its own, to the cosine given. The default form holds the
decoder to the noisy direction; "start only" leaves it to the data, "annealed" lowers the weight to 0 over the run.
Against the default in the same worlds: {loose}.

{noise}

## Wrong anchors

A share of the anchors is replaced by random directions; leverage counts these too.

{wrong}

## Frequent or rare features

Rates fall as 1 over the rank at the same mean rate, four times the rows. "frequent" and "rare" anchor features of
the upper and lower half of the ranks among the first 120 of the order, "all" the first 60.

{zipf}

## Longer runs

1500 steps, all seven methods, 60 anchors of the default form, scored on the other 240.

{longer}

The default against the start alone at full length, scored beyond the first 120:

{whole}

## Far more features than dimensions

1000 features in 96 dimensions, 20 active, TopK with k = 20, an endless stream, 1000 steps, 100 anchors, scored on the
other 900. Held encoder rows might block the interference-suppressing rows that training wants. "learned rows" and
"suppressing rows" therefore anchor the encoder elsewhere, with the decoder at the truth: at the rows that a run with a
free encoder ended with, and at the best linear detectors Cov(x_p)^-1 w_p.

{crowded_facts}

{crowded}

### What encoder rows do when they are free

|cos| with w_p of the encoder row nearest to each held-out feature, and the largest raw product <w_E, w_p>, averaged
over features.

{crowded_rows}
"""


class Gains:
    """The gains of a study's runs, as text."""

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


def sentences(one: Gains, two: Gains) -> dict[str, str]:
    """What the page says, from the records."""
    usual, exact = SCALES["mini-hard"].base.anchors, one.said("topk, form", "decoder, start")
    loose = [
        f"{arm} at cosine {cosine}: {said(value)}"
        for arm in LOOSE
        for cosine in LOOSE_NOISE
        if (value := one.beyond_default(f"topk, cosine {cosine}", arm))
    ]
    better, worse, _ = (", ".join(names) or "none" for names in against_default(one.cells, "topk"))
    return {
        "loose": "; ".join(loose) or "not run",
        "better": better,
        "worse": worse,
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
    write_figure(FIGURES / "paper-anchoring.svg", sweeps(one.cells), label)
    write_figure(FIGURES / "paper-anchoring-forms.svg", by_form(one.cells), "Gain of held-out features by form")
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

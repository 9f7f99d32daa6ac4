"""What README says of anchoring, from records: gains, no gains, and what others recover of the same rows."""

from collections.abc import Mapping
from typing import Any

from monosem.bench import read_records
from monosem.report import HEADLINE, Interval, Section, interval, sections
from studies.catalog import committed
from studies.engine.cells import Cell
from studies.paper.anchoring_tables import points, scored
from studies.stored import packed, stored

TUNED = "matryoshka(k=3, fractions=(0.25, 0.5, 1.0), aux=0.03125)"
"""The best plain recipe of the sweep on lrb/mini-hard, which the bench leaves out to have room (docs/defaults.md)."""
WORLDS = packed("bench-worlds")
"""TopK, plain and anchored, in worlds like networks."""
CONE = "lrb/cone"


def anchors() -> str:
    """Bullets: on few rows, by form, with more rows, in other worlds, and without anchors."""
    (section,) = sections(read_records(packed("bench-mini-hard")))
    return "\n".join(f"- {one}" for one in (_few_rows(section), _forms(), _more_rows(), _worlds(), _others()))


def _few_rows(section: Section) -> str:
    record = section.lines[0].anchored[0].records[0]
    k, others = record["anchors"]["k"], scored(record)
    gains = [gain for line in section.lines if (gain := line.gain(line.anchored[0]))]
    means = sorted(gain.mean for gain in gains)
    return (
        f"**A gain on few rows.** {k} latents start at true features, and their decoder columns are held there. "
        f"Recovery of the other {others} features rises by {100 * means[0]:.1f} to {100 * means[-1]:.1f} points "
        f"(interval above 0 for {sum(map(_above, gains))} of {len(gains)} methods): {means[0] * others / k:.2f} to "
        f"{means[-1] * others / k:.2f} features per anchor."
    )


def _forms() -> str:
    cells = committed("anchoring", "mini-hard").by_place
    return (
        f"**The form matters.** For TopK, trained a quarter as long, the default gains "
        f"{_gain(cells, 'topk, form', 'decoder, start')} points, the paper's printed form "
        f"{_gain(cells, 'topk, k = 60', 'printed')}. Anchors held at a cosine of .9 to the truth: "
        f"{_gain(cells, 'topk, cosine 0.9', 'default')} ([all forms](docs/paper/anchoring.md))."
    )


def _more_rows() -> str:
    zipf = _gain(committed("anchoring", "mini-hard").by_place, "topk, zipf", "all")
    crowded = _gain(committed("crowded", "mini-hard").by_place, "topk", "decoder, start")
    cells = committed("table1", "paper").cells
    printed, ours = (
        [gain for cell in cells if cell.arm == arm and (gain := cell.gain())]
        for arm in ("paper+anchors", "ours+anchors")
    )
    most = max(ours, key=lambda gain: gain.mean)
    return (
        "**No gain with more rows.** TopK with rates that fall with the rank and four times the rows: "
        f"{zipf} points; 1000 features in 96 dimensions, an endless stream: {crowded}. At the paper's size the "
        f"interval lies above 0 for {sum(map(_above, printed))} of {len(printed)} methods in the paper's form and for "
        f"{sum(map(_above, ours))} of {len(ours)} in ours ({points(most)}). The paper's claim does not replicate at "
        "its own size ([table 1](docs/paper/table1.md))."
    )


def _worlds() -> str:
    lines = {section.task: line for section in sections(read_records(WORLDS)) for line in section.lines}
    gains = {name: points(line.gain(line.anchored[0])) for name, line in lines.items()}
    cone = gains.pop(CONE)
    others = ", ".join(f"{gain} ({name.removeprefix('lrb/')})" for name, gain in gains.items())
    arms = (lines[CONE].plain, lines[CONE].anchored[0])
    plain, anchored = (sorted(arm.by_seed(HEADLINE).values()) for arm in arms if arm is not None)
    return (
        f"**In [worlds like networks](docs/bench.md#worlds-like-networks)**, TopK: {others} points. With one direction "
        f"common to all features, {cone}: plain training recovers {plain[0]:.2f} to {plain[-1]:.2f} of them, anchored "
        f"{anchored[0]:.2f} to {anchored[-1]:.2f} (`{CONE}`, {len(plain)} worlds)."
    )


def _others() -> str:
    learned = [*_runs("mini-hard"), *_runs("discovered")]
    ksvd = interval(run["metrics"][HEADLINE] for run in learned if (run["learner"], run["n_atoms"]) == ("ksvd", 600))
    discovered = [run["metrics"][HEADLINE] for run in learned if run["learner"] == "discover"]
    sweep = read_records(packed("sweep-mini-hard"))
    tuned = interval(one["metrics"][HEADLINE]["value"] for one in sweep if one["method"]["spec"] == TUNED)
    return (
        f"**Others recover as much of the same rows without anchors.** K-SVD with 600 atoms: {ksvd.text()} of the "
        f"features ([classical methods](docs/classical.md)). Discovery from the rows alone: {min(discovered):.3f} to "
        f"{max(discovered):.3f} in {len(discovered)} worlds. Plain Matryoshka with a smaller k and fewer prefixes: "
        f"{tuned.mean:.3f} in the {tuned.n} worlds that recipes are tuned on ([defaults](docs/defaults.md)). Anchoring "
        "repairs the training of autoencoders from few samples; identifiability does not need it."
    )


def _runs(name: str) -> list[dict[str, Any]]:
    return list((stored(f"classical/{name}") or {"runs": {}})["runs"].values())


def _gain(cells: Mapping[tuple[str, str], Cell], row: str, arm: str) -> str:
    return points(cells[row, arm].gain())


def _above(gain: Interval) -> bool:
    """Whether the interval lies above 0."""
    return gain.half is not None and gain.mean > gain.half

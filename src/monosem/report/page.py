"""The page: one HTML file that needs nothing else, from a folder of records."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monosem.base.files import write_atomic
from monosem.base.literature import TANG_2025
from monosem.base.sealed import sealed
from monosem.bench.records import outdated, read_records
from monosem.methods import recipe_of
from monosem.report.figures import l0_fvu_figure, recovery_figure, similarity_figure
from monosem.report.interval import Interval
from monosem.report.style import GREY, INK, on_any_page, styles, to_svg
from monosem.report.summary import HEADLINE, Arm, Line, Record, Section, sections
from monosem.report.tables import environment_table, meaning, run_table, score_table, worse_than_the_mean

SIMILARITY_NAMES = {
    "decoder_cosine": "decoder columns, |cos| (headline)",
    "decoder_signed": "decoder columns, cos",
    "encoder_raw": "encoder rows, inner product (the paper's)",
    "encoder_cosine": "encoder rows, |cos|",
}
"""Kinds of similarity that every record holds a curve of."""
SERIES = {"fvu": "FVU", "loss": "total loss", "l0": "L0", "dead": "share of dead latents"}
"""Series over training that every record holds. The total loss of anchored runs holds the anchoring term."""

Chart = dict[str, Any]
"""title, x (a label), log, perhaps range (of y), at (places); lines: label, colour, dash or points, values or None."""


def _tau_charts(section: Section) -> list[Chart]:
    """M_GT against tau by similarity: the mean over seeds, chance, and the anchors alone at the stored thresholds."""
    charts = []
    for kind, title in SIMILARITY_NAMES.items():
        tau = section.records[0]["curves"]["tau"]
        lines = [_line(line, arm, colour, arm.curve("curves", kind)) for line, arm, colour in _arms(section)]
        for pairing in section.pairings:
            for which, name, colour in (("chance", "random directions", GREY), ("anchors_alone", "anchors alone", INK)):
                values = _stored(section, pairing, which, kind, tau)
                if any(value is not None for value in values):
                    lines.append({"label": f"{name}, {pairing}", "colour": colour, "points": True, "values": values})
        charts.append({"title": title, "x": "τ", "log": False, "range": [0, 1.02], "at": list(tau), "lines": lines})
    return charts


def _training_charts(section: Section) -> list[Chart]:
    """Every logged series over training, the mean over seeds."""
    charts = []
    for series, title in SERIES.items():
        arms = list(_arms(section))
        steps = sorted({step for _, arm, _ in arms for step in arm.records[0]["training"]["step"]})
        lines = []
        for line, arm, colour in arms:
            by_step = dict(zip(arm.records[0]["training"]["step"], arm.curve("training", series), strict=False))
            lines.append(_line(line, arm, colour, (by_step.get(step) for step in steps)))
        values = [value for line in lines for value in line["values"] if value is not None]
        positive = bool(values) and min(values) > 0
        charts.append({"title": title, "x": "step", "log": positive, "at": steps, "lines": lines})
    return charts


def _arms(section: Section) -> Iterable[tuple[Line, Arm, str]]:
    for line, style in zip(section.lines, styles(len(section.lines)), strict=True):
        for arm in line.arms:
            yield line, arm, style.colour


def _line(line: Line, arm: Arm, colour: str, values: Iterable[float | None]) -> dict[str, Any]:
    """Plain dashed, anchored solid."""
    rounded = [None if value is None or math.isnan(value) else float(f"{value:.4g}") for value in values]
    return {"label": f"{line.label} {arm.name}", "colour": colour, "dash": not arm.anchored, "values": rounded}


def _stored(section: Section, pairing: str, which: str, kind: str, tau: Sequence[float]) -> list[float | None]:
    """The references of M_GT, at every tau that has a score."""
    stored = (section.reference(pairing, f"{kind}.M_GT@{at}", which) for at in tau)
    return [None if value is None else float(f"{value.mean:.4g}") for value in stored]


def write_report(records: str | Path, path: str | Path) -> Path:
    """Read every record of a folder or a packed file and write the page, whole or not at all.

    Raises: DataError when there are no records; CheckpointError when one is damaged, naming it.
    """
    return write_atomic(path, page(read_records(records)).encode())


def page(records: Sequence[Record]) -> str:
    """The page as text; the same for the same records (and the same versions of what draws it)."""
    parts = sections(records)
    world = json.loads(files("monosem.report").joinpath("world.json").read_text(encoding="utf-8"))
    return sealed(
        "monosem.report",
        "page.html",
        ["uplot.css", "page.css"],
        ["uplot.js", "page.js"],
        lead=_lead(records, parts),
        links="".join(f'<a href="#s{i}">{escape(part.title)}</a>' for i, part in enumerate(parts)),
        sections="\n".join(_section(i, part) for i, part in enumerate(parts)),
        world=_json(world),
        world_caption=escape(str(world["caption"])),
        meaning=meaning(),
        environment=environment_table(records),
        citations=escape(_citations(records)),
    )


def _lead(records: Sequence[Record], parts: Sequence[Section]) -> str:
    methods = len({line.spec for part in parts for line in part.lines})
    tasks = ", ".join(dict.fromkeys(part.task for part in parts))
    words = f"{_count(len(records), 'run')} of {_count(methods, 'method')} on {tasks}"
    older = outdated(records)
    return escape(f"{words}, scored against the features that made the data." + f" Older bits: {older}." * bool(older))


def _section(number: int, section: Section) -> str:
    figures = [
        ("M_GT against τ", _curves(_tau_charts(section))),
        ("L0 and FVU", _figure(l0_fvu_figure(section), "L0 against FVU")),
        ("Training", _curves(_training_charts(section))),
    ]
    maps = similarity_figure(section.lines)
    if maps is not None:
        note = (
            "<p class='note'>cos of the first held-out features (rows) with the latents that match them best "
            "(columns), one world. A recovered dictionary is a diagonal of ones.</p>"
        )
        figures.append(("Similarity", _figure(maps, "similarity of features and latents") + note))
    return f"""
<section id="s{number}">
<h2>{escape(section.title)}</h2>
<div class="top">
{_figure(recovery_figure(section), "M_GT(0.95) of every method, plain and anchored")}
<div><p class="spec">{escape(_world_words(section))}</p>
<p>{escape(_finding(section))}</p>
{worse_than_the_mean(section)}</div>
</div>
{score_table(section)}
{_panes(figures)}
<details><summary>Every run</summary>{run_table(section)}</details>
</section>"""


def _world_words(section: Section) -> str:
    spec, world = section.spec, section.spec.get("world", {})
    law = world.get("law", {})
    truth = section.reference(section.pairings[0], "true_l0", "value")
    widths = "/".join(str(width) for width in dict.fromkeys(world.get("widths", ())))
    words = [
        f"n = {world.get('n')} features in {widths} dimensions",
        f"n_q = {spec.get('n_q')} latents",
        f"{law.get('type', 'features')} S = {law.get('sparsity')}" + (f" (L0 = {truth.mean:.1f})" if truth else ""),
        f"interference at most {world.get('max_interference')}",
        "an endless stream of rows" if world.get("rows") is None else f"{world['rows']:,} rows",
    ]
    return ", ".join(words) + "."


def _finding(section: Section) -> str:
    """What anchoring did here, in a sentence that the table supports."""
    scores = [value.mean for arm in section.arms if (value := arm.interval(HEADLINE)) is not None]
    reached = f"M_GT(0.95) lies between {min(scores):.3f} and {max(scores):.3f}." if scores else ""
    gains = [gain for line in section.lines for arm in line.anchored if (gain := line.gain(arm)) is not None]
    return f"{reached} {_gained(section, gains)}" if gains else reached


def _gained(section: Section, gains: Sequence[Interval]) -> str:
    """By how much anchoring changes the features that are not anchored, and in how many methods surely."""
    anchored = next(arm.records[0]["anchors"] for arm in section.arms if arm.anchored)
    means = [gain.mean for gain in gains]
    change = f"Anchoring {anchored['k']} features changes it on the others by {min(means):+.3f} to {max(means):+.3f}"
    if all(gain.half is None for gain in gains):
        return f"{change} (one world, so without intervals)."
    sure = [gain.mean for gain in gains if gain.half is not None and abs(gain.mean) > gain.half]
    up = sum(mean > 0 for mean in sure)
    return f"{change}; the interval lies above 0 in {up} of {len(gains)} methods, below 0 in {len(sure) - up}."


def _curves(charts: Sequence[Chart]) -> str:
    """Charts that the script draws, one at a time: values where one points, lines that hide, parts drawn larger."""
    options = "".join(f"<option>{escape(chart['title'])}</option>" for chart in charts)
    return (
        f'<div class="curves"><select aria-label="What is drawn">{options}</select> '
        '<span class="note">point for values; click a name to hide it, drag to enlarge, double-click to go back; '
        "dashed: plain, solid: anchored</span>"
        f'<div class="plot"></div><script type="application/json">{_json(charts)}</script></div>'
    )


def _json(value: Any) -> str:
    """JSON inside an element of the page."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _panes(parts: Sequence[tuple[str, str]], kind: str = "") -> str:
    """Tabs; without the script every pane shows, one below the other."""
    buttons = "".join(f'<button type="button">{escape(title)}</button>' for title, _ in parts)
    panes = "".join(f'<div class="pane"><h4>{escape(title)}</h4>{body}</div>' for title, body in parts)
    return f'<div class="tabs {kind}"><div class="bar">{buttons}</div>{panes}</div>'


def _figure(figure: Figure, label: str) -> str:
    return f"<figure>{on_any_page(to_svg(figure, label))}</figure>"


def _citations(records: Sequence[Record]) -> str:
    """BibTeX of every method and pairing in the records, and of the paper behind the bench."""
    entries = {TANG_2025.bibtex: None}
    for record in records:
        try:
            recipe, pairing = recipe_of(_spec(record["method"]))
        except ValueError:
            continue
        entries |= {entry.bibtex: None for entry in (recipe.citation, pairing) if entry is not None}
    return "\n".join(entries)


def _spec(method: Any) -> str:
    return method["spec"] if isinstance(method["spec"], str) else str(method["name"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""HTML tables of a report: scores, single runs, environments, and what the columns mean."""

import json
from collections.abc import Iterable, Sequence
from html import escape

from monosem.report.interval import Interval
from monosem.report.summary import HEADLINE, Arm, Line, Record, Section

_SCORES = (
    ("M_IP", "decoder_cosine.M_IP", 3),
    ("signed M_IP", "decoder_signed.M_IP", 3),
    ("matched MCC", "matched_mcc.all", 3),
    ("F1 of codes", "codes.f1", 3),
    ("stability", "stability", 3),
    ("L0", "l0", 2),
    ("FVU", "fvu", 3),
    ("encoder cos M_IP", "encoder_cosine.M_IP", 3),
    ("encoder raw M_IP *", "encoder_raw.M_IP", 3),
    ("copies *", "duplicates.per_feature", 2),
    ("dead *", "dead", 3),
)

MEANING = {
    "M_GT(0.95)": "share of the held-out features that a decoder column meets at |cos| > 0.95: the headline. Features "
    "that any run of the task anchors are scored in none.",
    "gain": "anchored − plain in the same worlds, seed by seed, with the interval of the differences; coloured where "
    "it leaves out 0.",
    "M_IP": "mean over the held-out features of the best |cos| of a decoder column; signed: of cos.",
    "encoder raw": "the same from inner products of encoder rows with unit features: the metric as the paper prints "
    "it, which grows with the rows' length. encoder cos divides by it.",
    "matched MCC": "mean |cos| of the best one-to-one matching of decoder columns and features.",
    "F1 of codes": "codes against the features that made the rows, mean over features; without a latent 0.",
    "stability": "mean |cos| of the latents that fire with those of a second training in the same world, matched "
    "one to one; of runs with --twins. What is stable need not be right.",
    "*": "describes a dictionary, and ranks none: it failed a test of metrics (docs/lenses.md).",
    "copies": "latents beyond the first that stand for the same feature (|cos| > 0.95), per feature.",
    "L0, true L0": "active latents, and present features, per held-out row.",
    "FVU": "fraction of variance unexplained on held-out rows; above 1 the reconstruction is worse than their mean.",
    "dead": "share of latents that never fire on held-out rows.",
    "random directions": "chance: as many random unit vectors as there are latents.",
    "anchors alone": "the untrained anchors as the whole dictionary: what anchored runs reach beyond it is learned.",
    "oracle": "the true directions, held-out rows coded by nonnegative orthogonal matching pursuit.",
    "±": "half the width of the 95 % Student t interval of the mean over the worlds (seeds); none for a single one.",
}
"""What every column and row of a report means."""


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", sortable: bool = False) -> str:
    """A table of ready cells: a cell that begins with "<t" is taken as it is, any other is escaped."""
    classes = " ".join(word for word in (kind, "sortable" if sortable else "") if word)

    def cell(text: str, tag: str) -> str:
        return text if text.startswith("<t") else f"<{tag}>{escape(text)}</{tag}>"

    top = "".join(cell(text, "th") for text in head)
    body = "\n".join(f"<tr>{''.join(cell(text, 'td') for text in row)}</tr>" for row in rows)
    table = f'<table class="{classes}"><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f'<div class="wide">{table}</div>'


def score_table(section: Section) -> str:
    """Every arm of every method, then the references."""
    head = ["method", "runs", "M_GT(0.95)", "gain", *(title for title, _, _ in _SCORES)]
    rows = [_arm_row(line, arm) for line in section.lines for arm in line.arms]
    for pairing in section.pairings:
        for which, name in (
            ("chance", "random directions"),
            ("anchors_alone", "anchors alone"),
            ("oracle", "oracle"),
        ):
            values = [section.reference(pairing, metric, which) for _, metric, _ in _SCORES]
            if any(value is not None for value in values):
                cells = [_number(value, digits) for value, (_, _, digits) in zip(values, _SCORES, strict=True)]
                score = _number(section.reference(pairing, HEADLINE, which), 3)
                first = f'<td class="beside">{escape(name)}, {escape(pairing)}</td>'
                rows.append([first, "", score, "", *cells])
    return _html_table(head, rows, "scores", sortable=True)


def _behind(arm: Arm) -> str:
    """FVU at the end of training and L0 on new rows, as far as the records hold them: " (...)"."""
    curve, l0 = arm.curve("training", "fvu"), arm.interval("l0")
    facts = [f"at the end of training {curve[-1]:.3f}"] if len(curve) else []
    facts += [] if l0 is None else [f"{l0.mean:.1f} latents active"]
    return f" ({', '.join(facts)})" if facts else ""


def worse_than_the_mean(section: Section) -> str:
    """Which arms have an FVU above 1, and what the records say of the reason; "" for none."""
    high = [(line, arm, fvu) for line in section.lines for arm in line.arms if (fvu := arm.interval("fvu")) is not None]
    high = [one for one in high if one[2].mean > 1]
    if not high:
        return ""
    said = [f"{line.label} {arm.name} {fvu.mean:.3f}{_behind(arm)}" for line, arm, fvu in high]
    truth = section.reference(high[0][0].pairing, "true_l0", "value")
    features = "" if truth is None else f", on which {truth.mean:.1f} features are present"
    rows = section.spec.get("world", {}).get("rows")
    few = "" if rows is None else f" Training saw {rows:,} rows for {section.spec.get('n_q'):,} latents."
    return (
        f'<p class="warning"><b>FVU above 1</b>: these reconstruct new rows{features}, worse than the mean of the rows '
        f"does: {escape('; '.join(said))}.{few} Where the FVU of training is far below, what was fitted to its rows "
        "does not carry over to new ones; directions may be right all the same, which M_GT says.</p>"
    )


def _arm_row(line: Line, arm: Arm) -> list[str]:
    seeds = len(arm.records)
    name = f'<td class="{arm.name}"><b>{escape(line.label)}</b> <span title="{escape(arm.note)}">{arm.name}</span></td>'
    values = [_number(arm.interval(metric), digits, high=metric == "fvu") for _, metric, digits in _SCORES]
    return [name, str(seeds), _number(arm.interval(HEADLINE), 3, spread=True), _gain(line.gain(arm)), *values]


def _gain(gain: Interval | None) -> str:
    if gain is None:
        return ""
    sure = gain.half is not None and abs(gain.mean) > gain.half
    kind = ("better" if gain.mean > 0 else "worse") if sure else ""
    return f'<td data-value="{gain.mean:.6g}" class="{kind}">{escape(gain.text(sign=True))}</td>'


def _number(value: Interval | None, digits: int, spread: bool = False, high: bool = False) -> str:
    """A cell; `high` marks a value above 1."""
    if value is None:
        return ""
    text = value.text(digits) if spread else f"{value.mean:.{digits}f}"
    note = "" if value.half is None else f' title="± {value.half:.{digits}f} over {value.n}"'
    kind = ' class="high"' if high and value.mean > 1 else ""
    return f'<td data-value="{value.mean:.6g}"{kind}{note}>{text}</td>'


def run_table(section: Section) -> str:
    """Every single run."""
    shown = (
        ("M_GT(0.95)", HEADLINE, 3),
        ("M_IP", "decoder_cosine.M_IP", 3),
        ("L0", "l0", 2),
        ("true L0", "true_l0", 2),
        ("FVU", "fvu", 4),
        ("dead", "dead", 3),
        ("copies", "duplicates.count", 0),
    )
    head = [
        "method",
        "anchors",
        "world",
        "seed",
        *(title for title, _, _ in shown),
        "steps",
        "seconds",
        "data",
        "written",
    ]
    rows = []
    for line in section.lines:
        for arm in line.arms:
            for record in arm.records:
                values = [record["metrics"].get(metric, {}).get("value") for _, metric, _ in shown]
                cells = [
                    "" if value is None else f"{value:.{digits}f}"
                    for value, (_, _, digits) in zip(values, shown, strict=True)
                ]
                seed, digest = record["seed"], record["task"]["data_digest"]
                spec = f'<td title="{escape(line.spec)}">{escape(line.label)}</td>'
                last = [str(record["config"].get("steps", "")), f"{record['wall_time_s']:.1f}"]
                mark = f'<td title="{escape(digest)}"><code>{escape(digest[:8])}</code></td>'
                note = f'<td title="{escape(arm.note)}">{arm.records[0]["anchors"]["k"] if arm.anchored else 0}</td>'
                row = [spec, note, str(seed["world"]), str(seed["train"]), *cells, *last, mark, record["created"]]
                rows.append(row)
    return _html_table(head, rows, "runs", sortable=True)


def environment_table(records: Iterable[Record]) -> str:
    """Where the runs were made, each environment once."""
    counts: dict[str, int] = {}
    for record in records:
        text = json.dumps(record["env"], sort_keys=True)
        counts[text] = counts.get(text, 0) + 1
    names = sorted({name for text in counts for name in json.loads(text)})
    rows = [
        [str(count), *(str(json.loads(text).get(name, ""))[:40] for name in names)]
        for text, count in sorted(counts.items())
    ]
    return _html_table(["runs", *names], rows, "environment", sortable=True)


def meaning() -> str:
    """The words of the tables and figures."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in MEANING.items())
    return f"<dl>{rows}</dl>"

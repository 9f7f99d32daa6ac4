"""What the runs of a study on the bench say; every number comes from records or from print."""

from collections.abc import Iterable, Sequence

import numpy as np

from monosem.report import HEADLINE, table
from studies.engine.cells import COS_IP, RAW_GT, RAW_IP, Cell, Results, Summary, summary
from studies.engine.study import Printed

Comparison = list[tuple[Cell, float, float, float]]
"""A cell, what is printed of it, and ours by the raw inner product and by |cos| of decoder columns."""


def listed(words: Sequence[object]) -> str:
    """ "a, b and c"; "none" for no words.

    Example:
        >>> listed([1, 2, 3])
        '1, 2 and 3'
    """
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def printed_share(printed: Printed, row: str, arm: str) -> float:
    """The printed M_GT in percent, 0 where none is printed."""
    return printed[row, arm][0] or 0.0


DIFFERENCES = ("arm", "minus", "score", "least", "most", "above 0", "below 0", "holds 0", "one world")
"""Columns of the table of differences: between what they lie, and where their 95 % intervals lie, over the rows."""


def statements(results: Results, more: str = "") -> str:
    """What the runs say, as bullets and a table; `more` is the study's own. Against print only at the paper's size."""
    cells, same_size = results.cells, results.scale.name == "paper"
    said = [repeats(cells), distance(cells), order(cells), more]
    for arm, where in (("ours", "the scored features"), ("ours+discovered", "every feature")):
        said += _recovered(cells, arm, where)
    said += [_against_print(cells)] * same_size
    lines = differences(cells)
    parts = ["\n".join(one for one in said if one), table([DIFFERENCES, *lines]) if lines else ""]
    return "\n\n".join(part for part in parts if part)


def differences(cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    """Lines of the table of differences: anchored minus plain runs, and discovered anchors minus themselves alone."""
    lines: list[tuple[object, ...]] = []
    for arm, plain in (("paper+anchors", "paper"), ("ours+anchors", "ours")):
        lines += difference(arm, f"`{plain}`", "M_GT, scored features", summary(cells, arm))
        lines += difference(arm, f"`{plain}`", "M_GT, every feature", summary(cells, arm, metric=f"all.{HEADLINE}"))
        lines += _printed_gains(cells) if arm == "paper+anchors" and lines else []
    arm = "ours+discovered"
    for metric, name in ((HEADLINE, "M_GT"), (COS_IP, "M_IP")):
        alone = summary(cells, arm, beyond=True, metric=metric)
        lines += difference(arm, "its anchors alone", f"{name}, every feature", alone)
    return lines + difference(arm, "plain, same settings", "M_GT, scored features", summary(cells, arm))


def difference(arm: str, other: str, score: str, one: Summary | None) -> list[tuple[object, ...]]:
    """One line of the table of differences; none where nothing is compared."""
    if one is None or one.range is None:
        return []
    low, high = one.range
    return [(f"`{arm}`", other, score, f"{low:+.2g}", f"{high:+.2g}", one.up, one.down, one.open, one.single)]


def _recovered(cells: Sequence[Cell], arm: str, where: str) -> list[str]:
    one = summary(cells, arm)
    if one is None:
        return []
    (low_row, low), (high_row, high) = one.low, one.high
    between = f"from {low:.3f} ({low_row}) to {high:.3f} ({high_row})" if low < high else f"{low:.3f} in every row"
    return [f"- `{arm}`: M_GT(.95) over {where} {between}; at least .99 in {one.reached} of {one.rows} rows."]


def _printed_gains(cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    """Between what the printed gains lie: anchored minus plain as printed, whatever each is scored on."""
    shares = {(cell.row, cell.arm): cell.printed[0] for cell in cells}
    gains = [
        (share - plain) / 100
        for (row, arm), share in shares.items()
        if arm == "paper+anchors" and share is not None and (plain := shares.get((row, "paper"))) is not None
    ]
    printed = ("`paper+anchors`", "`paper`", "M_GT, as printed")
    return [(*printed, f"{min(gains):+.2g}", f"{max(gains):+.2g}", *"----")] if gains else []


def _against_print(cells: Sequence[Cell]) -> str:
    """In how many rows plain training with our defaults reaches the best number that the paper prints for the row."""
    best: dict[str, float] = {}
    for cell in cells:
        if cell.printed[0] is not None:
            best[cell.row] = max(cell.printed[0], best.get(cell.row, cell.printed[0]))
    ours = {cell.row: 100 * value.mean for cell in cells if cell.arm == "ours" and (value := cell.value(HEADLINE))}
    rows = [row for row in best if row in ours]
    short = [row for row in rows if ours[row] < best[row]]
    missed = f"; not in {listed(short)}" if short else ""
    return (
        f"- `ours`, plain, by *cosine*, reaches the best M_GT printed for the row, anchored or not, in "
        f"{len(rows) - len(short)} of {len(rows)} rows{missed}."
        if rows
        else ""
    )


def repeats(cells: Sequence[Cell]) -> str:
    """Rows whose runs are other rows' runs, to the last bit of every score: a count over rows counts them twice."""
    scores: dict[str, list[tuple[object, ...]]] = {}
    for cell in cells:
        values = [cell.value(metric) for metric in (RAW_IP, COS_IP, "fvu")]
        if all(values):
            scores.setdefault(cell.row, []).append((cell.arm, *values))
    rows = list(scores)
    again = [row for i, row in enumerate(rows) if any(scores[row] == scores[other] for other in rows[:i])]
    return (
        f"- **{len(again)} of {len(rows)} rows repeat others to the bit** (same data, same seeds): {listed(again)}. "
        f"Of the rows counted below, {len(rows) - len(again)} are distinct."
        if again
        else ""
    )


def compared(cells: Iterable[Cell], which: int, raw: str, cosine: str) -> Comparison:
    """Cells with a printed M_GT (`which` 0) or M_IP (1), with two scores of ours."""
    made: Comparison = []
    for cell in cells:
        printed, by_raw, by_cosine = cell.printed[which], cell.value(raw), cell.value(cosine)
        if printed is not None and by_raw is not None and by_cosine is not None:
            made.append((cell, printed, by_raw.mean, by_cosine.mean))
    return made


def distance(cells: Iterable[Cell]) -> str:
    """How far the printed M_IP lies from ours by the raw inner product and by the decoder cosine."""
    both = compared(cells, 1, RAW_IP, COS_IP)
    if not both:
        return ""
    raw = sum(abs(printed - by_raw) for _, printed, by_raw, _ in both) / len(both)
    cosine = sum(abs(printed - by_cosine) for _, printed, _, by_cosine in both) / len(both)
    return (
        f"- Over {len(both)} cells with the paper's (inferred) settings the printed M_IP differs on average by "
        f"{raw:.3f} from *raw* and by {cosine:.3f} from *cosine*."
    )


def order(cells: Iterable[Cell]) -> str:
    """Whether our numbers fall where the printed ones fall: Spearman's rank correlation of M_GT over cells."""
    from scipy.stats import spearmanr

    both = compared(cells, 0, RAW_GT, HEADLINE)
    columns = [np.array([row[i] for row in both]) for i in (1, 2, 3)]
    if len(both) < 10 or any(len(np.unique(column)) < 3 for column in columns):
        return ""
    raw, cosine = (float(spearmanr(columns[0], column).statistic) for column in columns[1:])
    return (
        f"- Over {len(both)} such cells the printed M_GT has rank correlation {raw:.2f} with ours by *raw*, and "
        f"{cosine:.2f} by *cosine*."
    )


def least_mean(share: float, tau: float = 0.95) -> float:
    """The least M_IP that goes with M_GT(tau) = share.

    Equation: s_i >= 0 and s_i > tau for a share of the features, so M_IP = mean s_i >= tau M_GT(tau).

    Example:
        >>> round(least_mean(1.0), 2), round(least_mean(0.855), 5)
        (0.95, 0.81225)
    """
    return tau * share


def forbidden(printed: Printed, tau: float = 0.95) -> list[tuple[str, str, float, float, float]]:
    """Cells that cannot be: (row, arm, M_GT in percent, M_IP, the least M_IP), beyond the printed rounding.

    Example:
        >>> forbidden({("n = 800", "anchored"): (100.0, 0.436), ("n = 1400", "anchored"): (8.57, 0.207)})
        [('n = 800', 'anchored', 100.0, 0.436, 0.95)]
    """
    both = [(*key, share, mean) for key, (share, mean) in printed.items() if share is not None and mean is not None]
    least = [(*one, least_mean(one[2] / 100, tau)) for one in both]
    return [one for one in least if one[3] + 0.0005 < one[4] - 0.00005]


def fits(percent: float, n: int, digits: int = 2) -> bool:
    """Whether a percentage, rounded to some digits, can be a count out of n.

    Example:
        >>> fits(87.63, 970), fits(87.63, 1000)
        (True, False)
    """
    return round(100 * round(percent * n / 100) / n, digits) == round(percent, digits)


def shared_counts(percents: Iterable[float], candidates: Iterable[int], digits: int = 2) -> list[int]:
    """The candidates n of which every percentage can be a count.

    Example:
        >>> shared_counts([87.63, 89.38, 87.32, 25.05], range(900, 1001))
        [970]
    """
    numbers = list(percents)
    return [n for n in candidates if all(fits(percent, n, digits) for percent in numbers)]

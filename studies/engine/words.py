"""What the runs of a study on the bench say, in sentences; every number in them comes from records or from print."""

from collections.abc import Iterable, Sequence

import numpy as np

from monosem.report.summary import HEADLINE
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


def statements(results: Results, more: str = "") -> str:
    """What the runs say, as bullets; `more` is the study's own. Against print only at the paper's own size."""
    cells, same_size = results.cells, results.scale.name == "paper"
    said = [repeats(cells), distance(cells), order(cells), more]
    for arm, plain in (("paper+anchors", "paper"), ("ours+anchors", "ours")):
        said += _anchored(cells, arm, plain)
    for arm, where in (("ours", "the scored features"), ("ours+discovered", "every feature")):
        said += _recovered(cells, arm, where)
    said += _discovered(cells)
    said += [_against_print(cells)] * same_size
    return "\n".join(one for one in said if one)


def _anchored(cells: Sequence[Cell], arm: str, plain: str) -> list[str]:
    said, gain, over_all = [], summary(cells, arm), summary(cells, arm, metric=f"all.{HEADLINE}")
    if gain and gain.compared:
        said.append(f"- `{arm}` against `{plain}` of the same worlds and features, M_GT(.95): {sides(gain)}")
    if over_all and over_all.range:
        printed = _printed_gains(cells) if arm == "paper+anchors" else ""
        low, high = over_all.range
        said.append(
            f"- Counted over every feature, the anchored ones among them: between {low:+.2g} and {high:+.2g}{printed}."
        )
    return said


def _recovered(cells: Sequence[Cell], arm: str, where: str) -> list[str]:
    one = summary(cells, arm)
    if one is None:
        return []
    (low_row, low), (high_row, high) = one.low, one.high
    between = f"from {low:.3f} ({low_row}) to {high:.3f} ({high_row})" if low < high else f"{low:.3f} in every row"
    return [f"- `{arm}`: M_GT(.95) over {where} {between}; at least .99 in {one.reached} of {one.rows} rows."]


def _discovered(cells: Sequence[Cell]) -> list[str]:
    said = []
    for metric, name in ((HEADLINE, "M_GT(.95)"), (COS_IP, "M_IP")):
        alone = summary(cells, "ours+discovered", beyond=True, metric=metric)
        if alone:
            said.append(f"- `ours+discovered` against its anchors alone, over every feature, {name}: {sides(alone)}")
    gain = summary(cells, "ours+discovered")
    if gain and gain.compared:
        said.append(f"- `ours+discovered` against the plain run of the same settings, M_GT(.95): {sides(gain)}")
    return said


def _printed_gains(cells: Sequence[Cell]) -> str:
    """Between what the printed gains lie: anchored minus plain as printed, whatever each is scored on."""
    shares = {(cell.row, cell.arm): cell.printed[0] for cell in cells}
    gains = [
        (share - plain) / 100
        for (row, arm), share in shares.items()
        if arm == "paper+anchors" and share is not None and (plain := shares.get((row, "paper"))) is not None
    ]
    return f" (printed: between {min(gains):+.2g} and {max(gains):+.2g})" if gains else ""


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
        f"- `ours`, plain, by |cos| of decoder columns, is at least the best M_GT printed for the row, anchored or "
        f"not, in {len(rows) - len(short)} of {len(rows)} rows{missed}."
        if rows
        else ""
    )


def sides(one: Summary) -> str:
    """Between what differences lie, and on which side of 0 their intervals."""
    several = one.up + one.down + one.open
    low, high = one.range or (0.0, 0.0)
    if not several:
        return f"between {low:+.2g} and {high:+.2g}; a single world, so no interval."
    alone = f"; {one.single} of a single world have none" if one.single else ""
    return (
        f"between {low:+.2g} and {high:+.2g}; of {several} rows the interval lies above 0 in {one.up}, below in "
        f"{one.down}, and holds 0 in {one.open}{alone}."
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
        f"{raw:.3f} from our raw inner product of encoder rows, and by {cosine:.3f} from the |cos| of the decoder "
        "columns of the same dictionaries."
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
        f"- The order of the rows: over {len(both)} cells with the paper's (inferred) settings the printed M_GT has "
        f"rank correlation {raw:.2f} with ours by the raw inner product, and {cosine:.2f} by |cos| of decoder columns."
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

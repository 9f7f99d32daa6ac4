"""Table 6: sparsity, by the probability that a feature is active."""

from collections.abc import Iterable, Iterator

from monosem.report import HEADLINE
from studies.engine.bench import arms
from studies.engine.cells import RAW_GT, Cell, Results
from studies.engine.figures import curve_figure
from studies.engine.scale import Scale
from studies.engine.study import PRINTED_ARMS, Entry, Study, printed
from studies.engine.words import compared, listed, printed_share, statements
from studies.paper import table1
from studies.paper.table5 import SINGLE

PRINTED = printed(
    {
        "rate 0.005, relu_l1": ((0.0, 0.231), (0.0, 0.326)),
        "rate 0.005, jumprelu": ((11.8, 0.890), (74.8, 0.970)),
        "rate 0.005, topk": ((82.2, 0.978), (84.3, 0.981)),
        "rate 0.005, batch_topk": ((80.5, 0.976), (83.2, 0.980)),
        "rate 0.005, matryoshka": ((79.3, 0.974), (86.1, 0.983)),
        **{f"rate 0.01, {row}": tuple(table1.PRINTED[row, arm] for arm in PRINTED_ARMS) for row in SINGLE},
        "rate 0.1, relu_l1": ((0.0, 0.186), (0.0, 0.191)),
        "rate 0.1, jumprelu": ((0.0, 0.191), (0.0, 0.193)),
        "rate 0.1, topk": ((98.8, 0.981), (98.4, 0.979)),
        "rate 0.1, batch_topk": ((95.6, 0.975), (96.2, 0.976)),
        "rate 0.1, matryoshka": ((99.7, 0.991), (99.7, 0.991)),
    }
)
"""Source: Tang et al. (arXiv 2512.05534 v3), table 6."""


def _runs(scale: Scale) -> Iterator[Entry]:
    for rate in (0.005, 0.01, 0.05, 0.1):
        for name in SINGLE:
            task = scale.vary(rate=rate)
            yield from arms(scale, f"rate {rate}, {name}", name, task, ("paper", "paper+anchors", "ours"))


def _about() -> str:
    lower = [
        f"({row})"
        for row, arm in PRINTED
        if arm == "paper" and printed_share(PRINTED, row, "paper+anchors") < printed_share(PRINTED, row, arm)
    ]
    usual, sparse = (printed_share(PRINTED, f"rate {rate}, jumprelu", "paper") for rate in (0.01, 0.005))
    anchored = printed_share(PRINTED, "rate 0.005, jumprelu", "paper+anchors")
    return (
        "**The axis is the activation probability 1 - S**; the paper calls it S, which is Pr(x_i = 0) everywhere else. "
        "Its text discusses .05 and its table has no such rows; we run them. Anchoring lowers the printed M_GT in "
        f"{listed(lower)}. JumpReLU goes from {usual:g} at .01 to {sparse:g} at .005 plain and {anchored:g} anchored: "
        "the same method on sparser data, or rows that are longer there; the columns *raw* and *cosine* tell the two "
        "apart."
    )


def _says(results: Results) -> str:
    return statements(results, k_by_rate(results.cells) if results.scale.name == "paper" else "")


def k_by_rate(cells: Iterable[Cell]) -> str:
    """The paper's TopK with one k against the true L0, by activation probability; "" where the rows do not bear it."""
    rows = compared((cell for cell in cells if _is_topk(cell)), 0, RAW_GT, HEADLINE)
    columns = [[row[1] for row in rows], [100 * row[3] for row in rows]]
    if len(rows) < 2 or any(column != sorted(column) for column in columns):
        return ""
    printed, ours = (max(column) - min(column) for column in columns)
    rates = [float(row[0].row.split()[1].rstrip(",")) for row in rows]
    parts = [
        f"{1000 * rate:g} active, {share:g} ({100 * raw:.1f}, {100 * cosine:.1f})"
        for rate, (_, share, raw, cosine) in zip(rates, rows, strict=True)
    ]
    return (
        "- **More is found as the true L0 nears k**, in print as here; but a higher rate also shows each feature more "
        "often, and this table cannot tell the two apart ([table 7](table7.md) moves k alone). TopK with k = 128, by "
        "the mean number of active features: printed M_GT in percent (ours by the inner product, by |cos| of decoder "
        f"columns): {'; '.join(parts)}. The printed numbers differ by {printed:.1f} points between these rows, ours "
        f"by {ours:.1f}; runs here are short for a large k ([settings](settings.md))."
    )


def _is_topk(cell: Cell) -> bool:
    return cell.arm == "paper" and cell.row.endswith(", topk")


STUDY = Study(
    "table6",
    "Table 6: sparsity, by activation probability 1 - S",
    _runs,
    PRINTED,
    _about,
    _says,
    figure=curve_figure("activation probability 1 - S (the default is .01)", log=True),
)

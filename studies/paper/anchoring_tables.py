"""Tables and figures of docs/paper/anchoring.md: gains on held-out features, with intervals over worlds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monosem.report import (
    GREY,
    HEADLINE,
    INK,
    PALETTE,
    Arm,
    Interval,
    Line,
    Record,
    paired,
    plain_axes,
    sections,
    table,
)
from studies.engine.cells import COS_IP, Cell
from studies.engine.tables import scaled
from studies.paper.anchoring import FORMS, NOISE, WEIGHTS, WRONG

HEAD = ("run", "worlds", "M_GT %", "gain", "leverage", "M_IP gain", "FVU")
Cells = Mapping[tuple[str, str], Cell]


def points(value: Interval | None, sign: bool = True) -> str:
    """An interval of shares, in points."""
    return "-" if value is None else scaled(value, 100).text(1, sign)


def leverage(cell: Cell) -> Interval | None:
    """Extra held-out features per anchor: gain in M_GT times the scored features, over the anchors."""
    gain = cell.gain()
    if gain is None or cell.ran is None:
        return None
    record = cell.ran.records[0]
    return scaled(gain, scored(record) / record["anchors"]["k"])


def scored(record: Record) -> int:
    """How many features a run is scored on."""
    return int(record["task"]["spec"]["world"]["n"] - record["config"]["held_out"])


def beyond_default(cell: Cell, default: Cell) -> Interval | None:
    """This arm - the default form, world by world."""
    assert cell.ran is not None
    assert default.ran is not None
    return paired(default.ran.by_seed(HEADLINE), cell.ran.by_seed(HEADLINE))


def against_default(all_cells: Cells, method: str) -> tuple[list[str], list[str], list[str]]:
    """Forms whose difference from the default form, world by world, is above 0, below 0, or neither."""
    sides: tuple[list[str], list[str], list[str]] = ([], [], [])
    default = all_cells.get((f"{method}, form", "decoder, start"))
    for (row, arm), cell in all_cells.items():
        if row != f"{method}, form" or cell is default or default is None:
            continue
        value = beyond_default(cell, default)
        if value is not None and value.half is not None:
            side = 0 if value.mean > value.half else 1 if value.mean < -value.half else 2
            sides[side].append(f"{arm} ({points(value)})")
    return sides


def said(value: Interval | None) -> str:
    """A gain in words: its points, and on which side of 0 its interval lies."""
    if value is None:
        return "not run"
    if value.half is None:
        return f"{points(value)} (one world)"
    low, high = value.mean - value.half, value.mean + value.half
    side = "above 0" if low > 0 else "below 0" if high < 0 else "holds 0"
    return f"{points(value)} ({value.n} worlds, {side})"


def line(label: str, cell: Cell | None) -> list[str]:
    """A row of a table."""
    if cell is None:
        return [label, "not run", *("-" for _ in HEAD[2:])]
    gain, per, mean, fvu = cell.gain(), leverage(cell), cell.gain(COS_IP), cell.value("fvu")
    return [
        label,
        str(len(cell.ran.records)) if cell.ran else "0",
        points(cell.value(HEADLINE), sign=False),
        points(gain) if gain else "-",
        per.text(2, True) if per else "-",
        mean.text(3, True) if mean else "-",
        f"{fvu.mean:.3f}" if fvu else "-",
    ]


def rows_of(all_cells: Cells, *wanted: tuple[str, str, str]) -> str:
    """The table of (label, row, arm); those that have no runs say so."""
    return table([HEAD, *(line(label, all_cells.get((row, arm))) for label, row, arm in wanted)])


def forms(all_cells: Cells, method: str, names: Iterable[str]) -> str:
    """The forms of anchoring, best gain first, each against the default form in the same worlds too."""
    default = all_cells.get((f"{method}, form", "decoder, start"))
    if default is None:
        return "Not run."
    here = [(name, all_cells[f"{method}, form", name]) for name in names if (f"{method}, form", name) in all_cells]
    here.sort(key=lambda pair: -(gain.mean if (gain := pair[1].gain()) else 0.0))
    rows = [[*line("**decoder, start** (default)" if cell is default else name, cell)] for name, cell in here]
    for row, (_, cell) in zip(rows, here, strict=True):
        row.append("-" if cell is default else points(beyond_default(cell, default)))
    return table([(*HEAD, "minus the default"), [*line("plain", all_cells[method, "plain"]), "-"], *rows])


def encoder_rows(places: Iterable[tuple[tuple[str, str], Cell]]) -> str:
    """How near encoder rows come to held-out features."""
    rows = []
    for (row, arm), cell in places:
        cosine, raw = cell.value("encoder_cosine.M_IP"), cell.value("encoder_raw.M_IP")
        assert cell.ran is not None
        assert cosine is not None
        assert raw is not None
        task = cell.ran.records[0]["task"]["name"]
        rows.append([f"`{task}`", row.split(",")[0], arm, str(cosine.n), cosine.text(3), raw.text(3)])
    return table([("world", "method", "run", "worlds", "cosine of the row", "raw product"), *rows])


def longer(records: Sequence[Record]) -> str:
    """The bench's own records: plain and default form, every method."""
    rows = []
    for line, arm, gain in _gains(records):
        assert line.plain is not None
        record, shares = arm.records[0], (line.plain.interval(HEADLINE), arm.interval(HEADLINE))
        per = scaled(gain, scored(record) / record["anchors"]["k"]).text(2, True)
        label = " ".join(dict.fromkeys((record["method"]["name"], line.pairing)))
        rows.append([label, str(gain.n), *(points(share, sign=False) for share in shares), points(gain), per])
    rows.sort(key=lambda row: -float(row[4].split()[0]))
    return table([("method, pairing", "worlds", "plain M_GT %", "default M_GT %", "gain", "leverage"), *rows])


def chosen(records: Sequence[Record]) -> str:
    """The forms that the default was chosen among: gain over the plain run of the same world."""
    methods = list(dict.fromkeys(one["method"]["name"] for one in records))
    gains: dict[str, dict[str, Interval]] = {}
    for _, arm, gain in _gains(records):
        form, name = arm.records[0]["anchors"], arm.records[0]["method"]["name"]
        label = f"{form['form']}, weight {form['weight']:g}, {'start' if form['init'] else 'no start'}"
        gains.setdefault(label, {})[name] = gain
    labels = sorted(gains, key=lambda label: -gains[label][methods[-1]].mean)
    rows = [(label, *(points(gains[label].get(name)) for name in methods)) for label in labels]
    return table([("form/sides", *methods), *rows])


def _gains(records: Sequence[Record]) -> Iterator[tuple[Line, Arm, Interval]]:
    """Every way of anchoring a method, with its gain over the method's plain runs."""
    for line in (line for part in sections(records) for line in part.lines):
        for arm in line.anchored:
            gain = line.gain(arm)
            if gain is not None:
                yield line, arm, gain


_ARMS = {
    "default": (PALETTE[0], "o"),
    "printed": (PALETTE[3], "s"),
    "start only": (PALETTE[2], "^"),
    "annealed": (PALETTE[4], "v"),
}


def _panel(axes: Axes, all_cells: Cells, x: Sequence[float], row: str, title: str) -> None:
    """Gain against what `row`, with a value of x put in, varies; points of one world are left out."""
    for arm, (colour, marker) in _ARMS.items():
        cells = [(at, cell) for at in x if (cell := all_cells.get((row.format(at), arm)))]
        drawn = [(at, scaled(gain, 100)) for at, cell in cells if (gain := cell.gain()) and gain.half is not None]
        if drawn:
            at, gains = zip(*drawn, strict=True)
            mean, half = [gain.mean for gain in gains], [gain.half for gain in gains]
            axes.errorbar(
                at, mean, yerr=half, color=colour, marker=marker, capsize=3, linewidth=1.4, markersize=5, label=arm
            )
    axes.axhline(0.0, color=GREY, linewidth=1, linestyle=":")
    axes.set_title(title, color=INK, loc="left")
    plain_axes(axes)


def sweeps(all_cells: Cells) -> Figure:
    """Gain against number, weight, noise and errors of the anchors."""
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    grid = figure.subplots(1, 4, sharey=True)
    ks = sorted({int(row.split("= ")[1]) for row, _ in all_cells if row.startswith("topk, k = ")})
    _panel(grid[0], all_cells, ks, "topk, k = {}", "anchors k")
    _panel(grid[1], all_cells, WEIGHTS, "topk, weight {}", "weight λ")
    grid[1].set_xscale("log")
    _panel(grid[2], all_cells, NOISE, "topk, cosine {}", "cosine with the truth")
    _panel(grid[3], all_cells, WRONG, "topk, wrong {}", "share of wrong anchors")
    grid[0].set_xticks(ks, [str(k) for k in ks])
    grid[3].set_xticks(WRONG, [str(share) for share in WRONG])
    figure.supylabel("gain in M_GT, points", color=INK)
    marks = {label: mark for axes in grid for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks, loc="outside upper right", ncols=len(marks), frameon=False, labelcolor=INK)
    return figure


def by_form(all_cells: Cells) -> Figure:
    """Gain by form, a panel per method."""
    methods = [name for name in ("topk", "relu_l1") if (f"{name}, form", "decoder, start") in all_cells]
    figure = Figure(figsize=(2.0 + 3.8 * len(methods), 3.8), layout="constrained")
    grid = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    names = [name for name in FORMS if ("topk, form", name) in all_cells][::-1]
    for axes, method, colour in zip(grid, methods, PALETTE, strict=False):
        for y, name in enumerate(names):
            cell = all_cells.get((f"{method}, form", name))
            gain = cell.gain() if cell else None
            if gain is not None:
                xerr = 100 * (gain.half or 0.0)
                fill = colour if gain.half is not None else "white"  # one world: no interval
                axes.errorbar(100 * gain.mean, y, xerr=xerr, color=colour, marker="o", markerfacecolor=fill, capsize=3)
        axes.axvline(0.0, color=GREY, linewidth=1, linestyle=":")
        axes.set_title(method, color=INK, loc="left")
        axes.set_xlabel("gain in M_GT, points", color=INK)
        plain_axes(axes)
    grid[0].set_yticks(range(len(names)), names)
    return figure

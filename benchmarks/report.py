"""A speed record as Markdown: goals, methods, other libraries, threads, memory, the floor, growth."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.floor import PIECES
from benchmarks.sizes import CASES
from benchmarks.summary import (
    CPU,
    WALL,
    Spread,
    exponent,
    floor_pieces,
    milliseconds,
    over_ours,
    ratios,
    scaling,
    spread,
)
from monosem.base import read_json, write_atomic
from monosem.report import fill, table

GOALS: Mapping[str, tuple[float, float]] = {
    "TopK": (1.45, 1.25),
    "BatchTopK": (1.5, 1.3),
    "Matryoshka, 5 prefixes": (1.6, 1.4),
    "JumpReLU, ReLU at L0 near 32": (1.5, 1.35),
    "the same at initial density": (5.6, 5.2),
    "TopK, half of the latents dead, AuxK with k_aux = 384": (3.0, 2.6),
    "TopK, certified": (1.05, 0.80),
    "BatchTopK, certified": (1.1, 0.85),
    "Matryoshka, 5 prefixes, certified": (1.2, 0.9),
    "JumpReLU, ReLU at L0 near 32, certified": (1.1, 0.9),
    "the same at initial density, all products in bf16": (3.5, 3.5),
    "TopK, half of the latents dead, AuxK with k_aux = 384, certified": (2.7, 1.9),
}
"""Steps at paper size, in fp32 encoder products with one thread: what must be reached, and what would be better."""

_SAME_STEP = {"jumprelu": "jumprelu_dense", "relu_l1": "relu_l1_dense"}
"""Peers' dense steps cost the same at any density, so they are timed once."""

PEER_NAMES: Mapping[str, str] = {
    "saelens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
    "overcomplete": "overcomplete",
}


def speed_page(record: Mapping[str, Any], figure: str = "") -> str:
    """All tables of a record; `figure` is a path to show, where there is one."""
    parts, paper = [_facts(record)], record["sizes"].get("paper")
    if paper:
        parts += ["### Paper size against the goals\n", _table(_goals(paper)), *_missed(paper)]
    if figure:
        parts += [f"![Steps of monosem and of other libraries in encoder products, and growth with size]({figure})\n"]
    for name, size in record["sizes"].items():
        shapes = "n_p = {n_p}, n_q = {n_q}, k = {k}, batch {batch}".format(**size["shape"])
        parts += [f"### {name.capitalize()} size: {shapes}\n", _table(_methods(size, record["options"]["threads"]))]
        if any(len(contenders) > 1 for contenders in size["cases"].values()):
            parts += ["Other libraries, their own steps, one thread:\n", _table(_peers(size))]
        if size["floor"]["turns"]:
            parts += ["The floor, stock torch operations, one thread:\n", _table(_floor(size)), _data(size)]
    if record["curves"]:
        parts += ["### Growth of a TopK step, one thread\n", _GROWTH, _table(_growth(record["curves"]))]
    if record["sweep"]:
        parts += ["### Many runs at once\n", _sweep(record["sweep"])]
    return "\n".join(parts)


_GROWTH = """\
Slope of log processor time against log size, all else as at small size, with its 95 % interval over the points; a cost
of one part that grows and one that does not has no single exponent, so the slope is a mean over the range.
"""


def _facts(record: Mapping[str, Any]) -> str:
    env, options = record["env"], record["options"]
    load = " to ".join(f"{entry[0]:.1f}" for entry in (record["load"][0], record["load"][-1]))
    return (
        f"Command: `{record['command']}`, {record['minutes']:.0f} minutes on {record['created'][:10]}; {env['cpu']}, "
        f"{record['cores']} cores, load {load}; torch {env['torch']}, numpy {env['numpy']}, Python {env['python']}, "
        f"commit {str(env['commit'])[:12]}{'+dirty' if str(env['commit']).endswith('dirty') else ''}; "
        f"seeds 0; {options['rounds']} rounds (peers: {options['peer_rounds']}).\n\n"
        "A step is a whole step of the public `fit`: fresh rows, biases, unit norm and gradient projection, clipping, "
        "dead tracking, one logged step in every turn. Its time is given in fp32 encoder products "
        "[batch, n_p] x [n_p, n_q], measured in the same process before and after every turn: the median over rounds, "
        "quartiles in brackets. How it is measured, and what the states are: [docs/speed.md](docs/speed.md).\n"
    )


def _table(rows: Iterator[list[str]]) -> str:
    return table(rows) + "\n"


def _text(some: Spread | None, digits: int = 2) -> str:
    return "-" if some is None else some.text(digits)


def _whole(some: Spread | None) -> str:
    return "-" if some is None else f"{some.median:.0f}"


def _medians(some: Iterable[Spread | None]) -> list[float]:
    return [one.median for one in some if one is not None]


def _of(contender: Mapping[str, Any], state: str, threads: int = 1, time: int = CPU) -> Spread | None:
    return spread(ratios(contender, state, threads, time).values())


def _best(contenders: Mapping[str, Any], state: str) -> tuple[str, Spread] | None:
    steps = {who: _of(c, state) for who, c in contenders.items() if who != "monosem"}
    timed = {who: step for who, step in steps.items() if step is not None}
    return min(timed.items(), key=lambda one: one[1].median, default=None)


def _goals(size: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["goal", "case", "must / stretch", "now", "reached", "15/16 dead", "best peer", "best peer over monosem"]
    for name, contenders in size["cases"].items():
        case, ours = CASES[name], contenders["monosem"]
        if case.row not in GOALS:
            continue
        must, stretch = GOALS[case.row]
        now, dead = _of(ours, case.states[0]), _of(ours, "dead")
        worst = max(_medians([now, dead]), default=None)
        reached = "-" if worst is None else "stretch" if worst <= stretch else "must" if worst <= must else "no"
        others = {**size["cases"].get(_SAME_STEP.get(name, name), contenders), "monosem": ours}
        best = _best(others, case.states[0])
        peer = [f"{PEER_NAMES[best[0]]} {_text(best[1], 1)}"] if best else ["-"]
        peer += [_text(over_ours(others, best[0], case.states[0]) if best else None, 1)]
        yield [case.row, f"`{name}`", f"{must} / {stretch}", _text(now), reached, _text(dead), *peer]


def _missed(size: Mapping[str, Any]) -> Iterator[str]:
    """Where the time goes in every case that misses its goal."""
    for name, contenders in size["cases"].items():
        ours, case = contenders["monosem"], CASES[name]
        now = _of(ours, case.states[0])
        if case.row not in GOALS or now is None or now.median <= GOALS[case.row][0] or "profile" not in ours:
            continue
        unit = milliseconds(ours, case.states[0], "product")
        product = "" if unit is None else f" (one product: {unit.median:.0f})"
        rows = ", ".join(f"`{what}` {ms:.0f}" for what, ms in ours["profile"][:8])
        yield f"`{name}` misses its goal. Own time by call, ms a step{product}: {rows}.\n"


def _methods(size: Mapping[str, Any], threads: list[int]) -> Iterator[list[str]]:
    more = [count for count in threads if count > 1]
    head = ["method", "state", "step", "ms", "L0", "dead", "peak MB", "over floor"]
    yield head + [text for t in more for text in (f"step, {t} threads", f"scaling of the product's, {t} threads")]
    for name, contenders in size["cases"].items():
        ours = contenders["monosem"]
        for state in dict.fromkeys(turn["state"] for turn in ours["turns"]):
            pairs = ((_of(ours, state, t, WALL), scaling(ours, state, t)) for t in more)
            yield [*_method(name, state, size["shape"], ours), *(_text(one) for pair in pairs for one in pair)]


def _method(name: str, state: str, shape: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """A case in one state, with one thread; memory is that of the first state."""
    case, memory = CASES[name], ours["memory_mb"]
    floor = 4 * 2 * 4 * shape["n_p"] * shape["n_q"] * (2 if "crosscoder" in name else 1) / 1e6
    facts = [turn["facts"] for turn in ours["turns"] if turn["state"] == state][-1]
    return [
        f"`{case.method.replace('{k}', str(shape['k']))}`{' (dense)' * name.endswith('_dense')}",
        state.replace("_", " "),
        _text(_of(ours, state)),
        _whole(milliseconds(ours, state)),
        f"{facts['l0']:.0f}",
        f"{facts['dead']:.2f}",
        *((f"{memory:.0f}", f"{memory / floor:.2f}") if state == case.states[0] else ("", "")),
    ]


def _peers(size: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["case", "library", "step", "over monosem", "ms", "peak MB"]
    for name, contenders in size["cases"].items():
        state = CASES[name].states[0]
        for who, contender in contenders.items():
            if who == "monosem":
                continue
            label = [f"`{name}`", f"{PEER_NAMES[who]} {contender.get('version', '')}"]
            if "error" in contender:
                yield [*label, f"failed: {contender['error']}", "", "", ""]
                continue
            step, ratio = _of(contender, state), over_ours(contenders, who, state)
            ms, memory = _whole(milliseconds(contender, state)), f"{contender['memory_mb']:.0f}"
            yield [*label, _text(step, 1), _text(ratio, 1), ms, memory]


def _floor(size: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["piece", "ms", "in products"]
    unit = milliseconds(size["floor"], "floor", "product")
    yield ["**one fp32 encoder product, into memory that is there**", _text(unit, 1), "1"]
    for name, (ms, share) in floor_pieces(size["floor"], list(PIECES)).items():
        yield [PIECES[name], _text(ms, 1), _text(share, 3)]


def _data(size: Mapping[str, Any]) -> str:
    pieces = floor_pieces(size["floor"], ["data"])
    step = _of(size["cases"]["topk"]["monosem"], "trained") if "topk" in size["cases"] else None
    if not pieces or step is None:
        return ""
    return f"Fresh rows are {pieces['data'][1].median / step.median:.1%} of a TopK step.\n"


def _growth(curves: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["size", "from, to", "exponent of a step", "exponent of the product", "step, ms", "step, products"]
    for axis, points in curves.items():
        fine = [point for point in points if point["turns"]]
        values = [point["value"] for point in fine]
        steps, products = (_medians(milliseconds(p, "trained", what) for p in fine) for what in ("steps", "product"))
        slopes = ["{:.2f} ± {:.2f}".format(*exponent(values, costs)) for costs in (steps, products)]
        units = ", ".join(f"{unit:.1f}" for unit in _medians(_of(point, "trained") for point in fine))
        yield [axis, f"{values[0]}, {values[-1]}", *slopes, ", ".join(f"{ms:.0f}" for ms in steps), units]


def _sweep(runs: Mapping[str, Any]) -> str:
    one, two = runs["seconds"]["1"], runs["seconds"]["2"]
    same = "the same bits as" if runs["equal"] else "NOT the same bits as"
    return (
        f"{runs['jobs']} runs of {runs['steps']} steps on `{runs['task']}`, scored: {one:.0f} s in one process, "
        f"{two:.0f} s in two ({one / two:.2f} times as fast), with {same} every run alone in a process of its own.\n"
    )


def write_pages(records: Path, root: Path) -> None:
    """The speed part of BENCHMARKS.md, its figure, and the page of phases, from records alone."""
    from benchmarks.figure import speed_figure
    from benchmarks.live import write_page
    from benchmarks.phases import page
    from benchmarks.quality_page import write_quality
    from monosem.report import write_figure

    speed = read_json(records / "cpu.json")
    figure = "docs/figures/speed.svg"
    label = "Training steps of monosem and of other libraries in encoder products, and growth with each size"
    write_figure(root / figure, speed_figure(speed), label)
    fill(root / "BENCHMARKS.md", {"speed": f"## Speed on a CPU\n\n{speed_page(speed, figure)}"})
    note = "<!-- Generated from benchmarks/records/phases.json by `python -m benchmarks pages`; do not edit. -->\n\n"
    write_quality(records, root)
    write_page(read_json(records / "live.json"), root / "docs" / "harvest.md")
    write_atomic(root / "docs" / "speed_phases.md", (note + page(read_json(records / "phases.json"))).encode())

"""Studies that are drawn: figures 4 and 5 from the theory's checks, figure 9 from table 1's runs, 10 and 11 at once."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from monosem.base.errors import DataError, check
from monosem.base.files import read_json, write_atomic, write_json
from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.bench.records import environment
from monosem.core.activations import JumpReLU, ReLU
from monosem.report.summary import Line
from monosem.theory.checks.base import examine
from monosem.theory.checks.registry import CHECKS
from monosem.theory.hierarchy import absorb
from monosem.theory.instances import plane
from monosem.theory.loss import best_decoder, loss
from monosem.theory.patterns import pattern_of
from monosem.theory.problem import Problem
from monosem.theory.zeroset import recovery, unrecovering
from studies.bench.base import STUDIES, Scale
from studies.bench.queue import outcomes
from studies.report.study import Cell, cells
from studies.report.study_examples import top_examples
from studies.theory.claims import draw_zero_loss

_Made = tuple[Figure, dict[str, Any], str]
"""A figure, the numbers behind it, and what it shows in a sentence or two."""


@dataclass(frozen=True)
class Drawn:
    """A figure of the paper that keeps no runs of its own: `make(folder, scale)`."""

    title: str
    make: Callable[[Path, Scale], _Made]


def _checked(*names: str) -> dict[str, Any]:
    """The verdicts of checks, ready for JSON."""
    return {
        name: {
            "claim": report.claim,
            "statement": report.statement,
            "as_documented": report.as_documented,
            "verdict": _plain(report.verdict),
            "counter_cases": {case: {"caught": not v.holds, **_plain(v)} for case, v in report.counter.items()},
        }
        for name, report in ((name, examine(CHECKS[name])) for name in names)
    }


def _plain(verdict: Any) -> dict[str, Any]:
    found = {"holds": verdict.holds, **dataclasses.asdict(verdict)}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()}


def _figure4(folder: Path, scale: Scale) -> _Made:
    """Four features in the plane, loss zero, none recovered: the very instance of the theory's figure."""
    W = plane(0, 75, 170, 260)
    problem = Problem(W, W, torch.ones(4), ReLU(), 4)
    W_D, W_E = unrecovering(problem, philox(1, "figure/zero"), steps=600, starts=8)
    value, got = float(loss(problem, W_D, W_E)), recovery(problem, W_D, W_E)
    numbers: dict[str, Any] = {
        "n": 4,
        "n_p": 2,
        "n_q": 4,
        "loss": value,
        "recovered": {"decoder": got.decoder, "encoder": got.encoder},
        "checks": _checked("zero_loss", "zero_without_recovery"),
    }
    text = (
        f"n = n_q = 4 in 2 dimensions: L~ = {value:.1e}, recovered at .95: {got.decoder:.0%} by decoder columns, "
        f"{got.encoder:.0%} by encoder rows. {_say(numbers['checks'])}"
    )
    return draw_zero_loss(), numbers, text


def dog() -> tuple[Problem, torch.Tensor]:
    """Figure 5's Dog: four breeds that share a direction, and one latent that fires on them all (JumpReLU, theta = .3).

    w_breed = (3 dog + 2 own) / sqrt 13 with orthonormal dog and own; the row is dog less .15 own of the first breed.
    """
    own = torch.eye(5, dtype=torch.float64)
    W = (3 * own[:, :1] + 2 * own[:, 1:]) / 13**0.5
    return Problem(W, W, torch.ones(4), JumpReLU(theta=0.3), 1), (own[0] - 0.15 * own[1])[None]


def _figure5(folder: Path, scale: Scale) -> _Made:
    """Dog before and after absorption, by the repaired construction of theorem 3.8."""
    problem, W_E = dog()
    split = absorb(problem, W_E, 0)
    stages = {"before": (problem, W_E), "after": (split.problem, split.W_E)}
    codes = {name: where.codes(rows).T.tolist() for name, (where, rows) in stages.items()}
    losses = {name: float(loss(where, best_decoder(where, rows), rows)) for name, (where, rows) in stages.items()}
    patterns = {name: str(pattern_of(where, rows)) for name, (where, rows) in stages.items()}
    numbers: dict[str, Any] = {
        "pattern": patterns,
        "codes": codes,
        "loss": losses,
        "reached": split.reached,
        "checks": _checked("absorption", "absorption_printed", "parent_invisible"),
    }
    text = (
        f"Pattern {patterns['before']} becomes {patterns['after']}; least L~ {losses['before']:.3f} to "
        f"{losses['after']:.3f}. {_say(numbers['checks'])}"
    )
    return _dog_figure(codes), numbers, text


def _dog_figure(codes: dict[str, list[list[float]]]) -> Figure:
    from monosem.report.style import INK

    figure = Figure(figsize=(7.2, 2.3), layout="constrained")
    names = ["Border Collie", "breed 2", "breed 3", "breed 4"]
    titles = {"before": "the Dog latent fires on every breed", "after": "absorbed: silent on the Border Collie"}
    for axes, (name, rows) in zip(figure.subplots(1, 2), codes.items(), strict=True):
        axes.imshow(rows, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=INK if value < 0.8 else "white")
        axes.set_xticks(range(4), names, fontsize=8)
        axes.set_yticks(range(len(rows)), ["Dog", "new latent"][: len(rows)], fontsize=8)
        axes.set_title(titles[name], fontsize=9, loc="left", color=INK)
    return figure


def _figure9(folder: Path, scale: Scale) -> _Made:
    """Similarity heat maps of table 1's runs; the specification does not say what the paper's figure 9 shows."""
    from monosem.report.figures import similarity_figure

    found = {
        (cell.row, cell.arm): cell for cell in cells(STUDIES["table1"], outcomes(STUDIES["table1"], scale, folder))
    }
    made = [_line(found, row) for row in dict.fromkeys(row for row, _ in found)]
    lines = [line for line in made if line is not None]
    figure = similarity_figure(lines) if lines else None
    if figure is None:
        raise DataError(f"{folder} holds no run of table1 at scale {scale.name}; run `monosem study table1` first")
    first = {
        f"{line.label}, {arm.name}": {
            "world": arm.records[0]["seed"]["world"],
            "wall_time_s": arm.records[0]["wall_time_s"],
        }
        for line in lines
        for arm in line.arms
    }
    text = (
        "cos of the first scored features (rows) with their best latents (columns), our defaults, plain above found "
        "anchors, one world each. What the paper's figure 9 shows is not known to us: our copy of its text names "
        "the figure and no more."
    )
    return figure, {"runs": first}, text


def _line(found: dict[tuple[str, str], Cell], row: str) -> Line | None:
    arms = [cell.found for arm in ("ours", "ours+discovered") if (cell := found.get((row, arm))) and cell.found]
    if not arms:
        return None
    plain = next((arm for arm in arms if not arm.anchored), None)
    return Line(row, row, arms[0].records[0]["task"]["pairing"], {}, plain, tuple(a for a in arms if a.anchored))


def _examples(anchored: bool, folder: Path, scale: Scale) -> _Made:
    """Figures 10 and 11 on images; a minute's training at most, so nothing is kept."""
    return top_examples(anchored, 200 if scale.name == "nano" else 2000)


def _say(checks: dict[str, Any]) -> str:
    good = [name for name, one in checks.items() if one["as_documented"]]
    return f"Checks as documented: {', '.join(good)}" + ("." if len(good) == len(checks) else "; OTHERS FAIL.")


def draw_study(name: str, folder: str | Path, scale: Scale) -> str:
    """Make a drawn study, write NAME.json and NAME.svg into a folder, and return what it shows.

    Raises: DataError: it reads runs that are not there; UnknownNameError.
    """
    from monosem.report.style import to_svg

    folder, one = Path(folder), DRAWN[name]
    figure, numbers, text = one.make(folder, scale)
    check(bool(numbers), f"{name} has no numbers", DataError)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(
        folder / f"{name}.json",
        {"study": name, "title": one.title, "shows": text, **numbers, "env": environment(), "created": created},
    )
    write_atomic(folder / f"{name}.svg", to_svg(figure, one.title).encode())
    return drawn_text(name, folder)


def drawn_text(name: str, folder: str | Path) -> str:
    """What a drawn study shows, from its record in a folder; that it was not drawn, where there is none."""
    folder, title = Path(folder), DRAWN[name].title
    record = folder / f"{name}.json"
    if not record.is_file():
        return f"{title}\n\nNot drawn.\n"
    return f"{title}\n\n{read_json(record)['shows']}\n{folder / f'{name}.svg'}, {record}\n"


DRAWN: Registry[Drawn] = Registry("figure")
DRAWN.add("figure4", Drawn("Figure 4: loss zero, and no feature recovered", _figure4))
DRAWN.add("figure5", Drawn("Figure 5: absorption, Dog and its breeds", _figure5))
DRAWN.add("figure9", Drawn("Figure 9: similarity of true features and latents, on table 1's runs", _figure9))
DRAWN.add("figure10", Drawn("Figure 10: top-activating examples, without anchoring", partial(_examples, False)))
DRAWN.add("figure11", Drawn("Figure 11: top-activating examples, with anchoring", partial(_examples, True)))

"""`monosem tune`: train every combination of some settings, and choose by rows held out, without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from monosem.cli.console import check_device, err, fail
from monosem.cli.options import Answer, Group, command_of, opt
from monosem.cli.shared import RowsOptions, quoted
from monosem.cli.train import TRAINING
from monosem.train.config import FitConfig

if TYPE_CHECKING:
    from monosem.bench.tune import Tuned
    from monosem.cli.tables import Sheet

_SHOWN = ("steps", "batch_size", "lr", "device")
_TRIALS = Group("Training", {name: TRAINING.help[name] for name in (*_SHOWN, "seed", "threads")}, shown=_SHOWN)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `monosem tune`."""

    rows: RowsOptions
    method: Annotated[str, opt('Method, such as "topk"; `monosem list methods` names them.', complete="methods")]
    n_q: Annotated[int, opt("Number of latents, unless --vary varies it.", "--n-q")]
    vary: Annotated[
        list[str],
        opt('Setting and its values, as "k=8,16,32": an argument of the method, n_q, or an option of training with '
            "underscores, as batch_size; repeated, all combinations are trained."),
    ]  # fmt: skip
    by: Annotated[str, opt("Criterion that chooses: length, projection, fvu, or agreement with --twins.")] = "length"
    twins: Annotated[
        bool, opt("Train each twice, on halves of the rows, and score how far the two agree.", "--twins")
    ] = False
    config: Annotated[FitConfig, _TRIALS]


@command_of(TuneOptions)
def tune(o: TuneOptions) -> Answer:
    """Choose k, width or length of training by rows held out: every combination is trained and scored, without labels.

    Prints the command that trains with the choice on all rows. How much is lost against a choice by the truth, in
    worlds whose features are known, stands in docs/tune.md.
    """
    from monosem.bench.tune import CRITERIA, applied
    from monosem.bench.tune import tune as run
    from monosem.methods import method

    check_device(o.config.device)
    known = [name for name in CRITERIA if o.twins or name != "agreement"]
    if o.by not in known:
        fail(f"--by {o.by}; one of {', '.join(known)}{'' if o.twins else ', or agreement with --twins'}")
    vary = dict(map(_values, o.vary))
    source = o.rows.open(method(o.method).pairing)
    source.normalised()
    with err().status("training") as status:
        tuned = run(
            o.method, source, o.n_q, vary, o.config, criteria=known, twins=o.twins,
            on_trial=lambda done, all: status.update(f"trained {done} of {all}"),
        )  # fmt: skip
    best = tuned.best(o.by).settings
    chosen, n_q, config = applied(o.method, o.n_q, best, o.config)
    plain = FitConfig()
    changed = [name for name in TRAINING.help if getattr(config, name, None) != getattr(plain, name, None)]
    more = [word for name in changed for word in (f"--{name.replace('_', '-')}", getattr(config, name))]
    folder = Path("runs") / chosen.spec.partition("(")[0]
    train = quoted("--method", chosen.spec, "--n-q", n_q, *more, "--out", folder)
    facts = {"by": o.by, "best": best, "trials": tuned.table()}
    return Answer(facts, _table(tuned, known, o.by), f"monosem train {o.rows.written()} {train}")


def _values(text: str) -> tuple[str, list[Any]]:
    """A name and its values; what is no number is text."""
    name, _, values = text.partition("=")
    if not name or not all(values.split(",")):
        fail(f'--vary {text!r}; write a name and its values, as "k=8,16,32"')
    return name.strip().replace("-", "_"), [_value(value.strip()) for value in values.split(",")]


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _table(tuned: "Tuned", criteria: Sequence[str], by: str) -> "Sheet":
    """A line per trial, the chosen one marked."""
    from monosem.cli.tables import Sheet

    names = list(tuned.trials[0].settings)
    sheet = Sheet(f"{tuned.method}: less is better; chosen by {by}", (*names, *criteria), keys=len(names))
    for trial in tuned.trials:
        cells = [str(trial.settings[name]) for name in names] + [f"{trial.scores[name]:.4g}" for name in criteria]
        sheet.add(*cells, style="bold" if trial is tuned.best(by) else "")
    return sheet

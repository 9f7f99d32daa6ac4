"""Do anchors help, family by family of worlds? Paired tests over worlds, corrected for their number.

python -m studies families           TopK, plain and anchored, worlds 5 to 9 of four families, into runs/families
python -m studies pack runs/families studies/records/bench-families.jsonl.gz
python -m studies families forms     every form beside plain recipes, discovery and K-SVD, ten other worlds a family

A family is a task and a method. Worlds 0 to 4, and lrb/mini-hard, are records of `monosem bench`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from monosem import Anchoring, Anchors, fit, task
from monosem.anchors import PRINTED
from monosem.bench import TaskSource, environment, fit_config, plan, read_records, recall_precision, run_jobs
from monosem.dictionary import CLASSICAL, discover
from monosem.methods import method, with_anchoring
from monosem.report import HEADLINE, Interval, Section, fill, interval, sections, table
from studies.page import provenance
from studies.stored import packed, run_missing, stored

PAGE, OUT = Path("docs/anchoring.md"), Path("runs/families")
TASKS = ("lrb/cone", "lrb/clusters", "lrb/blocks", "lrb/network")
RECORDS = ("bench-worlds", "bench-families", "bench-mini-hard")
METHOD, STEPS, WORLDS = "topk(k=3, aux=0.03125)", 1000, 10


SEEDS = range(4000, 4010)
FORMS: Mapping[str, Anchoring] = {
    "default": Anchoring(),
    "as the paper has it": PRINTED,
    "frozen": Anchoring(hard=True),
    "a start alone": Anchoring(weight=0.0),
    "direction alone": Anchoring(form="direction"),
    "both sides": Anchoring(sides="both"),
    "encoder alone": Anchoring(sides="encoder"),
}


def main(words: Sequence[str] = ()) -> None:
    """Run what OUT lacks, world by world; or what the record of forms lacks."""
    if words[:1] == ["forms"]:
        torch.set_num_threads(1)
        about = {"command": "python -m studies families forms", "env": environment()}
        run_missing("families/forms", about, _arms())
        return
    jobs = [job for name in words or TASKS for job in plan(name, [METHOD], seeds=WORLDS, steps=STEPS) if job.seed > 4]
    run_jobs(sorted(jobs, key=lambda job: job.seed), OUT, workers=1)


def _arms() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for seed in SEEDS:
        for name in TASKS:
            yield f"{name}/{seed}", partial(_world, name, seed)


def _world(name: str, seed: int) -> dict[str, Any]:
    """Every arm in one world: the share of features that no arm anchors, of those that an atom meets."""
    source = TaskSource(task(name, seed=seed))
    x, W, given = source.take(torch.arange(source.rows or 0))[0], source.W_p, source.task.anchors
    l0 = float(source.world.take(torch.arange(len(x)), ()).features.l0.float().mean())
    near, more = f"topk(k={round(l0)})", f"topk(k={round(l0) + 1})"
    known, discovery = Anchors(W[:, :given], W[:, :given]), discover(x, seed=seed)
    trained = partial(_trained, source, seed)
    arms: dict[str, Callable[[], Tensor]] = {
        "plain": partial(trained, more),
        **{form: partial(trained, more, known, how) for form, how in FORMS.items()},
        "discovered anchors": partial(trained, more, discovery.confident(), Anchoring()),
        "plain, k near": partial(trained, near),
        "default, k near": partial(trained, near, known, Anchoring()),
        "LISTA": partial(trained, f"lista(l1=to_l0({l0:.2f}))"),
        "discovery": lambda: discovery.anchors.p,
        "K-SVD": partial(CLASSICAL["ksvd"], x, W.shape[1], k=max(2, round(l0)), iterations=30, seed=seed),
    }
    scores = {arm: float(recall_precision(learned(), W[:, given:])["recall"]) for arm, learned in arms.items()}
    return {"scores": scores, "given": given, "scored": W.shape[1] - given, "near": near, "more": more}


def _trained(
    source: TaskSource, seed: int, text: str, anchors: Anchors | None = None, how: Anchoring | None = None
) -> Tensor:
    chosen = method(text) if how is None else with_anchoring(method(text), how)
    config = fit_config(source.task.name, seed, STEPS)
    return fit(chosen, source, source.task.n_q, config, anchors).model.W_D.detach()


def page() -> None:
    """Fill the page."""
    records = [record for name in RECORDS for record in read_records(packed(name))]
    tested = list(_gains(sections(records)))
    chances = holm([p_value(gain) for _, _, _, gain in tested])
    rows: list[Sequence[object]] = [("task", "method", "worlds", "plain, %", "gain, points", "p", "p, Holm")]
    for (name, label, plain, gain), (p, corrected) in zip(tested, chances, strict=True):
        size = f"{100 * gain.mean:+.1f} ± {100 * (gain.half or 0.0):.1f}"
        rows.append((f"`{name}`", label, gain.n, f"{100 * plain:.1f}", size, f"{p:.4f}", f"{corrected:.4f}"))
    sure = sum(corrected < 0.05 for _, corrected in chances)
    words = f"After correction {sure} of {len(chances)} differ from 0 (p < .05)."
    parts = {"families": f"{table(rows, numbers=True)}\n\n{words} {provenance(records)}."}
    record = stored("families/forms")
    fill(PAGE, parts | {"forms": "Not run yet." if record is None else _forms(record)})


BASES = dict.fromkeys((*FORMS, "discovered anchors"), "plain") | {"default, k near": "plain, k near"}
"""What each anchored arm is compared with: the plain run of the same k."""
Runs = Mapping[str, list[dict[str, Any]]]


def _forms(record: Mapping[str, Any]) -> str:
    """Means by family; for anchored arms the gain over the plain run, with a star where Holm's p < .05."""
    runs: Runs = {name: [run for key, run in record["runs"].items() if key.startswith(f"{name}/")] for name in TASKS}
    marks = _marks(runs)
    rows: list[Sequence[object]] = [("arm", *(f"`{name}`" for name in runs))]
    rows += [
        (arm, *(f"{_mean(some, arm)}{marks.get((name, arm), '')}" for name, some in runs.items()))
        for arm in _arms_of(runs)
    ]
    rows.append(("features an anchor, default", *map(_price, runs.values())))
    about = f"Points of M_GT(.95); in brackets the gain over plain, * where Holm's p < .05 over {len(marks)} tests"
    worlds = f"{min(map(len, runs.values()))} worlds a family; {STEPS} steps"
    return f"{table(rows, numbers=True)}\n\n{about}. {worlds}; {provenance([record])}."


def _marks(runs: Runs) -> dict[tuple[str, str], str]:
    """The gain of each anchored arm in each family, with its star."""
    gains = {(name, arm): _gain(runs[name], arm, base) for name in runs for arm, base in BASES.items()}
    chances = [corrected for _, corrected in holm([p_value(gain) for gain in gains.values()])]
    stars = ["*" * (p < 0.05) for p in chances]
    return {key: f" ({gain.mean:+.0f}{star})" for (key, gain), star in zip(gains.items(), stars, strict=True)}


def _arms_of(runs: Runs) -> list[str]:
    return list(next(iter(runs.values()))[0]["scores"])


def _mean(runs: Sequence[Mapping[str, Any]], arm: str) -> str:
    return f"{100 * mean(run['scores'][arm] for run in runs):.0f}"


def _gain(runs: Sequence[Mapping[str, Any]], arm: str, base: str) -> Interval:
    return interval(100 * (run["scores"][arm] - run["scores"][base]) for run in runs)


def _price(runs: Sequence[Mapping[str, Any]]) -> str:
    """Features gained beyond the anchors, for each anchor given."""
    gain = _gain(runs, "default", BASES["default"]).mean / 100
    return f"{gain * runs[0]['scored'] / runs[0]['given']:+.2f}"


def _gains(every: Iterable[Section]) -> Iterator[tuple[str, str, float, Interval]]:
    """(task, method, plain score, gain) of every line that has plain and anchored runs in the same worlds."""
    for section in every:
        for line in section.lines:
            gain = line.gain(line.anchored[0]) if line.anchored else None
            if gain is not None and line.plain is not None:
                yield section.task, line.label, mean(line.plain.by_seed(HEADLINE).values()), gain


def p_value(gain: Interval) -> float:
    """The two-sided p of Student's paired test, from the interval of the differences; 1 for a single world.

    Example:
        >>> round(p_value(Interval(2.0, 2.484, 3)), 3)
        0.074
    """
    if gain.half is None:
        return 1.0
    if gain.half == 0.0:
        return float(gain.mean == 0.0)
    t = abs(gain.mean) / (gain.half / float(stdtrit(gain.n - 1, 0.975)))
    return 2.0 * float(stdtr(gain.n - 1, -t))


def holm(chances: Sequence[float]) -> list[tuple[float, float]]:
    """Each p, and what it is after Holm's correction.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [(0.01, 0.03), (0.04, 0.06), (0.03, 0.06)]
    """
    order, corrected, most = sorted(range(len(chances)), key=lambda i: chances[i]), [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(chances) - rank) * chances[i]))
        corrected[i] = most
    return list(zip(chances, corrected, strict=True))

"""Which metrics of the bench can be trusted? The three lenses of arXiv 2605.18229, on committed records.

python -m studies lenses    damages true dictionaries step by step and scores each; nothing is trained

Noise: how a metric varies over seeds of one arm. Telling apart: in what share of pairs of arms the paired interval of
the differences leaves out 0, and whether longer training does better. Validity: what a metric does while a true
dictionary is damaged, and while a model is written with other lengths of its encoder rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem import task
from monosem.base import Positions, SparseCode, canonical, torch_generator
from monosem.bench import (
    Coded,
    CodeTruth,
    Matching,
    TaskSource,
    environment,
    evaluate,
    flatten,
    hedging,
    read_records,
    score,
    uniqueness,
)
from monosem.dictionary import nonnegative_omp
from monosem.report import HEADLINE, fill, table
from studies.page import provenance
from studies.stored import packed, run_missing, stored

PAGE = Path("docs/lenses.md")
METRICS: Mapping[str, int] = {
    **{f"decoder_cosine.M_GT@{tau}": 1 for tau in ("0.8", "0.9", "0.95", "0.99")},
    "decoder_cosine.M_IP": 1,
    "decoder_signed.M_GT@0.95": 1,
    "decoder_signed.M_IP": 1,
    "encoder_cosine.M_GT@0.95": 1,
    "encoder_cosine.M_IP": 1,
    "encoder_raw.M_GT@0.95": 1,
    "encoder_raw.M_IP": 1,
    "matched_mcc.all": 1,
    "matched_mcc.pairs": 1,
    "duplicates.per_feature": -1,
    "uniqueness": 1,
    "hedging": -1,
    "codes.f1": 1,
    "codes.precision": 1,
    "codes.recall": 1,
    "codes.missing": -1,
    "codes.splitting": -1,
    "codes.by_frequency.bin0.f1": 1,
    "codes.by_frequency.bin4.f1": 1,
    "fvu": -1,
    "dead": -1,
}
"""Every metric that says what is better, and whether more of it is (1) or less (-1)."""
RECORDS = ("bench-mini", "bench-mini-hard", "bench-hierarchy", "bench-worlds", "study-mini", "study-mini-hard",
           "study-paper")  # fmt: skip
TASK, SEEDS, ROWS, LEVELS = "lrb/blocks", (0, 1, 2), 512, 4
LEAST_SEEDS, SMALL = 3, 0.02


def _turned(W: Tensor, level: float, noise: Tensor) -> Tensor:
    """Every column turned by up to 60 degrees to a side of its own."""
    aside = torch.nn.functional.normalize(noise - (noise * W).sum(0) * W, dim=0)
    angle = torch.tensor(level * torch.pi / 3)
    return angle.cos() * W + angle.sin() * aside


def _some(W: Tensor, level: float) -> int:
    """How many of the columns are damaged: up to three quarters."""
    return round(0.75 * level * W.shape[1])


def _merged(W: Tensor, level: float, _: Tensor) -> Tensor:
    """The first columns pair by pair replaced by their sums."""
    count = _some(W, level) // 2 * 2
    return torch.cat([W[:, 0:count:2] + W[:, 1:count:2], W[:, count:]], 1)


def _copied(W: Tensor, level: float, _: Tensor) -> Tensor:
    """The first columns replaced by copies of the others."""
    count = _some(W, level)
    rest = W[:, count:]
    return torch.cat([rest, rest[:, torch.arange(count) % rest.shape[1]]], 1)


DAMAGE: Mapping[str, Callable[[Tensor, float, Tensor], Tensor]] = {
    "turned": _turned,
    "mixed": lambda W, level, _: W + level * W.roll(1, 1),
    "lost": lambda W, level, _: W[:, _some(W, level) :],
    "merged": _merged,
    "copied": _copied,
    "padded": lambda W, level, noise: torch.cat([W, noise[:, : round(level * W.shape[1])]], 1),
}
"""Faults by name: of unit true columns, a level from 0 to 1, and random unit columns as many as those."""


def main(words: Sequence[str] = ()) -> None:
    """Score what the record lacks."""
    torch.set_num_threads(1)
    run_missing("lenses", {"command": "python -m studies lenses", "env": environment()}, _ladders())


def _ladders() -> Iterator[tuple[str, Callable[[], Any]]]:
    for seed in SEEDS:
        source = TaskSource(task(TASK, seed=seed))
        for name in DAMAGE:
            yield f"{name}/{seed}", lambda name=name, source=source, seed=seed: _ladder(name, source, seed)  # type: ignore[misc]
        half = _damaged("turned", source, seed, 0.5)
        yield f"lengths/{seed}", lambda D=half, source=source: [_scores(D, source, by) for by in (1.0, 10.0)]  # type: ignore[misc]


def _ladder(name: str, source: TaskSource, seed: int) -> list[dict[str, float]]:
    """Every metric, level by level from the truth on."""
    return [_scores(_damaged(name, source, seed, level / LEVELS), source) for level in range(LEVELS + 1)]


def _damaged(name: str, source: TaskSource, seed: int, level: float) -> Tensor:
    """The true columns at one level of damage."""
    unit = torch.nn.functional.normalize
    noise = torch.randn(source.W_r.shape, generator=torch_generator(seed, f"lenses/{name}"))
    return DAMAGE[name](unit(source.W_r, dim=0), level, unit(noise, dim=0))


def _scores(D: Tensor, source: TaskSource, scale: float = 1.0) -> dict[str, float]:
    """A dictionary whose rows are coded by a pursuit, its encoder its columns, `scale` times as long as unit ones."""
    D = torch.nn.functional.normalize(D, dim=0)
    truth = source.held_out(ROWS)
    x = source.pair(truth)[1]
    z = nonnegative_omp(x - source.offset_r, D, int(truth.features.l0.max()), 1e-4) * scale
    code = SparseCode(Positions.from_mask(z != 0), z[z != 0])
    D = D / scale
    truths, every = CodeTruth(Matching.of(D, source.W_r)), torch.arange(source.task.world.n)
    truths.add(code, truth.features)
    metrics = score(scale**2 * D.T, D, source.W_p, source.W_r) | {"codes": truths.metrics(every)}
    metrics |= evaluate([Coded(x, z @ D.T + source.offset_r, code, truth.features.l0)])
    metrics |= {"uniqueness": uniqueness(D, source.W_r), "hedging": hedging(D, source.W_r)}
    numbers, _ = flatten(metrics)
    return {metric: numbers[metric] for metric in METRICS}


@cache
def _runs() -> list[dict[str, Any]]:
    """Committed runs, without the features' maps and curves."""
    kept = ("study", "task", "method", "anchors", "config", "seed", "metrics", "env")
    return [{name: run[name] for name in kept} for file in RECORDS for run in read_records(packed(file))]


Cells = Mapping[str, Mapping[str, Mapping[int, np.ndarray]]]


def _cells(same: Callable[[Mapping[str, Any]], Any], of: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """The metrics of every run as a vector, NaN where it has none: by `same`, by `of`, by seed."""
    cells: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    for run in _runs():
        vector = [run["metrics"].get(name, {}).get("value") for name in METRICS]
        values = np.array([np.nan if value is None else value for value in vector], dtype=float)
        cells[canonical(same(run))][canonical(of(run))][run["seed"]["world"]] = values
    return cells


def _arm(run: Mapping[str, Any], without: Sequence[str] = ("seed",)) -> list[Any]:
    config = {name: value for name, value in run["config"].items() if name not in without}
    return [run["method"]["spec"], run["anchors"], config]


def _where(run: Mapping[str, Any]) -> list[Any]:
    return [run["task"]["name"], run["task"]["version"], run["task"]["pairing"], run["config"].get("held_out")]


def noise(cells: Cells) -> np.ndarray:
    """The median over arms of the standard deviation over seeds, as a share of the mean."""
    shares = []
    for arms in cells.values():
        for seeds in arms.values():
            values = np.stack(list(seeds.values()))
            if len(values) >= LEAST_SEEDS:
                level = np.abs(values.mean(0))
                shares.append(np.where(level > 1e-3, values.std(0, ddof=1) / np.maximum(level, 1e-3), np.nan))
    middle: np.ndarray = np.nanmedian(np.stack(shares), 0)
    return middle


def told_apart(cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pairs of arms: how many there are, the share told apart, and the headline's share in the same pairs.

    Told apart: the 95 % interval of the differences world by world leaves out 0. Means over tasks.
    """
    from scipy.stats import t

    head = list(METRICS).index(HEADLINE)
    pairs, own, others = [], [], []
    for arms in cells.values():
        apart = []
        for one, other in combinations(arms.values(), 2):
            both = sorted(set(one) & set(other))
            if len(both) >= LEAST_SEEDS:
                d = np.stack([one[seed] - other[seed] for seed in both])
                half = t.ppf(0.975, len(both) - 1) * d.std(0, ddof=1) / np.sqrt(len(both))
                apart.append(np.where(np.isnan(d).any(0), np.nan, np.abs(d.mean(0)) > half))
        if apart:
            every = np.stack(apart)
            pairs.append((~np.isnan(every)).sum(0))
            own.append(_mean(every))
            others.append(_mean(np.where(np.isnan(every), np.nan, every[:, [head]])))
    return np.sum(pairs, 0), _mean(np.stack(own)), _mean(np.stack(others))


def longer(cells: Cells, least: float = 2.0) -> tuple[int, np.ndarray]:
    """In how many pairs of runs one is `least` times as long; the share of them in which it is the better one."""
    import json

    signs, better = np.array(list(METRICS.values())), []
    for lengths in cells.values():
        for short, long in combinations(sorted(lengths, key=lambda text: int(json.loads(text))), 2):
            if int(json.loads(long)) >= least * int(json.loads(short)):
                for seed in sorted(set(lengths[short]) & set(lengths[long])):
                    gain = signs * (lengths[long][seed] - lengths[short][seed])
                    better.append(np.where(np.isnan(gain), np.nan, (np.sign(gain) + 1) / 2))
    return len(better), _mean(np.stack(better))


def _mean(values: np.ndarray) -> np.ndarray:
    """Column means without NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    return np.where(there.any(0), np.nansum(values, 0) / np.maximum(there.sum(0), 1), np.nan)


def follows(cells: Cells, truth: str = "matched_mcc.all", least: int = 8) -> np.ndarray:
    """The rank correlation of arms by a metric, less by `truth` features: mean over the tasks with enough arms."""
    from scipy.stats import spearmanr

    signs, place, tasks = np.array(list(METRICS.values())), list(METRICS).index(truth), []
    for arms in cells.values():
        means = np.stack([signs * np.mean(list(seeds.values()), axis=0) for seeds in arms.values()])
        if len(means) >= least:
            tasks.append([_correlation(spearmanr, means[:, i], means[:, place], least) for i in range(len(signs))])
    return _mean(np.array(tasks))


def _correlation(rank: Callable[..., Any], a: np.ndarray, b: np.ndarray, least: int) -> float:
    """NaN where there are too few, or one of them does not vary."""
    there = ~np.isnan(a) & ~np.isnan(b)
    varied = there.sum() >= least and np.ptp(a[there]) > 0 and np.ptp(b[there]) > 0
    return float(rank(a[there], b[there]).statistic) if varied else float("nan")


def anchors_by_loss(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """By task, of anchored runs beside the plain one of the same seeds: [same sign, loss alone gains, features alone].

    Does a lower FVU say that anchors brought features? Pairs of equal M_GT(.95) are left out.
    """
    plain: dict[str, Any] = {}
    anchored: list[tuple[str, str, Any]] = []
    for run in runs:
        config = {name: value for name, value in run["config"].items() if name != "seed"}
        key = canonical([_where(run), run["method"]["spec"], config, run["seed"]])
        if run["anchors"] is None:
            plain[key] = run["metrics"]
        else:
            anchored.append((key, run["task"]["name"], run["metrics"]))
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for key, name, metrics in anchored:
        if key in plain:
            more = metrics[HEADLINE]["value"] - plain[key][HEADLINE]["value"]
            better = metrics["fvu"]["value"] < plain[key]["fvu"]["value"]
            if more:
                counts[name][0 if (more > 0) == better else 1 if better else 2] += 1
    return dict(counts)


def _by_loss() -> str:
    counts = anchors_by_loss(_runs())
    head = ("task", "pairs", "agree", "lower FVU, fewer features", "higher FVU, more features")
    rows = [(name, sum(three), *three) for name, three in sorted(counts.items())]
    total = [sum(three[i] for three in counts.values()) for i in range(3)]
    return table([head, *rows, ("all", sum(total), *total)], numbers=True)


def _ladder_of(record: Mapping[str, Any], name: str, metric: str) -> np.ndarray:
    """How good a metric calls each level of damage: mean over worlds, the truth first."""
    runs = [record["runs"][f"{name}/{seed}"] for seed in SEEDS]
    values: np.ndarray = METRICS[metric] * np.array([[level[metric] for level in run] for run in runs]).mean(0)
    return values


def page() -> None:
    """The table of every metric under every lens, and what follows."""
    record = stored("lenses")
    if record is None:
        fill(PAGE, {"lenses": "Not run yet.", "loss": _by_loss()})
        return
    lenses = _Lenses.of(record)
    rows: list[Sequence[str]] = [("metric", "verdict", *LENSES, *DAMAGE)]
    rows += [lenses.row(i, name) for i, name in enumerate(METRICS)]
    pairs = f"{lenses.count} pairs of arms, {lenses.code_count} where codes were scored; {lenses.lengths} of lengths"
    made = f"{len(_runs())} runs; {pairs}. Ladders: {provenance([record])}; runs: {provenance(_runs())}."
    fill(PAGE, {"lenses": f"{table(rows, numbers=True)}\n\n{made}", "loss": _by_loss()})


LENSES = ("varies", "told apart", "headline there", "longer is better", "follows features")
_LENGTH = ("seed", "steps", "log_every", "checkpoint_every")


@dataclass(frozen=True, eq=False)
class _Lenses:
    """Every lens, metric by metric in the order of METRICS."""

    record: Mapping[str, Any]
    seen: Mapping[str, np.ndarray]
    pairs: np.ndarray
    lengths: int

    @staticmethod
    def of(record: Mapping[str, Any]) -> "_Lenses":
        cells = _cells(_where, _arm)
        pairs, own, head = told_apart(cells)
        lengths, better = longer(_cells(lambda r: [_where(r), _arm(r, _LENGTH)], lambda r: r["config"]["steps"]))
        columns = (noise(cells), own, head, better, follows(cells))
        return _Lenses(record, dict(zip(LENSES, columns, strict=True)), pairs, lengths)

    @property
    def count(self) -> int:
        """Pairs of arms with the headline."""
        return int(self.pairs[list(METRICS).index(HEADLINE)])

    @property
    def code_count(self) -> int:
        """Pairs of arms whose codes were scored."""
        return int(self.pairs[list(METRICS).index("codes.f1")])

    def row(self, i: int, name: str) -> Sequence[str]:
        """A line of the table."""
        ladders = [_ladder_of(self.record, damage, name) for damage in DAMAGE]
        shown = ["" if np.isnan(self.seen[lens][i]) else f"{self.seen[lens][i]:.2f}" for lens in LENSES]
        falls = (f"{ladder[-1] - ladder[0]:+.2f}".replace("-0.00", "+0.00") for ladder in ladders)
        return (f"`{name}`", self.verdict(i, name, ladders), *shown, *falls)

    def verdict(self, i: int, name: str, ladders: Sequence[np.ndarray]) -> str:
        """By the rules of the page, in their order."""
        own, head = self.seen["told apart"][i], self.seen["headline there"][i]
        rises = [float(np.diff(ladder).max()) for ladder in ladders]
        reasons = {
            "lengths": self._moved(name),
            f"likes *{list(DAMAGE)[int(np.argmax(rises))]}*": max(rises) > SMALL,
            "seeds": self.seen["varies"][i] > 0.25,
            "power": own < head / 2,
            "ranking": self.seen["follows features"][i] < 0.3,
        }
        failed = [reason for reason, holds in reasons.items() if holds]
        return ", ".join(failed) if failed else "stands"

    def _moved(self, metric: str) -> bool:
        """Whether it changes where the same function is written with other lengths."""
        runs = [self.record["runs"][f"lengths/{seed}"] for seed in SEEDS]
        return any(abs(run[1][metric] - run[0][metric]) > 1e-3 for run in runs)

"""Do anchors help, family by family of worlds? Paired tests over worlds, corrected for their number.

python -m studies families           TopK, plain and anchored, worlds 5 to 9 of four families, into runs/families
python -m studies pack runs/families studies/records/bench-families.jsonl.gz

A family is a task and a method. Worlds 0 to 4, and lrb/mini-hard, are records of `monosem bench`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from scipy.special import stdtr, stdtrit

from monosem.bench import plan, read_records, run_jobs
from monosem.report import HEADLINE, Interval, Section, fill, sections, table
from studies.page import provenance
from studies.stored import packed

PAGE, OUT = Path("docs/anchoring.md"), Path("runs/families")
TASKS = ("lrb/cone", "lrb/clusters", "lrb/blocks", "lrb/network")
RECORDS = ("bench-worlds", "bench-families", "bench-mini-hard")
METHOD, STEPS, WORLDS = "topk(k=3, aux=0.03125)", 1000, 10


def main(words: Sequence[str] = ()) -> None:
    """Run what OUT lacks, world by world."""
    jobs = [job for name in words or TASKS for job in plan(name, [METHOD], seeds=WORLDS, steps=STEPS) if job.seed > 4]
    run_jobs(sorted(jobs, key=lambda job: job.seed), OUT, workers=1)


def page() -> None:
    """Fill the page."""
    records = [record for name in RECORDS for record in read_records(packed(name))]
    tested = list(_gains(sections(records)))
    chances = holm([p_value(gain) for _, _, _, gain in tested])
    rows: list[Sequence[object]] = [("task", "method", "worlds", "plain, %", "gain, points", "p", "p, Holm")]
    for (task, label, plain, gain), (p, corrected) in zip(tested, chances, strict=True):
        size = f"{100 * gain.mean:+.1f} ± {100 * (gain.half or 0.0):.1f}"
        rows.append((f"`{task}`", label, gain.n, f"{100 * plain:.1f}", size, f"{p:.4f}", f"{corrected:.4f}"))
    sure = sum(corrected < 0.05 for _, corrected in chances)
    words = f"After correction {sure} of {len(chances)} differ from 0 (p < .05)."
    fill(PAGE, {"families": f"{table(rows, numbers=True)}\n\n{words} {provenance(records)}."})


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

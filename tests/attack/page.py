"""The page of the attack: counts by fault class and outcome, from the committed record."""

from pathlib import Path

from monosem.base.files import read_json, write_atomic
from tests.attack.worker import GOOD

RECORD = Path(__file__).with_name("record.json")
PAGE = Path(__file__).parents[2] / "docs" / "attack.md"


def write_page() -> Path:
    """Write docs/attack.md."""
    return write_atomic(PAGE, page().encode())


def page() -> str:
    """The page as text."""
    record = read_json(RECORD)
    lines = ["<!-- written by `python -m tests.attack page` from tests/attack/record.json -->", "", "# Attack", ""]
    lines += [
        "`make attack` damages files in every way of `tests/attack/damage.py` and calls the commands that read them,",
        "each in a process of its own with limits of 30 s of processor time and 1 GB of memory. The product of files,",
        f"operators and {record['draws']} draws of each is sampled by a seed, each fault class as often as the others.",
        "A case is good if the command accepts the file (many changes leave it valid: another description, a bit of",
        "a text that nobody reads) or ends with one line that names what is wrong. What it read, and what lies beside",
        "it, is compared before and after. A case that finds a fault is tried again when that is mended.",
        "",
    ]
    for part in record["files"]:
        lines += _files(part)
    lines += _kills(record["kills"])
    return "\n".join(lines) + "\n"


def _files(part: dict[str, object]) -> list[str]:
    counts = part["counts"]
    assert isinstance(counts, list)
    outcomes = sorted({entry["outcome"] for entry in counts}, key=lambda name: (name not in GOOD, name))
    faults = sorted({entry["fault"] for entry in counts})
    table = {(entry["fault"], entry["outcome"]): entry["cases"] for entry in counts}
    lines = [f"## Files, seed {part['seed']}: {part['cases']:,} of {part['product']:,} cases", ""]
    lines += ["| fault class | " + " | ".join(outcomes) + " |", "|---|" + "---:|" * len(outcomes)]
    for fault in faults:
        lines.append(f"| {fault} | " + " | ".join(str(table.get((fault, outcome), 0)) for outcome in outcomes) + " |")
    sums = [sum(table.get((fault, outcome), 0) for fault in faults) for outcome in outcomes]
    return [*lines, "| **all** | " + " | ".join(f"**{n}**" for n in sums) + " |", ""]


def _kills(entries: list[dict[str, object]]) -> list[str]:
    lines = ["## Runs that are disturbed", ""]
    lines += [
        "A run is hit by SIGKILL, SIGTERM or Ctrl-C at random moments, up to four times, or it meets a full disk (the",
        "system refuses to let files grow) over what an earlier life left, or two processes start at once. Then it is",
        "called again. `same`: every tensor, log line, record and shard is that of a run that nobody disturbed.",
        "`wrong`: a life ended neither by its blow nor with a named error, and the run was not gone on with.",
        "`command` is `monosem train`, which must end Ctrl-C and SIGTERM with one line and a code of its own.",
        "",
        "| run | outcome | runs | kills |",
        "|---|---|---:|---:|",
    ]
    lines += [f"| {e['kind']} | {e['outcome']} | {e['runs']} | {e['kills']} |" for e in entries]
    runs, kills = (sum(int(str(e[name])) for e in entries) for name in ("runs", "kills"))
    return [*lines, f"| **all** | | **{runs}** | **{kills}** |"]

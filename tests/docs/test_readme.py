"""Every number of README is held by a record: its generated parts word for word, the others one by one."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.summary import ratios, spread
from monosem.base.files import read_json
from monosem.bench.records import read_records
from monosem.bench.tasks import TASKS
from studies.catalog import committed
from studies.results import readme_parts
from studies.stored import packed, stored

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
NAMES = r"arXiv 2512\.05534|CPython 3\.11|Python 3\.11|3\.1[23]|95 % intervals|\(FVU above 1\)|table 1"
"""Numbers that measure nothing: a paper, a version, a level, a bound, a title."""


def prose(text: str) -> str:
    """What is written by hand: without generated parts, code, and where links lead; on one line."""
    for away in (r"<!-- begin (\w+) -->.*?<!-- end \1 -->", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(away, " ", text, flags=re.DOTALL)
    return " ".join(text.split())


def speed() -> tuple[str, ...]:
    """Encoder products of a step at the paper's size, one thread: ours and the fastest peer's, TopK and BatchTopK."""
    said = []
    for case in ("topk", "batch_topk"):
        contenders = read_json(ROOT / "benchmarks/records/cpu.json")["sizes"]["paper"]["cases"][case]
        steps = {who: spread(ratios(contender, "trained").values()) for who, contender in contenders.items()}
        medians = {who: step.median for who, step in steps.items() if step is not None}
        ours = medians.pop("monosem")
        said += [f"{ours:.1f}", f"{min(medians.values()):.1f}"]
    return tuple(said)


def stories() -> tuple[str, ...]:
    """Rows, seconds of one core to harvest and to train, latents and percent of the loss recovered, of the SAE."""
    record = stored("stories/sae")
    assert record is not None
    (effect,) = record["scores"]["effects"]
    clean, spliced, zero = (effect["ce"][name] for name in ("clean", "spliced", "zero"))
    times = (f"{record['seconds'][what]['cpu']:.0f}" for what in ("harvest", "train"))
    share = f"{100 * (zero - spliced) / (zero - clean):.0f}"
    return (f"{record['rows']:,}", *times, f"{record['n_q']:,}", share)


def rows_of_the_paper() -> tuple[str, ...]:
    """Rows of the paper's task, on which plain TopK recovers every feature."""
    plain = committed("table1", "paper").by_place["topk", "ours"].value("decoder_cosine.M_GT@0.95")
    assert plain is not None
    assert plain.mean == 1.0
    return (f"{TASKS['lrb/paper'].world.rows:,}",)


CLAIMS: dict[str, Callable[[], tuple[str, ...]]] = {
    r"a TopK step costs (\S+) encoder products, sparsify's (\S+); a BatchTopK step (\S+), "
    r"that of the fastest peer (\S+) ": speed,
    r"On stories15M, (\S+) tokens and one core: (\d+) s to harvest and (\d+) s to train (\S+) latents "
    r"that recover (\d+) % ": stories,
    r"With (\S+) rows, plain TopK recovers every feature": rows_of_the_paper,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_number_is_the_record_s(claim: str) -> None:
    match = re.search(claim, prose(README))
    assert match, "README no longer says this; take the claim away, or mend it"
    assert match.groups() == CLAIMS[claim]()


def test_no_other_number_is_written_by_hand() -> None:
    rest = prose(README)
    for known in (NAMES, *CLAIMS):
        rest = re.sub(known, " ", rest)
    assert not re.findall(r"\b\d[\d.,]*\S*", re.sub(r"\bstories15M\b", "", rest))


def test_generated_parts_are_those_of_the_records() -> None:
    for name, text in readme_parts().items():
        assert f"<!-- begin {name} -->\n{text.strip()}\n<!-- end {name} -->" in README


def test_models_that_reconstruct_worse_than_the_mean_are_named() -> None:
    runs = read_records(packed("bench-mini-hard"))
    worse = {run["method"]["name"] for run in runs if run["metrics"]["fvu"]["value"] > 1.0}
    assert worse == {"batch_topk", "matryoshka"}
    assert "`batch_topk` and `matryoshka` reconstruct held-out rows worse than their mean" in " ".join(README.split())


def test_a_number_of_no_record_is_seen() -> None:
    assert prose("It is 12 times\n as fast `as 13` [of](14.md) ```15```") == "It is 12 times as fast [of"

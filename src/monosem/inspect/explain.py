"""What a latent means, in words: prompts for a judge, and how well its words tell held-out firings from other rows."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosem.base.errors import ArgumentError, DataError, check
from monosem.base.files import LARGEST_JSON, plain_file, read_json, write_atomic, write_json
from monosem.base.schema import read
from monosem.base.seeds import philox
from monosem.base.spec import digest
from monosem.core.model import SDL
from monosem.inspect.collect import Inspection, collect
from monosem.inspect.fold import Keep
from monosem.inspect.options import Options
from monosem.inspect.rows import Rows
from monosem.networks.edits import latent_values

Judge = Callable[[str], str]
"""What answers a prompt: a language model, a person, a file of answers."""

LABELS = "labels.json"
"""Where a dictionary's folder keeps what `explain` says of its latents, and `monosem inspect` finds it."""


@dataclass(frozen=True, eq=False)
class Passage:
    """A stretch of text and a latent's values on its tokens."""

    words: tuple[str, ...]
    values: tuple[float, ...]

    def written(self, marked: Sequence[bool] | None = None) -> str:
        """The text on one line; runs of marked tokens stand between « and »."""
        parts, inside = [], False
        for word, mark in zip(self.words, marked or [False] * len(self.words), strict=True):
            if mark != inside:
                parts.append("«" if mark else "»")
            parts.append(word)
            inside = mark
        return " ".join(("".join(parts) + "»" * inside).split())

    @property
    def fires(self) -> list[bool]:
        """Where the latent fires."""
        return [value != 0 for value in self.values]


@dataclass(frozen=True)
class Explained:
    """Words for a latent and what they are worth on firings that were not shown for them.

    Equation: balanced accuracy, (share of positives that are chosen + share of negatives that are not) / 2; chance is
        1/2. detection: positives are passages on which the latent fires, negatives those on which it does not; fuzzing:
        positives have its tokens marked, negatives as many others. None without enough passages.
    Source: Paulo et al. 2024 (detection and fuzzing).
    """

    latent: int
    label: str
    detection: float | None
    fuzzing: float | None
    passages: int


class _Pending(Exception):
    """A prompt that has no answer yet."""


class Answers:
    """A judge whose answers lie in a file; prompts without one are collected, to be written and answered elsewhere.

    Lines are {"id": ..., "prompt": ...} to be answered and {"id": ..., "answer": ...} that were; ids name the prompts.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.known: dict[str, str] = {}
        self.open: dict[str, str] = {}
        if path is None or not Path(path).is_file():
            return
        plain_file(path, LARGEST_JSON)
        for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
            try:
                entry = json.loads(line)
                self.known[str(entry["id"])] = str(entry["answer"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DataError(
                    f'{path}, line {number}, is no {{"id": ..., "answer": ...}}; write one a line'
                ) from None

    def __call__(self, prompt: str) -> str:
        """The answer. Raises: _Pending without one."""
        name = digest(prompt)[:16]
        if name not in self.known:
            self.open[name] = prompt
            raise _Pending
        return self.known[name]

    def write(self, path: str | Path) -> int:
        """Write the prompts that wait for an answer; returns how many."""
        lines = (json.dumps({"id": name, "prompt": prompt}, ensure_ascii=False) for name, prompt in self.open.items())
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        return len(self.open)


def command_judge(command: str, seconds: float = 300) -> Judge:
    """A program that reads a prompt and writes its answer. Raises: ArgumentError when it fails."""

    def judge(prompt: str) -> str:
        try:
            done = subprocess.run(
                command, shell=True, input=prompt, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ArgumentError(f"the judge {command!r} took over {seconds:g} s; give a faster one") from None
        check(done.returncode == 0, f"the judge {command!r} failed ({done.returncode}): {done.stderr.strip()[:200]}")
        return done.stdout

    return judge


def explain(
    model: SDL,
    rows: Rows,
    judge: Judge,
    latents: Sequence[int],
    *,
    shown: int = 10,
    scored: int = 10,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Explained]:
    """Words for latents, and their scores. A latent whose prompts wait for an answer is left out.

    The judge sees `shown` of a latent's strongest passages, with its tokens marked. It is then asked which of `scored`
    other firings, drawn from all and of other passages, and of as many rows without one its words describe.
    Raises: DataError when the rows are no tokens; ArgumentError for a latent that is not there.
    """
    check(rows.kind == "tokens", f"the rows are {rows.kind}; explanations need tokens of documents", DataError)
    wrong = [j for j in latents if not 0 <= j < model.n_q]
    for name, count in (("shown", shown), ("scored", scored)):
        check(count >= 1, f"{name}={count}; give at least one passage")
    check(not wrong, f"latents {wrong[:4]} are not there; number them 0 to {model.n_q - 1}")
    options = Options(top=shown, sample=shown + scored, band=0, nearest=0, seed=seed)
    inspection = collect(model, rows, options, progress)
    quiet = _quiet(model, rows, latents, scored, options)
    explained = []
    for latent in latents:
        firings = _held_out(inspection, rows, latent)[:scored]
        try:
            value = _explained(latent, inspection, rows, firings, quiet[latent], judge, seed)
        except _Pending:
            continue
        if value is not None:
            explained.append(value)
    return explained


def _explained(
    latent: int,
    inspection: Inspection,
    rows: Rows,
    firings: list[Passage],
    quiet: list[Passage],
    judge: Judge,
    seed: int,
) -> Explained | None:
    """One latent; None for one that never fires."""
    strongest = list(_passages(inspection.top, rows, latent, inspection.options))
    if not strongest:
        return None
    label = " ".join(judge(_explain_prompt(strongest)).split())[:300]
    random = philox(seed, "explain", latent)
    number = min(len(firings), len(quiet))
    detection = fuzzing = None
    if number >= 2:
        positives, negatives = ([p.written() for p in part[:number]] for part in (firings, quiet))
        detection = _score(judge, _DETECT, label, positives, negatives, random)
    moved = [(p, _elsewhere(p, random)) for p in firings]
    moved = [(p, marks) for p, marks in moved if marks is not None]
    if len(moved) >= 4:
        half = len(moved) // 2
        right = [p.written(p.fires) for p, _ in moved[:half]]
        fuzzing = _score(judge, _FUZZ, label, right, [p.written(marks) for p, marks in moved[half:]], random)
    return Explained(latent, label, detection, fuzzing, len(firings))


def _explain_prompt(passages: Sequence[Passage]) -> str:
    """What the judge is asked for words."""
    listed = "\n".join(f"{i + 1}. {passage.written(passage.fires)}" for i, passage in enumerate(passages))
    return (
        "A feature of a language model is active on the words between « and » in these passages, and on no others:\n\n"
        f"{listed}\n\nSay in one short phrase what it stands for, as specifically as the passages allow. Answer with "
        "the phrase alone.\n"
    )


_DETECT = "Which of these passages hold it?"
_FUZZ = "In which of these passages are the words between « and » instances of it?"


def _score(
    judge: Judge, question: str, label: str, positives: Sequence[str], negatives: Sequence[str], random: Any
) -> float:
    """Balanced accuracy of the judge's choice among the passages, in a keyed order."""
    passages = [*((text, True) for text in positives), *((text, False) for text in negatives)]
    passages = [passages[i] for i in random.permutation(len(passages))]
    listed = "\n".join(f"{i + 1}. {text}" for i, (text, _) in enumerate(passages))
    prompt = (
        f"A feature of text: {label}\n\n{listed}\n\n{question} Answer with their numbers, separated by commas, or with "
        "none.\n"
    )
    chosen = {int(number) for number in re.findall(r"\d+", judge(prompt))}
    rates = []
    for kind in (True, False):
        right = [(i + 1 in chosen) == kind for i, (_, truth) in enumerate(passages) if truth == kind]
        rates.append(sum(right) / len(right))
    return sum(rates) / 2


def _passages(keep: Keep, rows: Rows, latent: int, options: Options) -> Iterator[Passage]:
    """The contexts of a latent that were kept."""
    for place in np.flatnonzero(keep.row[latent] >= 0).tolist():
        row, left = int(keep.row[latent, place]), int(keep.left[latent, place])
        right = int(keep.right[latent, place])
        window = keep.window[latent, place][options.before - left : options.before + right + 1]
        yield Passage(_words(rows, row - left, row + right + 1), tuple(float(v) for v in window))


def _words(rows: Rows, start: int, stop: int) -> tuple[str, ...]:
    assert rows.token is not None
    assert rows.decode is not None
    return tuple(rows.decode([int(token) for token in rows.token[start:stop]]))


def _held_out(inspection: Inspection, rows: Rows, latent: int) -> list[Passage]:
    """Firings drawn from all, of passages that are not among the strongest."""
    seen = set(inspection.top.passage[latent].tolist())
    passages = list(_passages(inspection.sample, rows, latent, inspection.options))
    return [
        p for p, number in zip(passages, inspection.sample.passage[latent].tolist(), strict=False) if number not in seen
    ]


@torch.no_grad()
def _quiet(model: SDL, rows: Rows, latents: Sequence[int], number: int, options: Options) -> dict[int, list[Passage]]:
    """For every latent, stretches of text on which it does not fire, drawn from all rows."""
    length = options.before + 1 + options.after
    starts = philox(options.seed, "explain/quiet").permutation(max(1, rows.count - length))[: 8 * number + 64]
    quiet: dict[int, list[Passage]] = {latent: [] for latent in latents}
    chosen = torch.tensor(list(latents), dtype=torch.int64)
    for start in starts.tolist():
        if all(len(passages) >= number for passages in quiet.values()):
            break
        stop = start + int((rows.segment[start : start + length] == rows.segment[start]).sum())
        if stop - start < 4:
            continue
        x_p, _ = rows.source.take(torch.arange(start, stop))
        fired = (latent_values(model(x_p.to(model.b_E)).code, chosen) != 0).any(0).tolist()
        words = _words(rows, start, stop)
        for latent, fires in zip(latents, fired, strict=True):
            if not fires and len(quiet[latent]) < number:
                quiet[latent].append(Passage(words, (0.0,) * len(words)))
    return quiet


def _elsewhere(passage: Passage, random: Any) -> list[bool] | None:
    """As many marks on tokens without a firing; None where there are too few."""
    others = [i for i, fires in enumerate(passage.fires) if not fires]
    count = sum(passage.fires)
    if count == 0 or len(others) < count:
        return None
    picked = set(random.permutation(len(others))[:count].tolist())
    chosen = {others[i] for i in picked}
    return [i in chosen for i in range(len(passage.words))]


@dataclass(frozen=True)
class _Label(Explained):
    """An entry of LABELS."""

    judge: str


def save_labels(folder: str | Path, explained: Sequence[Explained], judge: str) -> Path:
    """Keep labels beside a dictionary; those of other latents stay."""
    labels = load_labels(folder) | {value.latent: asdict(value) | {"judge": judge} for value in explained}
    return write_json(Path(folder) / LABELS, {str(latent): label for latent, label in labels.items()})


def keep_exported(folder: str | Path, exported: str | Path, n_q: int) -> int:
    """Add the labels that a page exported to those beside a dictionary; returns how many.

    Raises: CheckpointError for a file that is no such one; DataError for latents that the dictionary has not.
    """
    new = _labels(Path(exported))
    beyond = [latent for latent in new if not 0 <= latent < n_q]
    check(not beyond, f"{exported} labels latents {beyond[:4]}; the dictionary has 0 to {n_q - 1}", DataError)
    write_json(Path(folder) / LABELS, {str(latent): label for latent, label in (load_labels(folder) | new).items()})
    return len(new)


def load_labels(folder: str | Path) -> dict[int, dict[str, Any]]:
    """What is kept beside a dictionary, by latent; empty without a file. Raises: CheckpointError for a damaged one."""
    path = Path(folder) / LABELS
    return _labels(path) if path.exists() else {}


def _labels(path: Path) -> dict[int, dict[str, Any]]:
    labels = read(dict[str, _Label], read_json(path), str(path))
    return {label.latent: asdict(label) for label in labels.values()}

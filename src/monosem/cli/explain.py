"""`monosem explain`: words for latents by a judge of one's own, scored on firings that were not shown for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from monosem.cli.console import err, fail, rate_bar, set_threads
from monosem.cli.inspect import InspectRows, training_rows
from monosem.cli.options import Answer, command_of, opt
from monosem.cli.shared import DictionaryOptions, Threads

if TYPE_CHECKING:
    from monosem.inspect.explain import Explained, Judge


@dataclass(frozen=True, kw_only=True)
class _ExplainOptions:
    """The options of `monosem explain`."""

    of: DictionaryOptions
    data: InspectRows
    latents: Annotated[str | None, opt("Numbers of latents, as 3,17,40 or 0-19. [default: the first 20]")] = None
    judge: Annotated[
        str | None, opt("Program that reads a prompt on its standard input and writes its answer to its output.")
    ] = None
    answers: Annotated[
        Path | None, opt('Answers to earlier prompts: lines of {"id": ..., "answer": ...}, instead of --judge.')
    ] = None
    prompts: Annotated[Path | None, opt("File for the prompts that wait for an answer: .jsonl.")] = None
    shown: Annotated[int, opt("Strongest passages of a latent that the judge sees.")] = 10
    scored: Annotated[int, opt("Other firings of a latent that its description is scored on.")] = 10
    seed: Annotated[int, opt("Seed for the passages that are sampled.", more=True)] = 0
    threads: Threads = None


@command_of(_ExplainOptions)
def explain(o: _ExplainOptions) -> Answer:
    """Say in words what latents fire on, and score the words on held-out firings.

    With --judge a program answers; without one, --prompts writes what is to be answered, and --answers reads it back:
    call the command again until nothing waits. Labels lie in the dictionary's folder, where `monosem inspect` shows
    them.
    """
    from monosem.inspect.explain import Answers, command_judge, save_labels
    from monosem.inspect.explain import explain as run
    from monosem.inspect.rows import rows_from

    set_threads(o.threads)
    if (o.judge is None) == (o.answers is None and o.prompts is None):
        fail("say who answers: --judge PROGRAM, or --prompts FILE to write and --answers FILE to read")
    folder = o.of.dictionary
    if not folder.is_dir():
        fail(f"{folder} is a file; labels are kept in a dictionary's folder")
    loaded = o.of.read()
    data, sites = training_rows(folder, o.data.data, (o.data.read, o.data.write))
    same = {name: getattr(o.data, name) for name in ("target", "key", "target_key", "rows")}
    with err().status(f"reading {data}"):
        rows = rows_from(data, loaded.model, read=sites[0], write=sites[1], **same)
    answers = Answers(o.answers)
    judge: Judge = answers if o.judge is None else command_judge(o.judge)
    n_q = loaded.model.n_q
    latents = list(range(min(20, n_q))) if o.latents is None else _numbers(o.latents, n_q)
    with rate_bar(rows.count) as progress:
        done = run(
            loaded.model,
            rows,
            judge,
            latents,
            shown=o.shown,
            scored=o.scored,
            seed=o.seed,
            progress=lambda count: progress(count, count),
        )
    path = save_labels(folder, done, o.judge or str(o.answers)) if done else None
    waiting = answers.write(o.prompts) if o.prompts is not None else len(answers.open)
    facts = {"labels": str(path) if path else None, "explained": len(done), "waiting": waiting}
    return Answer(facts, _table(done, waiting, o.prompts))


def _numbers(text: str, n_q: int) -> list[int]:
    """Latents of a text such as 3,17,40-49."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            fail(f"--latents {text}: {part.strip()!r} is no number and no range; write 3,17 or 0-19")
        chosen += range(int(first), int(last if dash else first) + 1)
    chosen = list(dict.fromkeys(chosen))
    beyond = [latent for latent in chosen if latent >= n_q]
    if beyond or not chosen:
        fail(f"--latents {text}: the dictionary has latents 0 to {n_q - 1}")
    return chosen


def _table(done: "list[Explained]", waiting: int, prompts: Path | None) -> str:
    """A line for each latent: its number, detection, fuzzing, its words; and what waits."""
    lines = ["latent  detect  fuzz  label"] * bool(done)
    for one in done:
        scores = ("-" if value is None else f"{value:.2f}" for value in (one.detection, one.fuzzing))
        lines.append("{:>6}  {:>6}  {:>4}  {}".format(one.latent, *scores, one.label))
    if waiting:
        lines.append(f"{waiting} prompts wait for an answer" + (f" in {prompts}" if prompts else "; --prompts FILE"))
    return "\n".join(lines)

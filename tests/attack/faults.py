"""Runs that are killed, that meet a full disk, or that two processes start at once: they end as one left alone does."""

import io
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import scipy.optimize  # noqa: F401 (here, as _dynamo: once and not in every fork, so that a kill meets a run)
import torch
import torch._dynamo

from monosem.base.errors import MonosemError, OutputError
from monosem.bench import records, task_scores
from monosem.bench.run import run_job
from monosem.cli import main
from monosem.networks.harvest import TokenFilter, harvest
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from studies.engine.bench import BenchRun
from tests.networks.networks import Tiny, masked_batches
from tests.train.scenes import SCENES
from tests.train.victims import JOB, contents

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
REFUSED, STOPPED = 3, 4
"""Exit codes of a child: a named error, an interrupt."""


@dataclass(frozen=True)
class Life:
    """A run from its first start to its end: how often it was killed, and whether it left what it should."""

    case: str
    fault: str
    outcome: str
    kills: int
    said: str = ""


def _train(folder: Path) -> None:
    made = SCENES["batch_topk"]()
    fit(made.method, made.source, made.n_q, made.config, made.anchors, out=folder)


def _bench(folder: Path) -> None:
    task_scores.EVAL_ROWS = 256
    records._commit = lambda file: None  # type: ignore[assignment]
    run_job(JOB, folder)


def _study(folder: Path) -> None:
    task_scores.EVAL_ROWS = 256
    records._commit = lambda file: None  # type: ignore[assignment]
    config = FitConfig(20, 32, 1e-2, log_every=5, checkpoint_every=4, threads=1)
    BenchRun("lrb/nano", "relu_l1", 0, config).run(folder, lambda step: None)


def _harvest(folder: Path) -> None:
    keep = TokenFilter((3, 17), 1)
    words = [f"word {i}" for i in range(40)]
    harvest(
        Tiny(),
        "layers.2:in,out",
        masked_batches(12),
        folder,
        keep=keep,
        dtype="bfloat16",
        shard_rows=40,
        vocabulary=words,
    )


def _command(folder: Path) -> None:
    """`monosem train`, which ends a signal with a code of its own and says what happened in one line."""
    words = "--method topk(k=3) --n-q 24 --steps 60 --batch-size 32 --log-every 5 --checkpoint-every 7 --threads 1"
    rows, printed = folder.parent / "x.npy", io.StringIO()  # memory, which a full disk leaves alone
    if not rows.exists():
        rows.parent.mkdir(parents=True, exist_ok=True)
        np.save(rows, np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32))
    sys.argv = ["monosem", "train", *words.split(), "--data", str(rows), "--out", str(folder)]
    try:
        with redirect_stderr(printed), redirect_stdout(printed):
            main()
    except SystemExit as end:
        said = printed.getvalue()
        lines = re.findall(r"(?m)^(?:error|interrupted).*", said)
        kinds = {130: KeyboardInterrupt, 143: KeyboardInterrupt, 2: OutputError}
        if end.code:
            one = len(lines) == 1 and "Traceback" not in said
            raise (kinds[end.code](lines[0]) if one else RuntimeError(f"exit code {end.code}: {said}")) from None


RUNS: Mapping[str, Callable[[Path], None]] = {
    "train": _train, "bench": _bench, "study": _study, "harvest": _harvest, "command": _command,
}  # fmt: skip


def start(kind: str, folder: Path, printed: Path, disk: int | None = None) -> int:
    """A forked process that makes a run; its number. `disk`: bytes of the largest file that it can write."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child can catch it
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        torch.set_num_threads(1)
        if disk is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, resource.RLIM_INFINITY))
        RUNS[kind](folder)
        code = 0
    except KeyboardInterrupt:
        code = STOPPED
    except BaseException as error:
        code = REFUSED if isinstance(error, OutputError) else 5 if isinstance(error, MonosemError) else 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        printed.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_WHOLE: dict[str, tuple[dict[str, object], float]] = {}
"""What every kind of run leaves when nobody disturbs it, and how long it takes."""


def whole(kind: str, scratch: Path) -> tuple[dict[str, object], float]:
    """The reference, made once."""
    if kind not in _WHOLE:
        began = time.monotonic()
        assert ended(start(kind, scratch / "alone", scratch / "said")) == 0, (scratch / "said").read_text()
        _WHOLE[kind] = plain(scratch / "alone"), time.monotonic() - began
    return _WHOLE[kind]


def plain(folder: Path) -> dict[str, object]:
    """All that a run left, every tensor; without the clock of a record."""
    left = contents(folder)
    return {name: _timeless(value) if name.endswith(".record.json") else value for name, value in left.items()}


def _timeless(text: bytes) -> bytes:
    clocks = (b' "created"', b' "wall_time_s"', b' "sha256"')
    return b"\n".join(line for line in text.splitlines() if not line.startswith(clocks))


def life(kind: str, number: int, scratch: Path, rng: Random) -> Life:
    """Disturb a run a few times, let it end, and compare: kills mostly, sometimes a full disk or a second process."""
    wanted, seconds = whole(kind, scratch)
    folder, printed = scratch / "run", scratch / "said.txt"
    fault = rng.choices(["killed", "full disk", "two at once"], [6, 1, 1])[0]
    case, kills = f"{number} {kind} {fault}", 0
    if fault == "killed":
        kills, wrong = _killed(kind, folder, printed, seconds, rng)
    elif fault == "full disk":
        wrong = _full(kind, folder, printed, seconds, rng)
    else:
        wrong = _two(kind, folder, scratch)
    if wrong:
        return Life(case, f"{kind}, {fault}", "wrong", kills, wrong)
    code = ended(start(kind, folder, printed))
    said = printed.read_text()[-1500:] if printed.exists() else ""
    if code != 0:
        return Life(case, f"{kind}, {fault}", f"ended with {code}", kills, said)
    left = plain(folder)
    differ = sorted(name for name in left.keys() | wanted.keys() if left.get(name) != wanted.get(name))
    return Life(case, f"{kind}, {fault}", "differs" if differ else "same", kills, ", ".join(differ))


def _killed(kind: str, folder: Path, printed: Path, seconds: float, rng: Random) -> tuple[int, str]:
    """(how often it was hit, what was wrong) of up to four lives."""
    kills = 0
    for _ in range(4):
        child, blow = start(kind, folder, printed), rng.choice(SIGNALS)
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(child, blow)
        code = ended(child)
        if code not in (0, -blow, STOPPED):
            return kills, f"{blow.name}: exit code {code}: {printed.read_text()[-1500:] if printed.exists() else ''}"
        kills += code != 0
    return kills, ""


def _full(kind: str, folder: Path, printed: Path, seconds: float, rng: Random) -> str:
    """Some of a run, then one whose disk is full: a named error, and what was there is there."""
    child = start(kind, folder, printed)
    time.sleep(rng.uniform(0.2, 1.0) * seconds)
    os.kill(child, signal.SIGKILL)
    ended(child)
    before = {path: path.stat().st_size for path in folder.rglob("*") if _final(path)} if folder.exists() else {}
    code = ended(start(kind, folder, printed, disk=rng.choice([0, 64, 2000, 8000])))
    if code not in (0, REFUSED):
        return f"exit code {code}: {printed.read_text()[-1500:] if printed.exists() else ''}"
    gone = [path.name for path in before if not path.exists() or path.stat().st_size == 0]
    return f"gone: {gone}" if gone else ""


def _final(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and ".part" not in str(path) and path.stat().st_size > 0


def _two(kind: str, folder: Path, scratch: Path) -> str:
    """Two at once: each ends, or is told that the other is there."""
    said = [scratch / f"said{i}" for i in range(2)]
    children = [start(kind, folder, printed) for printed in said]
    codes = [ended(child) for child in children]
    told_apart = all(code in (0, REFUSED) for code in codes) and 0 in codes
    texts = [printed.read_text()[-800:] for printed in said if printed.exists()]
    return "" if told_apart else f"exit codes {codes}: {texts}"

"""A contender in a process of its own: python -m benchmarks.worker '{"who": "monosem", ...}'."""

import json
import os
import sys
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch


def _load_lazily() -> None:
    """What torch loads only with the first optimiser (some 150 MB) belongs to the import baseline."""
    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(4, 8)).sum().backward()
    torch.optim.Adam(layer.parameters(), fused=True).step()


def _serve(asked: dict[str, Any], answers: Any) -> None:
    """Be the contender until the driver has had enough."""
    import monosem
    from benchmarks.contender import Beat
    from benchmarks.floor import floor
    from benchmarks.libraries import PEERS
    from benchmarks.ours import train
    from benchmarks.sizes import CASES, SIZES
    from monosem import __version__

    size, who = replace(SIZES[asked["size"]], **asked.get("changes", {})), asked["who"]
    beat = Beat(size, sys.stdin.readline, answers.write)
    peer = PEERS[who]() if who in PEERS else None
    _load_lazily()
    place = str(Path(str(monosem.__file__)).parents[1])
    beat.say(version=peer.version if peer else __version__, torch=str(torch.__version__), monosem=place)
    if peer:
        peer.train(asked["case"], size, beat)
    elif who == "floor":
        floor(size, beat)
    else:
        train(CASES[asked["case"]], size, beat)


def main(text: str) -> None:
    """Serve one contender: who ("monosem", "floor" or a peer), case, size, and sizes that differ from the named one."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        _serve(json.loads(text), answers)
    except Exception as error:  # said to the driver, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})"
        answers.write(json.dumps({"error": message}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

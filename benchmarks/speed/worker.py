"""A contender in a process of its own: python -m benchmarks.speed.worker '{"who": "monosem", ...}'."""

import json
import os
import sys
import traceback
import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks.speed.beat import Beat
from benchmarks.speed.floor import floor
from benchmarks.speed.ours import train
from benchmarks.speed.peers import PEERS
from benchmarks.speed.sizes import CASES, SIZES
from monosem.base.machine import package_version


def _load_lazily() -> None:
    """What torch loads only with the first optimiser (some 150 MB) belongs to the import baseline."""
    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(4, 8)).sum().backward()
    torch.optim.Adam(layer.parameters(), fused=True).step()


def main(text: str) -> None:
    """Serve one contender: who ("monosem", "floor" or a peer), case, size, and sizes that differ from the named one."""
    asked: dict[str, Any] = json.loads(text)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = replace(SIZES[asked["size"]], **asked.get("changes", {}))
    who = asked["who"]
    beat = Beat(size, sys.stdin.readline, answers.write)
    try:
        if who in PEERS:
            peer = PEERS[who]()
            versions = peer.version
        else:
            versions = package_version()
        _load_lazily()
        beat.say(version=versions, torch=str(torch.__version__))
        if who == "floor":
            floor(size, beat)
        elif who == "monosem":
            train(CASES[asked["case"]], size, beat)
        else:
            peer.train(asked["case"], size, beat)
    except Exception as error:  # said to the driver, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        beat.say(error=f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})")


if __name__ == "__main__":
    main(sys.argv[1])

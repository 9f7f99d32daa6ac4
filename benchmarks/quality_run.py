"""One training for the quality board, in its library's own environment: python -m benchmarks.quality_run '{...}'."""

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.libraries import PEERS, Reads, Rows
from benchmarks.quality import LR, METHODS
from benchmarks.sizes import SIZES, Size
from monosem import FitConfig
from monosem.base import DenseCode
from monosem.bench import Coded, RobustFVU, evaluate
from monosem.data import TensorSource
from monosem.train import fit

POINTS = 8
"""Scores of a run, spread evenly over its steps."""


class Scorer:
    """Processor seconds of a training, the scoring left out, and scores on rows that it does not see."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.held = {name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("validation", "test")}
        self.every, self.steps = max(1, steps // POINTS), steps
        self.points: list[dict[str, Any]] = []
        self.paused, self.start = 0.0, time.process_time()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What is done here costs the training nothing; it reads the library's model as its user would."""
        before, state = time.process_time(), torch.get_rng_state()
        with torch.no_grad():
            yield
        torch.set_rng_state(state)
        self.paused += time.process_time() - before

    def score(self, step: int, reads: Reads) -> None:
        """Scores after `step` steps."""
        cpu = time.process_time() - self.start - self.paused
        with self._aside():
            scores = {name: self._of(rows, reads) for name, rows in self.held.items()}
        self.points.append({"step": step, "cpu": round(cpu, 3), **scores})

    @staticmethod
    def _of(rows: Tensor, reads: Reads) -> dict[str, float]:
        robust, batches = RobustFVU(rows.shape[1]), []
        for x in torch.split(rows, 1024):
            x_hat, code = reads(x)
            robust.update(x, x_hat)
            batches.append(Coded(x, x_hat, DenseCode(code) if isinstance(code, Tensor) else code))
        return evaluate(batches) | robust.result().plain()


class FileRows(Rows):
    """Batches of a file in an order of a seed's own, until all are read; scores are taken between them."""

    def __init__(self, size: Size, x: Tensor, asked: dict[str, Any], scorer: Scorer) -> None:
        generator = torch.Generator().manual_seed(asked["seed"])
        order = torch.randperm(len(x), generator=generator).repeat(-(-scorer.steps * size.batch // len(x)))
        batches = (x[order[i * size.batch : (i + 1) * size.batch]] for i in range(scorer.steps))
        super().__init__(size, self._between, batches, steps=scorer.steps, factor=asked["factor"])
        self.scorer, self.step, self.norm = scorer, 0, float(x.square().sum(1).mean().sqrt())

    def _between(self) -> None:
        if self.reads is not None and 0 < self.step < self.scorer.steps and self.step % self.scorer.every == 0:
            self.scorer.score(self.step, self.reads)
        self.step += 1


def _ours(size: Size, x: Tensor, asked: dict[str, Any], scorer: Scorer) -> None:
    """Our `fit`, from the start and at the rate that are ours for real rows."""
    config = FitConfig(scorer.steps, size.batch, lr=LR * asked["factor"], seed=asked["seed"], log_every=scorer.every)

    def see(run: Any, entry: dict[str, float]) -> None:
        if 1 < run.step < scorer.steps:
            scorer.score(run.step, lambda x: _read(run.model, x))

    text = METHODS[asked["case"]].format(k=f"{asked['l0']:g}")
    model = fit(text, TensorSource(x), size.n_q, config, callbacks=[see]).model
    scorer.score(scorer.steps, lambda x: _read(model, x))


def _read(model: Any, x: Tensor) -> tuple[Tensor, Any]:
    out = model(x)
    return out.x_r_hat, out.code


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Train once. Returns: points [{step, cpu seconds, scores by part}], the library's version, seconds by the wall."""
    folder, began = Path(asked["rows"]), time.perf_counter()
    x = torch.from_numpy(np.load(folder / "train.npy"))
    size = replace(SIZES["small"], n_p=x.shape[1], **{name: asked[name] for name in ("n_q", "k", "batch")})
    peer = PEERS[asked["who"]]() if asked["who"] in PEERS else None
    torch.manual_seed(asked["seed"])
    scorer = Scorer(folder, asked["tokens"] // size.batch)
    if peer is None:
        _ours(size, x, asked, scorer)
    else:
        rows = FileRows(size, x, asked, scorer)
        peer.loop(asked["case"], size, rows)
        assert rows.reads is not None
        scorer.score(scorer.steps, rows.reads)
    version = peer.version if peer else "this checkout"
    return {"points": scorer.points, "version": version, "wall": round(time.perf_counter() - began, 1)}


def main(text: str) -> None:
    """Train as asked; the answer is the last line, whatever the library prints."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers.write(json.dumps(run(json.loads(text))) + "\n")
    answers.close()


if __name__ == "__main__":
    main(sys.argv[1])

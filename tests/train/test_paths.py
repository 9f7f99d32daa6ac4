"""A whole run ends where the reference's does: on the fast path, in plain torch, with bfloat16 selection."""

from dataclasses import replace

import pytest
import torch

from monosem.bench.defaults import fit_config, recipe
from monosem.bench.tasks import TaskSource, task
from monosem.core.model import SDL
from monosem.train.loop import fit
from monosem.train.update import Update

METHODS = ("topk", "batch_topk", "jumprelu")
STEPS = 150


def _score(name: str, path: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Share of features recovered, and the last FVU."""
    chosen = task("lrb/nano")
    source = TaskSource(chosen)
    start = SDL.__init__

    def on_path(self: SDL, *arguments: object, **named: object) -> None:
        start(self, *arguments, **named)  # type: ignore[arg-type]
        self.path = "reference" if path == "reference" else "auto"

    config = fit_config("lrb/nano", seed, STEPS)
    config = replace(config, selection="bf16" if path == "bf16" else "fp32")
    with monkeypatch.context() as patch:
        patch.setattr(SDL, "__init__", on_path)
        patch.setattr("monosem.kernels.select.has_bfloat16", lambda: True)
        if path == "plain":
            patch.setattr("monosem.kernels.native.calls.library", lambda: None)
            patch.setattr(Update, "_fusable", lambda self: [])
        result = fit(recipe("lrb/nano", name), source, chosen.n_q, config)
    W_D, W_r = (torch.nn.functional.normalize(w.detach().double(), dim=0) for w in (result.model.W_D, source.W_r))
    best = (W_r.T @ W_D).abs().amax(1)
    return float((best > 0.95).double().mean()), result.log[-1]["fvu"]


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("name", METHODS)
def test_paths_end_within_the_noise_of_seeds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [_score(name, "reference", seed, monkeypatch) for seed in range(3)]
    recovery, fvu = (torch.tensor(column) for column in zip(*seeds, strict=True))
    for path in ("auto", "plain", "bf16"):
        found = _score(name, path, 0, monkeypatch)
        assert abs(found[0] - seeds[0][0]) <= max(0.05, 2 * float(recovery.max() - recovery.min())), path
        assert abs(found[1] - seeds[0][1]) <= max(0.02, 2 * float(fvu.max() - fvu.min())), path

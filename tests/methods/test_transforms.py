"""Transforms Method -> Method change one thing and nothing else."""

import pytest
import torch

from monosem.anchors.directions import true_features
from monosem.base.errors import RefusedError
from monosem.core.activations import Context, TopK
from monosem.core.pairs import TensorSource
from monosem.losses.resample import Resample
from monosem.methods import k_annealing, method, with_resampling
from monosem.train.config import FitConfig
from monosem.train.loop import fit


def test_k_annealing_lets_k_fall_and_refuses_activations_without_k() -> None:
    annealed = k_annealing(method("topk(k=2)"), 8, over=0.5).activation
    assert isinstance(annealed, TopK)
    assert [annealed.k_at(Context(True, step, 8)) for step in (0, 2, 4, 8)] == [8, 5, 2, 2]
    assert k_annealing(method("topk(k=2)"), 8).terms == method("topk(k=2)").terms
    with pytest.raises(RefusedError, match="no k to anneal"):
        k_annealing(method("relu_l1"), 8)


def test_resampling_moves_dead_latents_but_never_anchored_ones() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=g)
    W = torch.nn.functional.normalize(torch.randn(8, 3, generator=g), dim=0)
    plain = method("topk(k=1, aux=0.0)")
    plan = Resample(every=4, begin=0.0, end=1.0, rows=64)
    config = FitConfig(steps=9, batch_size=4, dead_window=8, lr=1e-12)  # weights stand still but for resampling
    anchors = true_features(W, W, torch.arange(3))
    still = fit(plain, TensorSource(x), 64, config, anchors).model.W_D
    moved = fit(with_resampling(plain, plan), TensorSource(x), 64, config, anchors).model.W_D
    changed = (still - moved).abs().amax(0) > 1e-3
    assert changed.sum() > 10
    assert not changed[:3].any()

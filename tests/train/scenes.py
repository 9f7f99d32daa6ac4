"""Tiny runs that between them hold every kind of state that training has."""

from dataclasses import dataclass, field, replace

import torch

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring
from monosem.base.group import Axis
from monosem.base.schedule import Ramp
from monosem.bench.tasks import TaskSource, task
from monosem.core.activations import JumpReLU, TopK
from monosem.core.constraints import Fixed, Tied, UnitNorm
from monosem.core.init import Init
from monosem.core.pairs import Crosscoder, CrossLayer, Source, TensorSource
from monosem.losses.fidelity import Reconstruction
from monosem.losses.resample import Resample
from monosem.losses.revival import AuxK, GhostGrads, PreActivation
from monosem.losses.sparsity import L0
from monosem.methods import Method, method, with_anchoring
from monosem.train.config import FitConfig

STEPS = 24


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random rows, not centred."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.1


def anchors(k: int, n_p: int, n_r: int) -> Anchors:
    """k random anchors."""
    return Anchors(rows(n_p, k, seed=8), rows(n_r, k, seed=9))


def scene_source(n_p: int = 10, n_r: int | None = None, **widths: tuple[int, ...]) -> TensorSource:
    """75 rows: no whole number of batches, and several epochs."""
    return TensorSource(rows(75, n_p), None if n_r is None else rows(75, n_r, seed=1), digest="scene", **widths)


def _stream() -> Source:
    endless = task("lrb/nano")
    return TaskSource(replace(endless, world=replace(endless.world, rows=None)))


@dataclass(frozen=True)
class Scene:
    """What `fit` is called with."""

    method: Method
    source: Source = field(default_factory=scene_source)
    n_q: int = 32
    config: FitConfig = field(
        default_factory=lambda: FitConfig(STEPS, 16, 1e-2, log_every=2, checkpoint_every=2, dead_window=50, threads=1)
    )
    anchors: Anchors | None = None
    by: Axis = "latents"


def _named(text: str, **changes: object) -> Method:
    return replace(method(text), **changes)  # type: ignore[arg-type]


def _clipped() -> FitConfig:
    return replace(Scene(method("topk(k=2)")).config, clip=0.5, seed=5)


SCENES = {
    "p_anneal": lambda: Scene(_named("p_anneal(lp=0.3)", init=Init(b_D="geometric_median"), pre_bias="tied")),
    "batch_topk": lambda: Scene(_named("batch_topk(k=1.5)", terms=(Reconstruction(), AuxK(k_aux=4)))),
    "resampled": lambda: Scene(
        _named("topk(k=1)", terms=(Reconstruction(),), resample=Resample(every=5, rows=40), pre_bias="free")
    ),
    "resampled stream": lambda: Scene(
        Method(JumpReLU(0.3), (Reconstruction(), L0(0.3)), resample=Resample(every=4, rows=64)), _stream()
    ),
    "k annealed": lambda: Scene(Method(TopK(1, k_start=8, anneal=0.7), (Reconstruction(), AuxK())), _stream()),
    "jumprelu": lambda: Scene(
        _named("jumprelu_skip_transcoder(log_threshold=True, theta=0.5)"), scene_source(10, 7), config=_clipped()
    ),
    "anchored": lambda: Scene(
        with_anchoring(method("gated_crosscoder(l1=0.2)"), Anchoring(weight=Ramp(1.0, 0.1), form="direction")),
        scene_source(10, p_widths=(4, 6)),
        anchors=anchors(3, 10, 10),
    ),
    "hard": lambda: Scene(
        with_anchoring(_named("matryoshka(k=2)", pairing=Crosscoder(private=0.2)), Anchoring(hard=True)),
        scene_source(10, p_widths=(4, 6)),
        anchors=anchors(3, 10, 10),
    ),
    "tied": lambda: Scene(_named("multi_topk(k=1)", constraints=(Tied(), UnitNorm()))),
    "ghosts": lambda: Scene(
        Method(
            TopK(1, rank_by_norm=True),
            (Reconstruction(), GhostGrads(), PreActivation(0.1)),
            CrossLayer(),
            constraints=(Fixed(("b_D",)),),
        ),
        scene_source(10, 8, p_widths=(4, 6), r_widths=(3, 5)),
    ),
}

"""`fit` through the Triton programs: every method against the CPU's kernels; how often a step waits for a device."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_parts import SETTINGS, served
from monosem.kernels.gpu.kept import Plan
from monosem.methods import method
from monosem.methods.recipes import METHODS
from monosem.train.config import FitConfig
from monosem.train.loop import fit
from tests.kernels.gpu.where import DEVICE, needs_triton
from tests.train.scenes import rows, scene_source

pytestmark = [needs_triton, pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter stands for a device")]

WAITING = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "equal"}
"""What torch cannot do on a GPU without knowing a number that lies there."""
SPECIAL = {"multi_topk": "k=2", "gemma_scope_2": "l0=3", "lista": "l1=0.1"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_as_on_the_cpu(name: str) -> None:
    source = scene_source(6, p_widths=(3, 3)) if name in ("delta_crosscoder", "dfc", "route") else scene_source(6)
    plan = method(f"{name}({SPECIAL.get(name, 'k=2' if 'k' in METHODS[name].defaults else '')})")
    config = FitConfig(2, 5, 1e-3, log_every=1, clip=1.0, threads=1, dead_window=5)
    with served(SETTINGS["interpret"]):
        ours = fit(plan, source, 16, config)
    cpu = fit(plan, source, 16, config)
    for mine, entry in zip(ours.log, cpu.log, strict=True):
        assert mine == pytest.approx(entry, rel=1e-4, abs=1e-5)


class _Waits(TorchDispatchMode):
    """Counts operations that wait."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        masked = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        self.count += name in WAITING or masked
        return function(*args, **(kwargs or {}))


class _Marked:
    """A batch that never changes, and what was counted before each step took it."""

    rows, digest, p_widths, r_widths = None, "waits", (4,), (4,)

    def __init__(self, waits: _Waits) -> None:
        self.waits, self.x, self.marks = waits, rows(5, 4), list[int]()

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.marks.append(self.waits.count)
        x = self.x[index % len(self.x)]
        return x, x


@pytest.mark.parametrize(
    ("text", "selection", "most"),
    [("topk(k=1)", "fp32", 8), ("topk(k=1)", "bf16", 10), ("batch_topk(k=1)", "bf16", 21), ("jumprelu", "fp32", 8)],
)
def test_a_step_waits_so_often(text: str, selection: Any, most: int) -> None:
    """Four: whether rows and loss are finite, and Adam's counter of each weight, which does not lie on a device.

    Two for AuxK; one for each list that may be too short, one for what fp16 leaves open; of a batch the floor, the ties
    and the cells above it.
    """
    waits, plan = _Waits(), Plan(2, 3, 16)
    source = _Marked(waits)
    config = FitConfig(3, 5, 1e-3, log_every=99, clip=1.0, threads=1, selection=selection)
    with served(SETTINGS["interpret"]), waits, patch.object(Plan, "of", lambda n, k, reach=0.0: plan if k else None):
        fit(method(text), source, 32, config)
    second, third = source.marks[2:4]
    assert third - second <= most

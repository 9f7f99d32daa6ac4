"""Where the Triton programs are tested: on a CUDA device if there is one, else on the CPU in Triton's interpreter."""

import importlib.util

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def few(examples: int) -> settings:
    """A few examples, and no search for a smaller one: the interpreter takes milliseconds for every program."""
    return settings(max_examples=examples, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def rounded(master: Tensor) -> Tensor:
    """float32 to bf16 as a program stores it: to the nearest on a device; the interpreter cuts the last 16 bits off."""
    if DEVICE == "cuda":
        return master.bfloat16()
    return (master.view(torch.int32) >> 16 << 16).view(torch.float32).bfloat16()

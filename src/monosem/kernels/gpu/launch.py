"""From program to kernel: Triton is imported when the first one runs."""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from monosem.kernels.gpu.programs import ranks, rows, sums

_FILES = (sums, ranks, rows)


@cache
def _there() -> bool:
    return importlib.util.find_spec("triton") is not None


def serves(*tensors: Tensor) -> bool:
    """Whether the Triton programs take these tensors: all on a CUDA device, and Triton is installed."""
    return all(tensor.is_cuda for tensor in tensors) and _there()


@cache
def _load() -> Any:
    """Triton itself; from here on, programs see its language and, compiled, the functions that they share."""
    import triton
    import triton.language

    shared = {name: triton.jit(getattr(file, name)) for file in _FILES for name in file.SHARED}
    for file in _FILES:
        vars(file).update(shared, tl=triton.language)
    return triton


@cache
def program(name: str) -> Any:
    """A program by name, as Triton has it."""
    triton = _load()
    return next(triton.jit(getattr(file, name)) for file in _FILES if hasattr(file, name))


def launch(name: str, grid: tuple[int, ...], *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Run a program over a grid, on the device of its first argument."""
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        program(name)[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=True)


def interpreted() -> bool:
    """Whether programs run in Triton's interpreter (TRITON_INTERPRET=1), whose products of fp16 are numpy's."""
    return type(program("bag")).__name__ == "InterpretedFunction"

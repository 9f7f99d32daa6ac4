"""The machine: under what conditions numbers were made, which must agree for the same bits, and where caches lie."""

import importlib.metadata
import os
import platform
from pathlib import Path

import numpy as np
import torch

from monosem.base.errors import check
from monosem.base.version import __version__


def cache_folder() -> Path:
    """MONOSEM_CACHE, or monosem in the user's cache folder."""
    given = os.environ.get("MONOSEM_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monosem"


def find_device(name: str | torch.device) -> torch.device:
    """A device by name. Raises: ArgumentError for a name that torch does not know, or a device that is not there.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        why = str(error).split(";")[0].split("\n")[0]
        check(False, f"device={str(name)!r} is no device ({why}); write 'cpu', 'cuda' or 'cuda:1'")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        present = (device.index or 0) < count
        check(present, f"device={str(name)!r}, but torch {torch.__version__} sees {count} GPUs; use 'cpu'")
    return device


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def cpu_features() -> tuple[str, ...]:
    """The instruction sets that decide which code computes, as avx2 or amx_bf16; () where the system is silent."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(name for name in _FEATURES if name in flags)


def gpu(device: torch.device) -> dict[str, str]:
    """What a GPU's bits depend on beside: its name, CUDA and Triton; empty for other devices."""
    if device.type != "cuda":
        return {}
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda), "triton": triton}


def machine() -> dict[str, str]:
    """Processor, thread count and versions: what a resumed run must find unchanged."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "monosem": __version__,
    }

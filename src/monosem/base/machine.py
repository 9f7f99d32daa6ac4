"""Under what conditions numbers were made: results repeat bit for bit only where these agree."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

__all__ = ["cpu_name", "machine", "package_version"]


def package_version() -> str:
    """The installed version of monosem, or "uninstalled"."""
    try:
        return version("monosem")
    except PackageNotFoundError:
        return "uninstalled"


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Processor, thread count and versions: what a resumed run must find unchanged."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "monosem": package_version(),
    }

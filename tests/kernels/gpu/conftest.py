"""Before any test of this folder is collected: where its programs run."""

from tests.kernels.gpu.where import DEVICE

__all__ = ["DEVICE"]

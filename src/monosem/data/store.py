"""A store: activations on disk, sharded, checksummed and mapped, with the token, document and place of every row.

    DIR/manifest.json           what is stored, and the sha256 of every file
    DIR/vocabulary.json         the text of every token, if known
    DIR/shards/00000/x0.npy     [rows, width] of the first site, x1.npy of the second, ...
    DIR/shards/00000/token.npy  [rows] int32; so are document.npy, position.npy and, with labels, label.npy

Every shard has `shard_rows` rows but the last. bfloat16 is kept as its 16 bits, in uint16 (docs/harvest.md).
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from monosem.base.errors import CheckpointError, DataError, check, shortened
from monosem.base.files import plain_file, read_json
from monosem.base.schema import Sha256, Size, read
from monosem.base.spec import digest
from monosem.data.reading import Pages, large
from monosem.data.table import Labels, Table

FORMAT = "monosem.store/1"
_HEADER = 1 << 16
"""Bytes of a .npy file beside its numbers, at most."""
COLUMNS = ("token", "document", "position")
"""What every row carries besides its activations, as int32."""
Side = Literal["in", "out"]


def shard_folder(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / "shards" / f"{number:05d}"


def sha256_of(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, wanted: str, largest: int | None = None) -> None:
    """Raises: CheckpointError for a file that is not the manifest's; of over `largest` bytes none is read."""
    if path.is_file():
        plain_file(path, largest)
    have = sha256_of(path) if path.is_file() else "no file"
    if have != wanted:
        raise CheckpointError(f"{path} has sha256 {have}, the manifest says {wanted}; restore it or harvest again")


@dataclass(frozen=True)
class _Site:
    name: str
    model: str
    module: str
    side: Literal["in", "out"]
    width: Size


@dataclass(frozen=True)
class Shard:
    """What a manifest says of a shard."""

    rows: Size
    sha256: dict[str, Sha256]


@dataclass(frozen=True)
class _Manifest:
    """What manifest.json holds; `sha256` is of all the rest of it (older versions left it out)."""

    format: str
    sites: list[_Site]
    models: dict[str, Any]
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    pool: Literal["none", "mean", "first", "last"]
    rows_wanted: Size | None
    shard_rows: Size
    labels: list[str] | None
    about: dict[str, Any]
    machine: dict[str, str]
    vocabulary: Sha256 | None
    shards: list[Shard]
    complete: bool
    sha256: Sha256 | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store, every field checked. Raises: CheckpointError when it is none, newer, or altered."""
    path = folder / "manifest.json"
    if not is_store(folder):
        raise CheckpointError(f"{folder} has no manifest.json; give the folder that `monosem harvest` wrote")
    plain = read_json(path)
    version = plain.get("format") if isinstance(plain, dict) else None
    if version != FORMAT:
        version = shortened(repr(version), 80)
        raise CheckpointError(f"{folder} has format {version}, this version reads {FORMAT!r}; harvest it again")
    manifest = read(_Manifest, plain, str(path))
    said = plain.pop("sha256", None)
    check(said in (None, digest(plain)), f"{path} was altered since it was written; restore it", CheckpointError)
    _check_shards(manifest, str(path))
    return dict(plain)


def _check_shards(manifest: _Manifest, where: str) -> None:
    """Every shard but the last is full, and has one file per site and column."""
    columns = COLUMNS if manifest.labels is None else (*COLUMNS, "label")
    arrays = ("x", "scale") if manifest.dtype == "int8" else ("x",)
    files = {f"{name}.npy" for name in columns}
    files |= {f"{name}{i}.npy" for name in arrays for i in range(len(manifest.sites))}
    check(bool(manifest.sites), f"{where}: sites is empty; restore the file", CheckpointError)
    for number, shard in enumerate(manifest.shards):
        full = shard.rows == manifest.shard_rows or number == len(manifest.shards) - 1
        right = full and shard.rows <= manifest.shard_rows and set(shard.sha256) == files
        text = f"{where}: shards[{number}] does not fit shard_rows={manifest.shard_rows} and {len(files)} files"
        check(right, f"{text}; restore the file", CheckpointError)


class Sharded:
    """An array whose rows lie in several .npy files; each is hashed and mapped when a row of it is first read."""

    def __init__(
        self,
        paths: Mapping[Path, str],
        shape: tuple[int, ...],
        each: int,
        bf16: bool = False,
        scale: "Sharded | None" = None,
        checked: bool = True,
    ) -> None:
        self.paths, self.shape, self.each, self.bf16, self.scale = tuple(paths), shape, each, bf16, scale
        self.large = large(int(np.prod(shape)) * 4)
        self._sha256, self._checked = dict(paths), checked and not self.large
        self._maps: dict[int, np.ndarray] = {}
        self._pages: dict[int, Pages] = {}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing returns."""
        return np.dtype(np.float32) if self.bf16 or self.scale is not None else self._map(0).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def _map(self, number: int) -> np.ndarray:
        if number not in self._maps:
            path = self.paths[number]
            rows = min(self.each, self.shape[0] - number * self.each)
            if self._checked:
                _compare(path, self._sha256[path], 8 * rows * math.prod(self.shape[1:]) + _HEADER)
            try:
                pages = Pages(path, self.large)
            except (OSError, ValueError, EOFError) as error:
                raise CheckpointError(f"{path} cannot be read ({error}); restore it or harvest again") from None
            if pages.array.shape != (rows, *self.shape[1:]):
                shape = pages.array.shape
                raise CheckpointError(f"{path} has shape {shape}, its manifest says {(rows, *self.shape[1:])}")
            self._maps[number], self._pages[number] = pages.array, pages
        return self._maps[number]

    def _plain(self, part: np.ndarray, key: Any) -> np.ndarray:
        """What the files' numbers stand for; `key` chose them."""
        if self.scale is not None:
            scaled: np.ndarray = part.astype(np.float32) * self.scale[key][..., None]
            return scaled
        return (part.astype(np.uint32) << 16).view(np.float32) if self.bf16 else part

    def __getitem__(self, key: Any) -> np.ndarray:
        """Rows by a number, a slice or an array of numbers."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self.shape[0])
            check(step == 1, f"step={step}; rows are read one after the other, or by an array of numbers")
            return self._plain(self._run(start, stop), key)
        index = np.asarray(key)
        check(index.dtype.kind in "iu", f"rows are chosen by whole numbers, not {index.dtype}", DataError)
        flat = np.where(index < 0, index + self.shape[0], index).reshape(-1)
        if flat.size and not (flat.min() >= 0 and flat.max() < self.shape[0]):
            raise DataError(f"row {int(flat.max())} is asked for; the store has rows 0 to {self.shape[0] - 1}")
        return self._plain(self._gather(flat), flat).reshape((*index.shape, *self.shape[1:]))

    def _run(self, start: int, stop: int) -> np.ndarray:
        parts = []
        while start < stop:
            number, first = divmod(start, self.each)
            last = min(self.each, first + stop - start)
            parts.append(self._map(number)[first:last])
            self._pages[number].expect_run(first, last)
            start += last - first
        if not parts:
            return self._map(0)[:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def expect(self, index: np.ndarray) -> None:
        """Start reading rows that are asked for next, all at once."""
        if self.large and index.size:
            number, within = np.divmod(index, self.each)
            for shard in np.unique(number).tolist():
                self._map(shard)
                self._pages[shard].expect(within[number == shard])

    def expect_run(self, start: int, stop: int) -> None:
        """Start reading rows that follow each other and are asked for next."""
        while self.large and start < stop:
            number, first = divmod(start, self.each)
            last = min(self.each, first + stop - start)
            self._map(number)
            self._pages[number].expect_run(first, last)
            start += last - first

    def _gather(self, index: np.ndarray) -> np.ndarray:
        """Shard by shard; within one, numpy takes rows straight from the mapped pages."""
        self.expect(index)
        number, within = np.divmod(index, self.each)
        first = int(number[0]) if number.size else 0
        if not number.size or bool((number == first).all()):
            return self._map(first)[within]
        order = np.argsort(number, kind="stable")
        edges = np.flatnonzero(np.diff(number[order])) + 1
        out = np.empty((index.size, *self.shape[1:]), self._map(first).dtype)
        for cells in np.split(order, edges):
            out[cells] = self._map(int(number[cells[0]]))[within[cells]]
        return out


class Store:
    """A finished store, opened by `open_store`; nothing is read before it is asked for, and nothing unchecked then."""

    def __init__(self, folder: Path, manifest: dict[str, Any], checked: bool = True) -> None:
        self.folder, self.manifest, self.checked = folder, manifest, checked
        self.rows = sum(shard["rows"] for shard in manifest["shards"])
        self.sites: tuple[str, ...] = tuple(site["name"] for site in manifest["sites"])
        self.widths: tuple[int, ...] = tuple(site["width"] for site in manifest["sites"])
        self.dtype: str = manifest["dtype"]

    def _sharded(
        self, name: str, width: tuple[int, ...] = (), bf16: bool = False, scale: Sharded | None = None
    ) -> Sharded:
        shards = enumerate(self.manifest["shards"])
        paths = {shard_folder(self.folder, i) / f"{name}.npy": shard["sha256"][f"{name}.npy"] for i, shard in shards}
        return Sharded(paths, (self.rows, *width), self.manifest["shard_rows"], bf16, scale, self.checked)

    def match(self, text: str) -> tuple[str, ...]:
        """The stored sites that a text names, as "model.layers.*.mlp:in,out". Raises: ArgumentError if none."""
        return match(text, self.sites)

    def table(self, site: str) -> Table:
        """The activations of one site: `rows`, `width`, `take(index)` and `chunks()`, as float32."""
        names = self.match(site)
        check(len(names) == 1, f"{site!r} means {len(names)} sites ({', '.join(names)}); name one")
        name, number = names[0], self.sites.index(names[0])
        scale = self._sharded(f"scale{number}") if self.dtype == "int8" else None
        values = self._sharded(f"x{number}", (self.widths[number],), self.dtype == "bfloat16", scale)
        return Table(values, self.folder / name)

    @cached_property
    def tokens(self) -> Sharded:
        """[rows] The token's number; -1 where a row is no single token (a pooled document, an image)."""
        return self._sharded("token")

    @cached_property
    def documents(self) -> Sharded:
        """[rows] The number of the document, in the order in which documents were given; from 0."""
        return self._sharded("document")

    @cached_property
    def positions(self) -> Sharded:
        """[rows] The token's place in its document, counted from 0 and over special tokens too."""
        return self._sharded("position")

    @cached_property
    def labels(self) -> Labels | None:
        """One class per row, or None."""
        names = self.manifest["labels"]
        if names is None:
            return None
        codes = self._sharded("label")[0 : self.rows]
        inside = codes.min() >= 0 and codes.max() < len(names)
        check(
            bool(inside), f"{self.folder} has labels beyond its {len(names)} names; harvest it again", CheckpointError
        )
        return Labels(torch.from_numpy(codes.astype(np.int64)), tuple(names))

    @cached_property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The text of every token by its number, with its leading space; None where the harvest had no vocabulary."""
        path, wanted = self.folder / "vocabulary.json", self.manifest["vocabulary"]
        if wanted is None:
            return None
        if self.checked:
            _compare(path, wanted)
        return tuple(str(word) for word in read_json(path))

    def text(self, rows: Any) -> list[str]:
        """The text of the tokens of some rows (numbers, or a slice). Without a vocabulary: their numbers."""
        tokens = np.atleast_1d(self.tokens[rows]).tolist()
        words = self.vocabulary
        return [words[t] if words and 0 <= t < len(words) else ("" if t < 0 else f"<{t}>") for t in tokens]

    def context(self, row: int, before: int = 20, after: int = 20) -> range:
        """Rows around a row, of the same document and in its order: what a reader sees as its context."""
        low, high = max(0, row - before), min(self.rows, row + after + 1)
        documents, positions = self.documents[low:high], self.positions[low:high]
        at = row - low
        same = (np.diff(documents) == 0) & (np.diff(positions) > 0)  # same[i]: rows i and i + 1 belong together
        left = np.flatnonzero(~same[:at])
        right = np.flatnonzero(~same[at:])
        first = low + (int(left[-1]) + 1 if left.size else 0)
        last = row + int(right[0]) + 1 if right.size else high
        return range(first, last)

    def chunks(self, rows: int = 8192) -> Iterator[range]:
        """Ranges of row numbers, in order, that cover the store."""
        for start in range(0, self.rows, rows):
            yield range(start, min(start + rows, self.rows))

    def verify(self) -> None:
        """Read every file and compare its sha256. Raises: CheckpointError that names the first altered file."""
        files = {self.folder / "vocabulary.json": self.manifest["vocabulary"]} if self.manifest["vocabulary"] else {}
        for number, shard in enumerate(self.manifest["shards"]):
            files |= {shard_folder(self.folder, number) / name: wanted for name, wanted in shard["sha256"].items()}
        for path, wanted in files.items():
            _compare(path, wanted)


def is_store(folder: str | Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    return (Path(folder) / "manifest.json").is_file()


def open_store(folder: str | Path, partial: bool = False, checked: bool = True) -> Store:
    """Open a store; `partial` also opens one whose harvest has not finished, up to its last whole shard.

    A file's sha256 is compared when a row of it is first read, about a second a gigabyte; not with `checked` False.
    Raises: CheckpointError when it is none, is of another version, is not finished, or files are missing.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not (manifest["complete"] or partial):
        done = sum(shard["rows"] for shard in manifest["shards"])
        raise CheckpointError(f"{folder} is not finished ({done:,} rows so far); call the same harvest again to go on")
    if not manifest["shards"]:
        raise CheckpointError(f"{folder} has no whole shard yet; call the same harvest again to go on")
    for number, shard in enumerate(manifest["shards"]):
        for name in shard["sha256"]:
            path = shard_folder(folder, number) / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; restore it or harvest again into an empty folder")
    return Store(folder, manifest, checked)


def parse_sites(text: str) -> tuple[tuple[str, Side], ...]:
    """The grammar: "PATH:in,out; PATH:out". In a path * and ? and [12] match within one name, ** across dots.

    Example:
        >>> parse_sites("model.layers.5.mlp:in,out; model.norm:out")
        (('model.layers.5.mlp', 'in'), ('model.layers.5.mlp', 'out'), ('model.norm', 'out'))
    """
    sites: list[tuple[str, Side]] = []
    for part in (part.strip() for part in text.split(";")):
        if not part:
            continue
        path, colon, sides = part.rpartition(":")
        remedy = f'cannot read the site "{part}"; write a module and its side, as "model.layers.5.mlp:in,out"'
        check(bool(colon and path), remedy)
        for side in (side.strip() for side in sides.split(",")):
            check(side in ("in", "out"), f"{remedy} (a side is in or out, not {side!r})")
            sites.append((path, "in" if side == "in" else "out"))
    check(bool(sites), 'no site is given; write one as "model.layers.5.mlp:in,out"')
    return tuple(sites)


def match(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names among `known` that a text of sites means, in the order of `known` within each part.

    Raises: ArgumentError for a part that means none.
    """
    chosen: dict[str, None] = {}
    for path, side in parse_sites(text):
        wanted = f"{path}:{side}"
        names = [name for name in known if name == wanted] or [name for name in known if fits(name, wanted)]
        check(bool(names), f"no site {wanted!r}; known: {few(known)}")
        chosen |= dict.fromkeys(names)
    return tuple(chosen)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one that a pattern means."""
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    known = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    text = "".join(
        known.get(part, part if part.startswith("[") and part.endswith("]") else re.escape(part)) for part in parts
    )
    return re.fullmatch(text, name) is not None


def few(names: Sequence[str], most: int = 6) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

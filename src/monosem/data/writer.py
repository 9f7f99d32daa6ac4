"""Writing a store: whole shards only, so that a kill at any moment costs at most the shard that was being filled."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from monosem.base.errors import CheckpointError, check
from monosem.base.files import claim, read_json, write_atomic, write_json, writing
from monosem.base.group import ALONE, Group, agreed, in_step
from monosem.base.machine import machine
from monosem.base.schema import read
from monosem.base.spec import digest
from monosem.data.reading import new_array
from monosem.data.store import COLUMNS, FORMAT, Shard, Sharded, is_store, read_manifest, sha256_of, shard_folder

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int8": np.int8}
"""The type in the files, by the type of the numbers; int8 has a float32 scale per row beside it."""


class Writer:
    """Rows go in, shards come out. A shard is filled in a hidden folder, flushed, hashed and renamed.

    `header` says what is stored (sites with their widths, dtype, labels, models, settings); the manifest repeats it.
    A folder that holds the beginning of the same store is continued. The room of a shard is taken from the disk before
    it is filled. What is refused changes nothing.
    Of P processes each writes every P-th shard, with a note beside it (shards/.00003.json); the first makes one
    manifest of the notes when all have closed. Whatever number of processes began a store, any number goes on.
    `together`: all processes have all rows, and the first writes them.
    Raises: CheckpointError when the folder holds another store, or one begun on another machine; OutputError when it
        cannot be written, or another process writes there.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        vocabulary: Sequence[str] | None = None,
        allow_other_machine: bool = False,
        group: Group = ALONE,
        together: bool = False,
    ) -> None:
        self.folder, self.each, self.group = folder, int(header["shard_rows"]), group
        self._every, self._turn = (1, 0) if together else (group.size, group.rank)
        self._writes = group.rank == self._turn
        check(self.each >= 1, f"shard_rows={self.each}; a shard has at least one row")
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            **header,
            "machine": machine(),
            "vocabulary": None if vocabulary is None else hashlib.sha256(_words(vocabulary)).hexdigest(),
            "shards": [],
            "complete": False,
        }
        self._kinds = _kinds(header)
        self._open: dict[str, np.ndarray] = {}
        self._number = self._filled = 0
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._shards: dict[int, dict[str, Any]] = {}
        agreed(group, digest(self.manifest), "give all the same network, batches and settings, and the same machine")
        with ExitStack() as stack:
            with in_step(group):
                if group.rank == 0:
                    stack.enter_context(claim(folder))
                    self._start(folder, vocabulary, allow_other_machine)
            with in_step(group):
                self._know(read_manifest(folder))
            self._claim = stack.pop_all()

    def _start(self, folder: Path, vocabulary: Sequence[str] | None, allow_other_machine: bool) -> None:
        if is_store(folder):
            begun = read_manifest(folder)
            self._resume(begun, allow_other_machine)
            self._know(begun)
        elif folder.exists():
            others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            check(not others, f"{folder} holds other files ({', '.join(others[:3])}); give an empty folder")
        self._clean()
        if not self.complete:
            self._write_manifest()
        if vocabulary is not None and not (folder / "vocabulary.json").is_file():
            write_atomic(folder / "vocabulary.json", _words(vocabulary))

    @property
    def rows(self) -> int:
        """Rows up to the end of the last shard that is there."""
        return max((number * self.each + int(shard["rows"]) for number, shard in self._shards.items()), default=0)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.manifest["complete"])

    def _resume(self, begun: Mapping[str, Any], allow_other_machine: bool) -> None:
        """Go on with what another call began, if it is the same harvest on the same machine."""
        ours, theirs = ({n: v for n, v in m.items() if n not in _OF_THE_RUN} for m in (self.manifest, begun))
        if (name := _first_difference(ours, theirs)) is not None:
            raise CheckpointError(
                f"{self.folder} holds another harvest: {name} is {_short(theirs.get(name))} there, "
                f"{_short(ours.get(name))} now; choose another folder"
            )
        here, there = self.manifest["machine"], begun["machine"]
        name = next((name for name, value in there.items() if here.get(name) != value), None)
        if name is not None and not (allow_other_machine or begun["complete"]):
            raise CheckpointError(
                f"{self.folder} was begun with {name} {there[name]}, this is {name} {here.get(name)}; "
                "the bits would differ. Pass allow_other_machine=True to go on"
            )
        self.manifest |= {name: begun[name] for name in _OF_THE_RUN}

    def _know(self, begun: Mapping[str, Any]) -> None:
        """Also the shards of a manifest, and those with a note."""
        self.manifest |= {name: begun[name] for name in _OF_THE_RUN}
        self._shards |= dict(enumerate(begun["shards"]))
        for note in self._notes():
            number = int(note.name[1:6])
            if number not in self._shards and shard_folder(self.folder, number).is_dir():
                read(Shard, read_json(note), str(note))
                self._shards[number] = read_json(note)

    def _note(self, number: int) -> Path:
        return self.folder / "shards" / f".{number:05d}.json"

    def _notes(self) -> list[Path]:
        return sorted((self.folder / "shards").glob(".?????.json"))

    def _clean(self) -> None:
        """Remove what a kill left: files half written, and shards that neither manifest nor note knows."""
        for stale in self.folder.glob(".*.part"):
            stale.unlink()
        shards = self.folder / "shards"
        known = {path for number in self._shards for path in (shard_folder(self.folder, number), self._note(number))}
        for path in shards.iterdir() if shards.is_dir() else ():
            if path not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def parts(self, first: int, rows: int) -> tuple[list[tuple[int, slice]], list[tuple[int, slice]]]:
        """Of rows [first, first + rows) of the store, which lie in which shard of this process: (those that are there,
        those to write)."""
        numbers = range(first // self.each, -(-(first + rows) // self.each))
        bounds = [(n, n * self.each - first) for n in numbers if n % self._every == self._turn]
        parts = [(n, slice(max(0, start), min(rows, start + self.each))) for n, start in bounds]
        missing = [part for part in parts if part[0] not in self._shards and not self.complete]
        return [part for part in parts if part[0] in self._shards], missing

    def column(self, number: int, name: str) -> Sharded:
        """A column of a shard that is there."""
        shard, file = self._shards[number], f"{name}.npy"
        return Sharded({shard_folder(self.folder, number) / file: shard["sha256"][file]}, (shard["rows"],), self.each)

    def append(self, number: int, xs: Sequence[np.ndarray], columns: Mapping[str, np.ndarray]) -> None:
        """Add rows to a shard, the same until it is full: one array per site, in the files' type, and one per column
        (with int8, scales too)."""
        if not self._writes:
            return
        arrays, rows = {f"x{i}": x for i, x in enumerate(xs)} | dict(columns), len(columns["token"])
        if not self._open:
            self._begin()
            self._number = number
        for name, array in self._open.items():
            array[self._filled : self._filled + rows] = arrays[name]
        self._filled += rows
        if self._filled == self.each:
            self._finish()

    def _begin(self) -> None:
        """Files of a whole shard, their room reserved: a full disk is an error here, not in the middle of a write."""
        self._wait()
        with writing(self.folder):
            self._part().mkdir(parents=True)
            for name, (shape, kind) in self._kinds.items():
                self._open[name] = new_array(self._part() / f"{name}.npy", kind, (self.each, *shape))

    def _part(self) -> Path:
        return self.folder / "shards" / f".part{self.group.rank or ''}"

    def _finish(self) -> None:
        """Close the shard; flushing and hashing happen beside the next forward passes."""
        arrays, rows = self._open, self._filled
        self._open, self._filled = {}, 0
        self._pending = self._pool.submit(self._seal, arrays, rows, self._number)

    def _seal(self, arrays: dict[str, np.ndarray], rows: int, number: int) -> None:
        with writing(self.folder):
            shard = {"rows": rows, "sha256": self._sealed(arrays, rows)}
            if self.group.size > 1:
                write_json(self._note(number), shard)
            os.replace(self._part(), shard_folder(self.folder, number))
        self._shards[number] = shard
        if self.group.size == 1:
            self._write_manifest()

    def _sealed(self, arrays: dict[str, np.ndarray], rows: int) -> dict[str, str]:
        """The sha256 of every file of the shard, cut to its rows and flushed to disk."""
        part = self._part()
        for name, array in arrays.items():
            if rows < self.each:
                short = new_array(part / f"{name}.short.npy", array.dtype, (rows, *array.shape[1:]))
                short[:] = array[:rows]
                del short  # unmaps, once it is written
                os.replace(part / f"{name}.short.npy", part / f"{name}.npy")
        arrays.clear()  # unmaps
        hashes = {}
        for path in sorted(part.iterdir()):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            hashes[path.name] = sha256_of(path)
        return hashes

    def _write_manifest(self, **changes: Any) -> None:
        manifest = self.manifest | {"shards": self._first_shards()} | changes
        write_json(self.folder / "manifest.json", manifest | {"sha256": digest(manifest)})

    def _first_shards(self) -> list[dict[str, Any]]:
        """The shards that follow each other from the first."""
        return [self._shards[number] for number in takewhile(self._shards.__contains__, count())]

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self, rows: int) -> None:
        """Write the last, shorter shard and say that the store is complete, with so many rows."""
        try:
            with in_step(self.group):
                if self._filled:
                    self._finish()
                self._wait()
            with in_step(self.group):
                if self.group.rank == 0 and not self.complete:
                    self._complete(rows)
        finally:
            self.stop()

    def _complete(self, rows: int) -> None:
        self._know(self.manifest)  # with the other processes' notes
        missing = [number for number in range(-(-rows // self.each)) if number not in self._shards]
        lost = f"{self.folder} lacks the shards {missing[:5]}; call the same harvest again to write them"
        check(not missing and self.rows == rows, lost, CheckpointError)
        self._write_manifest(complete=True)
        self.manifest["complete"] = True
        for note in self._notes():
            note.unlink()

    def stop(self) -> None:
        """Leave the store as it is: whole shards stay, the one being filled is dropped."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            self._open.clear()  # unmaps
            shutil.rmtree(self._part(), ignore_errors=True)
            self._claim.close()


_OF_THE_RUN = ("machine", "shards", "complete")


def _kinds(header: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """(shape of a row, type) of every array of a shard."""
    sites: dict[str, tuple[tuple[int, ...], Any]] = {
        f"x{i}": ((site["width"],), STORED[header["dtype"]]) for i, site in enumerate(header["sites"])
    }
    if header["dtype"] == "int8":
        sites |= {f"scale{i}": ((), np.float32) for i in range(len(header["sites"]))}
    names = (*COLUMNS, "label") if header["labels"] is not None else COLUMNS
    return sites | dict.fromkeys(names, ((), np.int32))


def _first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    return min((name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)), default=None)


def _words(vocabulary: Sequence[str]) -> bytes:
    return (json.dumps(list(vocabulary), ensure_ascii=False) + "\n").encode()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."

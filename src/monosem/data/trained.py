"""A trained model's folder: the store that it was trained on, and the anchors that held its first latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.anchors.directions import Anchors, load_anchors
from monosem.base.errors import CheckpointError, check
from monosem.base.files import read_json, write_json
from monosem.base.schema import read
from monosem.data.class_means import class_anchors
from monosem.data.source import FileSource, StoreSource

_LONGEST = 4096
"""Letters of a path or a site."""


@dataclass(frozen=True)
class _TrainedOn:
    """The store of a model's training rows, and the sites that are read and written."""

    store: Path
    read: str
    write: str | None


@dataclass(frozen=True)
class _SourceNote:
    store: str
    read: list[str]
    write: list[str] | None


@dataclass(frozen=True)
class _Classes:
    classes: list[str]


def read_classes(path: str | Path) -> tuple[str, ...]:
    """The names of the classes in a note beside anchors; () where it names none.

    Raises: CheckpointError for what is no such note.
    """
    note = read_json(path)
    named = {"classes": note.get("classes", [])} if isinstance(note, dict) else note
    return tuple(read(_Classes, named, str(path)).classes)


def trained_on(folder: str | Path) -> _TrainedOn | None:
    """What a model's folder says it was trained on; None for a model of tables, or from elsewhere."""
    path = Path(folder) / "source.json"
    if not path.is_file():
        return None
    note = read(_SourceNote, read_json(path), str(path))
    longest = max(map(len, (note.store, *note.read, *(note.write or ()))), default=0)
    check(longest <= _LONGEST, f"{path} has a text of {longest:,} letters; restore the file", CheckpointError)
    return _TrainedOn(Path(note.store), "; ".join(note.read), "; ".join(note.write) if note.write else None)


def anchors_of(folder: str | Path) -> tuple[Anchors | None, tuple[str, ...]]:
    """The anchors in a model's folder, and the names of their classes; (None, ()) if it has none."""
    path, names = Path(folder) / "anchors.safetensors", Path(folder) / "anchors.json"
    if not path.is_file():
        return None, ()
    return load_anchors(path), read_classes(names) if names.is_file() else ()


@dataclass(frozen=True, eq=False)
class RunNotes:
    """What is kept beside a model: the anchors of its run, what is known of them, and the store of its rows."""

    anchors: Anchors | None = None
    about: dict[str, Any] | None = None
    source: dict[str, Any] | None = None

    def keep(self, folder: str | Path) -> None:
        """Write them into the folder of the finished model."""
        folder = Path(folder)
        if self.source is not None:
            write_json(folder / "source.json", self.source)
        if self.anchors is not None:
            self.anchors.save(folder / "anchors.safetensors")
        if self.about is not None:
            write_json(folder / "anchors.json", self.about)


def notes_of(
    source: FileSource,
    given: str | Path | None = None,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
) -> RunNotes:
    """The anchors of a run, those of a file, or the class means of labelled rows, or none, and what to keep beside it.

    `given`: what `Anchors.save` wrote; a .json of its name, if there is one, is kept as well. `classes`: only these of
    the source's labels; `labels`: where the labels are from, for the note. Nothing is written here: a run may still be
    refused.
    Raises: ArgumentError when anchors are given twice, or classes without labels.
    """
    check(given is None or source.labels is None, "an anchors file and labels both give anchors; leave one out")
    check(classes is None or source.labels is not None, "classes are chosen among labels; give them with --labels")
    store = None
    if isinstance(source, StoreSource):
        store = {"store": str(source.store.folder), "read": source.read, "write": source.write}
    if given is not None:
        note = Path(given).with_suffix(".json")
        if note.exists():
            read_classes(note)
        return RunNotes(load_anchors(given), read_json(note) if note.exists() else None, store)
    if source.labels is None:
        return RunNotes(source=store)
    names = list(source.labels.names if classes is None else classes)
    about = {"classes": names, "labels": str(labels)}
    return RunNotes(class_anchors(source, source.labels, names), about, store)

"""A trained model's folder: the store that it was trained on, and the anchors that held its first latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monosem.anchors.directions import Anchors, load_anchors
from monosem.base.errors import check
from monosem.base.files import read_json, write_json
from monosem.data.class_means import class_anchors
from monosem.data.source import FileSource, StoreSource


@dataclass(frozen=True)
class TrainedOn:
    """The store of a model's training rows, and the sites that are read and written."""

    store: Path
    read: str
    write: str | None


def trained_on(folder: str | Path) -> TrainedOn | None:
    """What a model's folder says it was trained on; None for a model of tables, or from elsewhere."""
    path = Path(folder) / "source.json"
    if not path.is_file():
        return None
    note = read_json(path)
    return TrainedOn(Path(note["store"]), "; ".join(note["read"]), "; ".join(note["write"]) if note["write"] else None)


def note_source(folder: str | Path, source: FileSource) -> None:
    """Keep the store and its sites beside a model, for `trained_on`; nothing is kept of tables."""
    if isinstance(source, StoreSource):
        note = {"store": str(source.store.folder), "read": source.read, "write": source.write}
        write_json(Path(folder) / "source.json", note)


def anchors_of(folder: str | Path) -> tuple[Anchors | None, tuple[str, ...]]:
    """The anchors in a model's folder, and the names of their classes; (None, ()) if it has none."""
    path, names = Path(folder) / "anchors.safetensors", Path(folder) / "anchors.json"
    if not path.is_file():
        return None, ()
    classes = read_json(names).get("classes", []) if names.is_file() else []
    return load_anchors(path), tuple(str(name) for name in classes)


def keep_anchors(
    folder: str | Path,
    source: FileSource,
    given: str | Path | None = None,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
) -> Anchors | None:
    """The anchors of a run, kept in its folder: those of a file, or the class means of labelled rows, or none.

    `given`: what `Anchors.save` wrote; a .json of its name, if there is one, is kept as well. `classes`: only these of
    the source's labels; `labels`: where the labels are from, for the note.
    Raises: ArgumentError when anchors are given twice, or classes without labels.
    """
    check(given is None or source.labels is None, "an anchors file and labels both give anchors; leave one out")
    check(classes is None or source.labels is not None, "classes are chosen among labels; give them with --labels")
    folder = Path(folder)
    if given is not None:
        anchors, note = load_anchors(given), Path(given).with_suffix(".json")
        anchors.save(folder / "anchors.safetensors")
        if note.exists():
            write_json(folder / "anchors.json", read_json(note))
        return anchors
    if source.labels is None:
        return None
    names = list(source.labels.names if classes is None else classes)
    anchors = class_anchors(source, source.labels, names)
    anchors.save(folder / "anchors.safetensors")
    write_json(folder / "anchors.json", {"classes": names, "labels": str(labels)})
    return anchors

"""The rows a latent is looked at on: what a person sees of each, and how they are read from files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.files import read_json, read_text
from monosem.core.model import SDL
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing, Source, Transcoder
from monosem.data.source import StoreSource, open_rows
from monosem.data.store import Store
from monosem.data.table import Labels, read_array

PASSAGE = 128
"""Tokens of a passage: a document is cut every so many, and a latent's contexts are of different passages."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows (x_p, x_r) with what is known of each: a token of a document, a text, an image, a class.

    `token` and `document` go together: rows of one document follow each other and are shown as context. `decode`
    turns token numbers into their texts, one each. `image(row)` is uint8 [height, width, 3]. `sites` are those of a
    store that x_r comes from.
    Raises: ShapeError when something is not one per row.
    """

    source: Source
    labels: Labels | None = None
    token: Int[np.ndarray, " rows"] | None = None
    document: Int[np.ndarray, " rows"] | None = None
    position: Int[np.ndarray, " rows"] | None = None
    decode: Callable[[Sequence[int]], list[str]] | None = None
    texts: Sequence[str] | None = None
    image: Callable[[int], np.ndarray] | None = None
    title: str = "rows"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.source.rows is not None, "the rows are an endless stream; give a table or a store", DataError)
        check(self.token is None or self.decode is not None, "token needs decode, which turns numbers into texts")
        check(self.token is None or self.document is not None, "token needs document: where each context ends")
        labels = None if self.labels is None else self.labels.codes
        given = {"labels": labels, "token": self.token, "document": self.document, "position": self.position}
        for name, values in (given | {"texts": self.texts}).items():
            check(
                values is None or len(values) == self.count,
                f"{name} has {0 if values is None else len(values)} entries for {self.count} rows; give one per row",
                ShapeError,
            )

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.source.rows or 0

    @property
    def kind(self) -> str:
        """What a person sees of a row: "tokens", "images", "texts" or "rows" (nothing but its number)."""
        shown = (("tokens", self.token), ("images", self.image), ("texts", self.texts))
        return next((name for name, values in shown if values is not None), "rows")

    @cached_property
    def segment(self) -> Int[np.ndarray, " rows"]:
        """The number of each row's stretch of text: a new one begins with a document, or where positions fall back."""
        if self.document is None:
            return np.arange(self.count)
        begins = np.diff(np.asarray(self.document), prepend=-1) != 0
        begins[:1] = True
        if self.position is not None:
            begins[1:] |= np.diff(np.asarray(self.position)) <= 0
        number: np.ndarray = np.cumsum(begins) - 1
        return number

    @cached_property
    def passage(self) -> Int[np.ndarray, " rows"]:
        """The number of each row's passage: PASSAGE rows of a segment; without documents every row is one."""
        at = np.arange(self.count)
        first = np.maximum.accumulate(np.where(np.diff(self.segment, prepend=-1) != 0, at, 0))
        number: np.ndarray = np.cumsum((at - first) % PASSAGE == 0) - 1
        return number


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm")
"""Files of a folder that are taken for images."""


def rows_from(
    data: str | Path,
    model: SDL,
    *,
    target: str | Path | None = None,
    key: str | None = None,
    target_key: str | None = None,
    read: str | None = None,
    write: str | None = None,
    rows: int | None = None,
    labels: str | Path | None = None,
    labels_key: str | None = None,
    texts: str | Path | None = None,
    texts_key: str | None = None,
    images: str | Path | None = None,
) -> Rows:
    """Rows for a model: the store `data`, or the table `data` (and `target`, where x_r is not x_p).

    `read` and `write` name the sites of a store (None: what the model's pairing leaves no choice of); its tokens,
    documents and labels come with it. `rows`: only the first so many. `labels` are a class per row, `texts` and
    `images` what a person sees of one.
    Raises: DataError, naming the file, for what cannot be read or is not one per row.
    """
    layout, several = model.layout, len(model.layout.p_widths) > 1
    shared: Pairing = Crosscoder() if several else SAE()
    pairing = shared if layout.shared else CrossLayer() if several else Transcoder()
    source = open_rows(
        data,
        target,
        pairing=pairing,
        read=read,
        write=write,
        key=key,
        target_key=target_key,
        labels=labels,
        labels_key=labels_key,
    )
    seen = _store_rows(source.store, source) if isinstance(source, StoreSource) else Rows(source, title=str(data))
    if source.labels is not None:
        seen = replace(seen, labels=source.labels)
    if texts is not None:
        seen = replace(seen, texts=read_texts(texts, seen.count, texts_key))
    if images is not None:
        seen = replace(seen, image=read_images(images, seen.count))
    return seen if rows is None else first_rows(seen, rows)


class _First:
    """The first rows of a source."""

    def __init__(self, source: Source, rows: int) -> None:
        self.take, self.digest, self.rows = source.take, source.digest, rows
        self.p_widths, self.r_widths = source.p_widths, source.r_widths


def first_rows(seen: Rows, rows: int) -> Rows:
    """Only the first rows, and the page says so."""
    check(rows >= 1, f"rows={rows}; give at least 1")
    if rows >= seen.count:
        return seen
    labels = seen.labels and Labels(seen.labels.codes[:rows], seen.labels.names)
    token, document, position = (
        None if part is None else part[:rows] for part in (seen.token, seen.document, seen.position)
    )
    texts = None if seen.texts is None else seen.texts[:rows]
    title = f"the first {rows:,} of {seen.count:,} rows of {seen.title}"
    source = _First(seen.source, rows)
    parts = {"labels": labels, "token": token, "document": document, "position": position, "texts": texts}
    return replace(seen, source=source, title=title, **parts)  # type: ignore[arg-type]


def _store_rows(store: Store, source: StoreSource) -> Rows:
    """Rows of a store; where they are no single tokens (a pooled document, an image) there are none to show."""
    title = f"{store.folder}, {' + '.join(source.read)}" + (f" to {' + '.join(source.write)}" if source.write else "")
    token, sites = store.tokens[0 : store.rows], source.write or source.read
    if not (token >= 0).any():
        return Rows(source, store.labels, title=title, sites=sites)
    document, position, words = store.documents[0 : store.rows], store.positions[0 : store.rows], store.vocabulary

    def decode(tokens: Sequence[int]) -> list[str]:
        return [words[t] if words and 0 <= t < len(words) else f"<{t}>" if t >= 0 else "" for t in tokens]

    return Rows(source, store.labels, token, document, position, decode, title=title, sites=sites)


def read_texts(path: str | Path, rows: int, key: str | None = None) -> Sequence[str]:
    """One text per row: a line of a .txt file, an entry of a .json list, or text in a .npy or .parquet file."""
    path = Path(path)
    check(path.is_file(), f"{path} is no file; give the texts as .txt, .json, .npy or .parquet", DataError)
    if path.suffix == ".txt":
        texts = read_text(path).split("\n")
        texts = texts[:-1] if texts and not texts[-1] else texts
    elif path.suffix == ".json":
        entries = read_json(path)
        plain = isinstance(entries, list) and all(isinstance(text, str) for text in entries)
        check(plain, f'{path} is no JSON list of texts; write it as ["first row\'s text", ...]', DataError)
        texts = list(entries)
    else:
        values = read_array(path, key)
        plain = not isinstance(values, Tensor) and values.ndim == 1 and values.dtype.kind == "U"
        check(plain, f"{path} holds no text, one per row; choose a text column by its key", DataError)
        texts = values.tolist()
    check(len(texts) == rows, f"{path} has {len(texts)} texts for {rows} rows; give one per row", DataError)
    return texts


def read_images(path: str | Path, rows: int) -> Callable[[int], np.ndarray]:
    """The image of a row, uint8 [height, width, 3]: from a .npy file, uint8 [rows, height, width] or [.., 3], or from
    a folder with one image file per row, in the order of their names."""
    path = Path(path)
    if path.is_dir():
        names = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        check(len(names) == rows, f"{path} holds {len(names)} images for {rows} rows; give one per row", DataError)
        return lambda row: _opened(names[row])
    images = read_array(path)
    shape = tuple(images.shape)
    right = images.dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3))
    check(
        right,
        f"{path} holds {images.dtype} of shape {shape}; images are uint8 [rows, height, width] or [.., 3] (0 to 255)",
        DataError,
    )
    check(shape[0] == rows, f"{path} has {shape[0]} images for {rows} rows; give one per row", DataError)
    return lambda row: np.asarray(images[row] if len(shape) == 4 else np.repeat(images[row][:, :, None], 3, axis=2))


def _opened(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a whole image ({error}); replace it") from None

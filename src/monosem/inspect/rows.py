"""The rows a latent is looked at on: where they come from, and what a person sees of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from monosem.base.errors import DataError, ShapeError, check
from monosem.core.pairs import Source
from monosem.data.labels import Labels

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
        for name, found in (given | {"texts": self.texts}).items():
            check(
                found is None or len(found) == self.count,
                f"{name} has {0 if found is None else len(found)} entries for {self.count} rows; give one per row",
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
        return next((name for name, found in shown if found is not None), "rows")

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

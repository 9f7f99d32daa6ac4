"""Batches: what a module is called with, and which of its rows are kept, with their provenance."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.seeds import torch_generator

Pool = Literal["none", "mean", "first", "last"]


@dataclass(frozen=True)
class TokenFilter:
    """Which tokens become rows: attended, not in `drop`, and at places first <= place < last of their window.

    `drop` holds token numbers (special tokens, say); places count attended tokens of a window, from 0.
    """

    drop: tuple[int, ...] = ()
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        check(self.first >= 0, f"first={self.first}; places count from 0")
        check(self.last is None or self.last > self.first, f"last={self.last} keeps nothing from first={self.first} on")

    def __call__(
        self, token: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> Bool[Tensor, "batch time"]:
        """The rows to keep."""
        place = mask.cumsum(1) - 1
        keep = mask & (place >= self.first)
        if self.last is not None:
            keep &= place < self.last
        if self.drop:
            keep &= ~torch.isin(token, torch.tensor(self.drop, dtype=token.dtype))
        return keep


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass.

    `inputs`: keyword arguments (a mapping), or the one argument. `keep`, `token` and `position` are [batch, time];
    None where inputs are no tokens: every row is kept then, its token is -1, its position counts from 0.
    `document` [batch] numbers the documents, `label` [batch] their classes.
    """

    inputs: Any
    document: Int[Tensor, " batch"]
    keep: Bool[Tensor, "batch time"] | None = None
    token: Int[Tensor, "batch time"] | None = None
    position: Int[Tensor, "batch time"] | None = None
    label: Int[Tensor, " batch"] | None = None

    def columns(self, time: int, pool: Pool = "none") -> tuple[Bool[Tensor, "batch time"], dict[str, Tensor]]:
        """(keep, {token, document, position and maybe label} of the kept rows, as int32)."""
        batch = self.document.numel()
        keep = torch.ones(batch, time, dtype=torch.bool) if self.keep is None else self.keep
        if keep.shape[1] != time:
            raise ShapeError(f"a site has {time} places, the batch's tokens {keep.shape[1]}; choose a site per token")
        token = keep.new_full(keep.shape, -1, dtype=torch.int64) if self.token is None else self.token
        position = torch.arange(time).expand(batch, time) if self.position is None else self.position
        per_row = {"document": self.document} | ({} if self.label is None else {"label": self.label})
        if pool == "none":
            columns = {"token": token[keep], "position": position[keep]}
            columns |= {name: values[:, None].expand(batch, time)[keep] for name, values in per_row.items()}
        else:
            some = keep.any(1)
            columns = {name: values[some] for name, values in per_row.items()}
            columns |= {
                "token": torch.full_like(columns["document"], -1),
                "position": torch.zeros_like(columns["document"]),
            }
        return keep, {name: values.to(torch.int32) for name, values in columns.items()}

    def count(self, time: int, pool: Pool = "none") -> int:
        """How many rows the batch gives, known without running a model."""
        if self.keep is None:
            return self.document.numel() * (time if pool == "none" else 1)
        return int(self.keep.sum() if pool == "none" else self.keep.any(1).sum())

    @property
    def tokens(self) -> int:
        """Tokens that the model reads: attended ones where that is known."""
        mask = self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None
        return (
            int(mask.sum())
            if mask is not None
            else (self.document.numel() if self.token is None else self.token.numel())
        )


def _as_batch(raw: Any, first: int = 0, keep: TokenFilter | None = None) -> Batch:
    """A batch from what a module takes: token numbers [batch, time], a tokenizer's mapping, or rows of numbers.

    Documents are numbered from `first`. "labels" of a mapping are not the module's but the rows' classes, and so is the
    second of a pair (inputs, whole numbers), as a DataLoader gives it.
    """
    if isinstance(raw, Batch):
        return raw
    inputs, leading, token, label, mask = _parts(raw)
    if not isinstance(leading, Tensor) or leading.ndim == 0 or leading.shape[0] == 0:
        kind = tuple(leading.shape) if isinstance(leading, Tensor) else type(leading).__name__
        raise DataError(f"a batch is a tensor [batch, ...] or a mapping of such, with rows, not {kind}")
    document = torch.arange(first, first + leading.shape[0])
    if token is None:
        return Batch(inputs, document, label=label)
    mask = torch.ones_like(token, dtype=torch.bool) if mask is None else mask.bool()
    position = (mask.cumsum(1) - 1).clamp(min=0)
    return Batch(inputs, document, (keep or TokenFilter())(token.cpu(), mask.cpu()), token.cpu(), position.cpu(), label)


def _parts(raw: Any) -> tuple[Any, Any, Any, Any, Any]:
    """(the module's inputs, the one whose length counts rows, tokens, labels, attention mask); None: absent."""
    if isinstance(raw, Mapping):
        inputs = {name: value for name, value in raw.items() if name != "labels"}
        token = inputs.get("input_ids")
        leading = token if token is not None else next(iter(inputs.values()), None)
        return inputs, leading, token, raw.get("labels"), inputs.get("attention_mask")
    if isinstance(raw, (tuple, list)) and _is_pair(raw):
        inputs, leading, token, _, mask = _parts(raw[0])
        return inputs, leading, token, raw[1] if len(raw) == 2 else None, mask
    tokens = isinstance(raw, Tensor) and not raw.is_floating_point() and raw.ndim == 2
    return raw, raw, raw if tokens else None, None, None


def _is_pair(raw: Sequence[Any]) -> bool:
    """Whether a batch is (inputs,) or (inputs, class numbers), as a DataLoader gives them."""
    label = raw[1] if len(raw) == 2 else None
    return len(raw) in (1, 2) and (
        label is None or (isinstance(label, Tensor) and label.ndim == 1 and not label.is_floating_point())
    )


def number_documents(batches: Iterable[Any], keep: TokenFilter | None = None, first: int = 0) -> Iterator[Batch]:
    """Every item as a Batch; raw ones have their documents numbered one after the other, from `first` on."""
    for raw in batches:
        batch = _as_batch(raw, first, keep)
        first = max(first, int(batch.document.max()) + 1)
        yield batch


def masked(batches: Iterable[Any], share: float, token: int, seed: int = 0) -> Iterator[Batch]:
    """Batches in which a share of the kept tokens is `token`, a special one, drawn anew for each batch by the seed.

    What the network reads is broken up, so that tokens which usually stand together do not always do. Rows of the
    tokens in question stay, as rows of `token`.
    Source: masked regularisation (arXiv 2604.06495, 2026), which draws anew for each pass over the texts.
    Raises: DataError for batches without tokens.
    """
    check(0 <= share <= 1, f"share={share}; it is a share of the tokens, 0 to 1")
    for number, batch in enumerate(number_documents(batches)):
        if batch.token is None or batch.keep is None:
            raise DataError("batches hold no tokens to replace; give token numbers or a tokenizer's mappings")
        drawn = torch.rand(batch.token.shape, generator=torch_generator(seed, "masked", number)) < share
        ids = batch.token.masked_fill(drawn & batch.keep, token)
        inputs = dict(batch.inputs) | {"input_ids": ids} if isinstance(batch.inputs, Mapping) else ids
        yield replace(batch, inputs=inputs, token=ids)

"""Pairings: what is read and what is written, and which latents may meet which columns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError, DataError, ShapeError, check
from monosem.base.guard import guarded
from monosem.base.registry import Registry
from monosem.base.spec import TACIT


@dataclass(frozen=True)
class Layout:
    """Widths of the sources on both sides, and the blocks of W_E and W_D (a block mask).

    `shared` says that x_p and x_r are the same space, so that biases and anchors may be shared.
    """

    n_q: int
    p_widths: tuple[int, ...]
    r_widths: tuple[int, ...]
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    shared: bool = False
    skip: bool = False

    @property
    def n_p(self) -> int:
        """Width of x_p: all sources side by side."""
        return sum(self.p_widths)

    @property
    def n_r(self) -> int:
        """Width of x_r."""
        return sum(self.r_widths)

    @property
    def r_slices(self) -> tuple[slice, ...]:
        """The columns of each target source."""
        return tuple(
            slice(stop - width, stop) for stop, width in zip(accumulate(self.r_widths), self.r_widths, strict=True)
        )


def _whole(n_q: int, width: int) -> tuple[Block, ...]:
    return (Block(0, n_q, 0, width),)


@dataclass(frozen=True)
class SAE:
    """Sparse autoencoder: x_r = x_p, one source. `skip` adds W_skip x_p, whose rank has to be bounded ("skip_rank").

    Source: Tang et al. 2025, 2.3; Deng et al. 2026 (skip).
    """

    skip: bool = field(default=False, metadata=TACIT)

    def layout(self, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...]) -> Layout:
        """One encoder and one decoder block over the one source."""
        check(len(p_widths) == 1, f"an SAE reads one source, the data have {len(p_widths)}; use crosscoder")
        check(
            p_widths == r_widths,
            f"an SAE needs x_r = x_p but n_p={p_widths} and n_r={r_widths}; use transcoder",
            ShapeError,
        )
        whole = _whole(n_q, p_widths[0])
        return Layout(n_q, p_widths, r_widths, whole, whole, shared=True, skip=self.skip)


@dataclass(frozen=True)
class Transcoder:
    """x_p enters an MLP block, x_r leaves it; `skip` adds W_skip x_p.

    Source: Dunefsky et al. 2024; Paulo et al. 2025 (skip).
    """

    skip: bool = False

    def layout(self, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...]) -> Layout:
        """Dense encoder and decoder; sources, if several, lie side by side."""
        n_p, n_r = sum(p_widths), sum(r_widths)
        return Layout(n_q, p_widths, r_widths, _whole(n_q, n_p), _whole(n_q, n_r), skip=self.skip)


@dataclass(frozen=True)
class Crosscoder:
    """Reads and writes m sources at once; `private` is the share of latents that belong to each single source.

    With private = 0 every latent meets every source. Otherwise the first latents are common and
    each source then has floor(private * n_q) latents that read and write that source alone.
    Source: Lindsey et al. 2024 (crosscoders); private latents: model diffing with dedicated features.
    """

    private: float = 0.0

    def layout(self, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...]) -> Layout:
        """A common block, and one block per source for its private latents."""
        check(
            p_widths == r_widths,
            f"a crosscoder writes the sources that it reads, but n_p={p_widths} and n_r={r_widths}; use transcoder",
            ShapeError,
        )
        own, m = int(self.private * n_q), len(p_widths)
        check(
            0 <= own * m < n_q, f"private={self.private} for {m} sources leaves no common latent of n_q={n_q}; lower it"
        )
        blocks = list(_whole(n_q - own * m, sum(p_widths)))
        if own:
            for source, (stop, width) in enumerate(zip(accumulate(p_widths), p_widths, strict=True)):
                first = n_q - own * (m - source)
                blocks.append(Block(first, first + own, stop - width, stop))
        return Layout(n_q, p_widths, r_widths, tuple(blocks), tuple(blocks), shared=True)


@dataclass(frozen=True)
class CrossLayer:
    """Cross-layer transcoder: latents that read layer l write to the targets of all layers >= l.

    Latents are split evenly over the layers. Source: Ameisen et al. 2025 (circuit tracing).
    """

    def layout(self, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...]) -> Layout:
        """Block-diagonal encoder, block-triangular decoder."""
        layers = len(p_widths)
        check(
            layers == len(r_widths),
            f"a cross-layer transcoder needs one target per layer, got {layers} inputs and {len(r_widths)} targets",
            ShapeError,
        )
        check(n_q >= layers, f"n_q={n_q} latents cannot be split over {layers} layers; raise n_q")
        edges = [n_q * layer // layers for layer in range(layers + 1)]
        p_edges, r_edges = [0, *accumulate(p_widths)], [0, *accumulate(r_widths)]
        encoder = tuple(Block(edges[i], edges[i + 1], p_edges[i], p_edges[i + 1]) for i in range(layers))
        decoder = tuple(Block(edges[i], edges[i + 1], r_edges[i], r_edges[-1]) for i in range(layers))
        return Layout(n_q, p_widths, r_widths, encoder, decoder)


@dataclass(frozen=True)
class WeaklyCausal:
    """Crosscoder over layers that keeps to their order: latents of layer l read layers <= l and write layers >= l.

    Latents are split evenly over the layers. Source: McDougall et al. 2025 (Gemma Scope 2).
    """

    def layout(self, n_q: int, p_widths: tuple[int, ...], r_widths: tuple[int, ...]) -> Layout:
        """Block-triangular on both sides."""
        layers = len(p_widths)
        check(
            p_widths == r_widths,
            f"a weakly causal crosscoder writes the layers that it reads, but n_p={p_widths} and n_r={r_widths}; "
            "use cross_layer",
            ShapeError,
        )
        check(n_q >= layers, f"n_q={n_q} latents cannot be split over {layers} layers; raise n_q")
        edges, columns = [n_q * layer // layers for layer in range(layers + 1)], [0, *accumulate(p_widths)]
        encoder = tuple(Block(edges[i], edges[i + 1], 0, columns[i + 1]) for i in range(layers))
        decoder = tuple(Block(edges[i], edges[i + 1], columns[i], columns[-1]) for i in range(layers))
        return Layout(n_q, p_widths, r_widths, encoder, decoder, shared=True)


Pairing = SAE | Transcoder | Crosscoder | CrossLayer | WeaklyCausal

PAIRINGS: Registry[Pairing] = Registry("pairing")
PAIRINGS.add("sae", SAE())
PAIRINGS.add("transcoder", Transcoder())
PAIRINGS.add("skip_transcoder", Transcoder(skip=True))
PAIRINGS.add("crosscoder", Crosscoder())
PAIRINGS.add("cross_layer", CrossLayer())
PAIRINGS.add("weakly_causal", WeaklyCausal())


@runtime_checkable
class Source(Protocol):
    """Where training rows come from. `rows` None means an endless stream: row r exists for every r >= 0.

    A source may have a further attribute `fresh`: a source of rows of its kind that training never sees, or None.
    """

    @property
    def p_widths(self) -> tuple[int, ...]:
        """Width of each source of x_p."""
        ...

    @property
    def r_widths(self) -> tuple[int, ...]:
        """Width of each source of x_r."""
        ...

    @property
    def rows(self) -> int | None:
        """Number of rows, or None for a stream."""
        ...

    @property
    def digest(self) -> str:
        """Identifies the data."""
        ...

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows by number: (x_p, x_r), float32."""
        ...


@dataclass(frozen=True, eq=False)
class FreshRows:
    """Endless rows of the law of a source that training never sees, as a source of their own: what `source.fresh` is.

    `take`: rows by number; the numbers of a call follow each other.
    """

    take: Callable[[Tensor], tuple[Tensor, Tensor]]
    p_widths: tuple[int, ...]
    r_widths: tuple[int, ...]
    rows: int | None = None
    digest: str = "fresh"


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a batch come from.

    `index`: their numbers in the source. `token`, `document`, `position`: what token each row is, of which document
    and at which place in it; None where the source does not know. Neighbours are rows of one document.
    """

    index: Int[Tensor, " batch"]
    token: Int[Tensor, " batch"] | None = None
    document: Int[Tensor, " batch"] | None = None
    position: Int[Tensor, " batch"] | None = None


@runtime_checkable
class LocatedSource(Source, Protocol):
    """A source that knows where its rows come from."""

    def where(self, index: Int[Tensor, " batch"]) -> Rows:
        """The provenance of rows by number."""
        ...


def check_finite(name: str, x: Float[Tensor, "rows width"], index: Int[Tensor, " rows"] | None = None) -> None:
    """One rule for what is not a number, in training and inference, on every path; where all is well it costs one sum.

    `index`: the rows' numbers. Raises: DataError, naming the first row that holds NaN or infinity.
    """
    x = x.detach()
    if bool(x.sum().isfinite()):
        return
    wrong = (~x.isfinite().all(1)).nonzero()[:, 0]
    if wrong.numel():  # else only the sum overflowed
        first = int(wrong[0] if index is None else index[int(wrong[0])])
        rows = f"{wrong.numel()} of {len(x)} rows, the first of them row {first}"
        raise DataError(f"{name} holds NaN or infinity in {rows}; remove them")


def _contents(x: Tensor) -> str:
    """sha256 of a tensor's type, shape and numbers."""
    total = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    for part in torch.split(x, max(1, 2**24 // max(x.shape[1], 1))):
        total.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _table(name: str, x: Tensor) -> Tensor:
    """Rows in memory, without a graph."""
    check(x.ndim == 2, f"{name} has shape {tuple(x.shape)}; give a table [rows, width]", DataError)
    check(x.shape[0] > 0 and x.shape[1] > 0, f"{name} is empty, shape {tuple(x.shape)}", DataError)
    check(x.is_floating_point(), f"{name} has type {x.dtype}; convert it to float32", DataError)
    return x.detach()


class TensorSource:
    """Rows of one or two tensors in memory (or mapped from disk).

    Shapes: x_p [rows, n_p]; x_r [rows, n_r], or None for x_r = x_p. Several sources lie side by side; their
    widths are given by p_widths and r_widths. `digest` identifies the data; where none is given, it is that of the
    numbers, taken when it is first asked for.
    Raises: DataError for wrong rank, no rows, mismatched rows, a non-numeric type.
    """

    @guarded
    def __init__(
        self,
        x_p: Tensor,
        x_r: Tensor | None = None,
        p_widths: tuple[int, ...] | None = None,
        r_widths: tuple[int, ...] | None = None,
        digest: str | None = None,
    ) -> None:
        self._x_p, self._x_r = _table("x_p", x_p), None if x_r is None else _table("x_r", x_r)
        if x_r is not None and x_r.shape[0] != x_p.shape[0]:
            raise DataError(
                f"x_p has {x_p.shape[0]} rows, x_r has {x_r.shape[0]}; they must be rows of the same inputs"
            )
        self.rows: int | None = x_p.shape[0]
        self.p_widths = p_widths or (x_p.shape[1],)
        target = x_p if x_r is None else x_r
        self.r_widths = r_widths or (self.p_widths if x_r is None else (target.shape[1],))
        self._digest = digest
        for name, widths, x in (("p_widths", self.p_widths, x_p), ("r_widths", self.r_widths, target)):
            if sum(widths) != x.shape[1]:
                raise ArgumentError(f"{name}={widths} sum to {sum(widths)}, the data have {x.shape[1]} columns")

    @property
    def digest(self) -> str:
        """What was given, or of the numbers."""
        if self._digest is None:
            self._digest = "+".join(_contents(x) for x in (self._x_p, self._x_r) if x is not None)
        return self._digest

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows by number."""
        x_p = self._x_p[index].to(torch.float32)
        return x_p, x_p if self._x_r is None else self._x_r[index].to(torch.float32)

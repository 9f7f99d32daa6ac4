"""What W_D is made of: parameters of its own, or a function of others."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import RefusedError
from monosem.base.registry import Registry
from monosem.core.blockmap import BlockMap
from monosem.core.pairs import Layout


@dataclass(frozen=True)
class Dictionary(ABC):
    """What every dictionary shares. A free one is its own parameters; others are computed whenever they are read.

    `scales`: whether its columns can be brought to a length.
    """

    free: ClassVar[bool] = False
    scales: ClassVar[bool] = True

    @abstractmethod
    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """W_D, latent-major. Raises: RefusedError where the layout does not allow it."""

    def start(self, decoder: BlockMap, x_r: Float[Tensor, "..."], seed: int) -> None:  # noqa: B027 (nothing is to do)
        """Draw what W_D is computed from, where it has no parameters of its own; x_r is a sample of the data."""


DICTIONARIES: Registry[type[Dictionary]] = Registry("dictionary")


@DICTIONARIES.register("free")
@dataclass(frozen=True)
class Free(Dictionary):
    """W_D has parameters of its own."""

    free: ClassVar[bool] = True

    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """One parameter per block."""
        return BlockMap(layout.decoder, layout.n_q, layout.n_r)


@DICTIONARIES.register("tied")
@dataclass(frozen=True)
class Tied(Dictionary):
    """W_D = W_E^T: what holds the encoder holds the decoder. Needs the same blocks on both sides."""

    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """The encoder's rows are the decoder's columns."""
        if layout.encoder != layout.decoder or layout.n_p != layout.n_r:
            raise RefusedError(
                f"a tied dictionary needs W_E and W_D over the same columns, here n_p={layout.n_p}, n_r={layout.n_r} "
                "or their blocks differ; use init 'tied' for a tied start only"
            )
        return _Transposed(layout, encoder)


class _Transposed(BlockMap):
    """Another map's weights; writing rows here writes them there."""

    def __init__(self, layout: Layout, source: BlockMap) -> None:
        nn.Module.__init__(self)
        self.blocks, self.n_q, self.width = tuple(layout.decoder), layout.n_q, layout.n_r
        self.source = source

    @property
    def weights(self) -> Sequence[Tensor]:  # type: ignore[override]
        """The source's weights, block by block."""
        return tuple(self.source.weights)

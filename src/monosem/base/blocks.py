"""The shape of a block-structured weight: which latents meet which columns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Latents [first, last) read or write the columns [left, right) of a representation."""

    first: int
    last: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(latents, columns): the shape of this block's weight, latent-major."""
        return self.last - self.first, self.right - self.left

    @property
    def latents(self) -> slice:
        """The block's latents as a slice."""
        return slice(self.first, self.last)

    @property
    def columns(self) -> slice:
        """The block's columns as a slice."""
        return slice(self.left, self.right)

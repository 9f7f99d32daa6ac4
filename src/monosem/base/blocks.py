"""The shape of a block-structured weight: which latents meet which columns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Latents [first, last) read or write the columns [left, right) of a representation."""

    first: int
    last: int
    left: int
    right: int

    def within(self, latents: range, columns: range) -> "Block | None":
        """Its part on some latents and columns; None where it has none."""
        first, last = max(self.first, latents.start), min(self.last, latents.stop)
        left, right = max(self.left, columns.start), min(self.right, columns.stop)
        return Block(first, last, left, right) if first < last and left < right else None

    def seen_from(self, first: int, left: int) -> "Block":
        """The same, with latents and columns numbered from others."""
        return Block(self.first - first, self.last - first, self.left - left, self.right - left)

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

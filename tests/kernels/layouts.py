"""Hypothesis strategies for block layouts, positions and float64 tensors."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.sparse import Positions


@dataclass(frozen=True)
class Case:
    """Sizes, blocks and a seed for the numbers."""

    batch: int
    n_q: int
    width: int
    blocks: tuple[Block, ...]
    seed: int
    strided: bool

    def tensor(self, *shape: int) -> Tensor:
        """Random float64 numbers that require a gradient; not contiguous where the case says so."""
        generator = torch.Generator().manual_seed(self.seed + sum(shape))
        drawn = torch.randn(shape[::-1] if self.strided else shape, generator=generator, dtype=torch.float64)
        return (drawn.permute(*range(len(shape))[::-1]) if self.strided else drawn).detach().requires_grad_()

    def weights(self) -> list[Tensor]:
        """One weight per block."""
        return [self.tensor(*block.shape) for block in self.blocks]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One whole block, or several that may overlap and may leave cells out."""
    batch, n_q, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    blocks = [Block(0, n_q, 0, width)]
    if draw(st.booleans()):
        spans = st.tuples(
            st.integers(0, n_q - 1), st.integers(1, n_q), st.integers(0, width - 1), st.integers(1, width)
        ).filter(lambda s: s[0] < s[1] and s[2] < s[3])
        blocks = [Block(*span) for span in draw(st.lists(spans, min_size=1, max_size=3))]
    return Case(batch, n_q, width, tuple(blocks), draw(st.integers(0, 2**16)), draw(st.booleans()))


@st.composite
def positions(draw: st.DrawFn, batch: int, n_q: int) -> Positions:
    """Any cells: empty rows, full rows, none at all."""
    cells = draw(st.lists(st.booleans(), min_size=batch * n_q, max_size=batch * n_q))
    return Positions.from_mask(torch.tensor(cells, dtype=torch.bool).view(batch, n_q))


def dense_weight(case: Case, weights: list[Tensor]) -> Tensor:
    """The [n_q, width] matrix that the blocks add up to, filled by a loop."""
    dense = torch.zeros(case.n_q, case.width, dtype=torch.float64)
    for block, weight in zip(case.blocks, weights, strict=True):
        dense[block.first : block.last, block.left : block.right] += weight.detach()
    return dense

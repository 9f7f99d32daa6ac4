"""The one door to the kernels: what the rest of the library computes with, whichever back end serves.

`select` says which cells a batch carries, `read` makes their pre-activations differentiable, `write` decodes a code and
`step_rows` takes an optimiser step. Plain torch, compiled C or Triton: the choice falls in here, by device, dtype and
shape. Everything else by name: thresholds with straight-through gradients, products in the precision of the moment,
functions of rows whose gradients are no matrices, ledgers, memory.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.sparse import Code, SparseCode
from monosem.kernels import reference, sparse
from monosem.kernels.fold import Mask, Score, kth, merge, pick, subset
from monosem.kernels.gpu import rows as gpu
from monosem.kernels.gpu.launch import serves
from monosem.kernels.ledger import Ledger, open_ledger
from monosem.kernels.native import rows as native
from monosem.kernels.native.build import build_name, kernel_hash
from monosem.kernels.native.calls import usable
from monosem.kernels.native.dense import count, used
from monosem.kernels.native.rows import CellSet
from monosem.kernels.precision import dense_products, multiply, multiply_again
from monosem.kernels.ranking import top_index
from monosem.kernels.select import Product, Selection, carried, rank, select
from monosem.kernels.sparse import row_norms, rows_of
from monosem.kernels.straight_through import heaviside, heaviside_sum, jump, jump_and_sums
from monosem.kernels.workspace import give_back, huge_pages, kept_memory, recycled

__all__ = [
    "Ledger",
    "Mask",
    "Product",
    "RowStep",
    "Score",
    "Selection",
    "build_name",
    "carried",
    "count",
    "dense_products",
    "give_back",
    "heaviside",
    "heaviside_sum",
    "huge_pages",
    "jump",
    "jump_and_sums",
    "kept_memory",
    "kernel_hash",
    "kth",
    "merge",
    "multiply",
    "open_ledger",
    "pick",
    "rank",
    "read",
    "read_every",
    "recycled",
    "row_norms",
    "rows_of",
    "select",
    "step_rows",
    "subset",
    "takes_rows",
    "top_index",
    "used",
    "write",
]

read_every = reference.read
RowStep = native.RowStep | gpu.RowStep


def read(
    cells: Sequence[SparseCode],
    z: Float[Tensor, "batch n_q"] | None,
    x: Float[Tensor, "batch n_p"],
    b_in: Float[Tensor, " n_p"],
    bias: Float[Tensor, " n_q"],
    blocks: Sequence[Block],
    weights: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Differentiable pre-activations at each set of cells and, where `z` is given, of every cell, last.

    What `select` found, computed without gradient from x (b_in subtracted already), bias and weights, comes back as it
    is, with a gradient whose cost is that of the cells; see `sparse.read_cells`.
    """
    values, ats = [part.values for part in cells], [part.at for part in cells]
    return sparse.read_cells(values, ats, z, x, b_in, bias, blocks, weights)


def write(
    code: Code, width: int, blocks: Sequence[Block], weights: Sequence[Tensor], plain: bool = False
) -> Float[Tensor, "batch n_r"]:
    """What a code writes, without bias; with `plain`, a dense one by stock torch alone.

    Equation: out[b, columns] = sum over blocks of code[b, latents] @ W_block.
    """
    if isinstance(code, SparseCode):
        return sparse.write_cells(code.at, code.values, width, blocks, weights)
    if not plain and len(blocks) == 1 and blocks[0].shape == (code.n_q, width):
        return multiply_again(code.values, weights[0])  # in recycled memory
    return reference.write(code.values, width, blocks, weights)


def takes_rows(*weights: Tensor, widest: int = 0) -> bool:
    """Whether `step_rows` takes these weights: their rows must lie one after another.

    `widest`: columns of the widest piece of a row that is projected on; a GPU's program holds one at most.
    """
    served = serves(*weights) and widest <= gpu.WIDEST
    return all(weight.is_contiguous() for weight in weights) and (usable(*weights) or served)


def step_rows(
    weight: Tensor, base: Tensor | None, sets: Sequence[CellSet], bounds: Sequence[int], project: bool, unit: bool
) -> RowStep:
    """An optimiser step on the rows of a weight, in place: first `squared_norm` where one clips, then `adam`.

    The gradient is `base` (dense, or None) plus a sum over the cells of every set, which is never written out.
    `bounds`: columns where pieces of a row begin and end; each piece is projected on (its part along the weight is
    taken out of the gradient) with `project` and brought to unit norm with `unit`.
    """
    row_step = gpu.RowStep if serves(weight) else native.RowStep
    return row_step(weight, base, sets, bounds, project, unit)

"""Edges that changed expressions of the code showed to be untested, by hand."""

import pytest
import torch

from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError
from monosem.base.group import ALONE
from monosem.base.selection import Above, Every
from monosem.base.sparse import Positions, SparseCode
from monosem.core.activations import JumpReLU
from monosem.core.constraints import _share_latents
from monosem.core.learned_encoders import Mlp
from monosem.core.pairs import Layout
from monosem.core.shards import Share, column_edges, edges, over_shards, region
from monosem.core.units import Units
from monosem.kernels.ops import Selection
from monosem.losses.fidelity import Delta
from monosem.methods import method


def test_latents_are_cut_in_order_and_every_row_goes_to_one_process() -> None:
    assert edges(7, 3) == [0, 2, 4, 7]
    assert edges(3, 3) == [0, 1, 2, 3]
    one = (Block(0, 12, 0, 4),)
    whole = Layout(12, (4,), (4,), one, one)
    assert region(whole, "b_E", Share(3, 7)) == (range(3, 7),)
    assert region(whole, "model.b_D", Share(3, 7)) == (range(4),)
    assert region(whole, "adam.b_in.exp_avg", Share(3, 7)) == ()
    blocks = (Block(0, 4, 0, 2), Block(4, 12, 2, 5))
    private = Layout(12, (4,), (5,), one, blocks)
    name = "decoder.1"
    assert [region(private, name, Share(*span))[0] for span in ((0, 3), (2, 6), (5, 12))] == [
        range(0),
        range(2),
        range(1, 8),
    ]
    assert region(private, name, Share(0, 4, (1, 4))) == (range(8), range(2))
    assert region(private, "b_D", Share(0, 4, (1, 4))) == (range(1, 4),)
    assert region(private, "encoder.0", Share(0, 4, (1, 4))) == (range(4), range(4))


def test_columns_are_cut_where_each_process_has_as_many_weights() -> None:
    blocks = (Block(0, 4, 0, 9), Block(4, 8, 3, 9), Block(8, 12, 6, 9))
    layers = Layout(12, (3, 3, 3), (3, 3, 3), blocks, blocks)
    assert column_edges(layers, 2) == [0, 6, 9]  # 3 x 4 + 3 x 8 weights, and 3 x 12
    assert column_edges(layers, 3) == [0, 5, 7, 9]
    with pytest.raises(ArgumentError, match="n_r=9"):
        column_edges(layers, 10)


def test_two_of_three_blocks_that_share_latents_are_enough() -> None:
    apart = [Block(0, 4, 0, 2), Block(4, 8, 0, 2), Block(8, 12, 2, 5)]
    assert not _share_latents(apart)
    assert _share_latents([*apart[:2], Block(7, 12, 2, 5)])


def test_one_hidden_unit_is_enough() -> None:
    Mlp(hidden=1)


def test_two_widths_cannot_be_subtracted() -> None:
    refused = Delta(1.0).refuse(
        method("topk(k=1)").activation, Layout(8, (4, 6), (4, 6), (Block(0, 8, 0, 10),), (Block(0, 8, 0, 10),))
    )
    assert refused is not None
    assert "widths (4, 6)" in refused


def test_short_columns_are_brought_back_too() -> None:
    """<w_E, w_D> is 1 after a step, for columns of norm .1."""
    aligned = method("aligned(k=1)")
    model, _ = aligned.build(8, (4,), (4,))
    constraint = next(one for one in aligned.constraints if type(one).__name__ == "Aligned")
    with torch.no_grad():
        model.decoder.weights[0].mul_(0.1)
    constraint.after_step(model)
    products = (model.W_E * model.W_D.T).sum(1)
    assert products.tolist() == pytest.approx([1.0] * 8, abs=1e-5)


@pytest.mark.parametrize("logarithm", [True, False])
def test_a_threshold_starts_again_at_half_of_z_and_at_its_start_at_most(logarithm: bool) -> None:
    sigma = JumpReLU(theta=0.9, log_threshold=logarithm)
    name = "log_theta" if logarithm else "theta"
    parameters = {name: torch.zeros(3)}
    sigma.reset(torch.tensor([0, 2]), torch.tensor([1.0, 9.0]), parameters)
    theta = parameters[name].exp() if logarithm else parameters[name]
    assert theta[[0, 2]].tolist() == pytest.approx([0.5, 0.9])


def test_rows_shorter_than_one_have_a_scale() -> None:
    x = 1e-3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    units = Units.of(x, x, (5,), (5,))
    assert float(units.read(x).norm(dim=1).mean()) == pytest.approx(5**0.5, rel=1e-4)


def test_what_every_process_computed_is_left_out_only_where_cells_say_all() -> None:
    """A mask is read from z, and a request for every cell is z."""
    z = torch.tensor([[1.0, -1.0]])
    mask = Selection(z > 0, (), z)
    assert over_shards(mask, [Above()], None, ALONE).z is z
    cells = Selection(SparseCode(Positions.from_mask(z > 0), z[z > 0]), (), z)
    assert over_shards(cells, [Above(), Every()], None, ALONE).z is z
    assert over_shards(cells, [Above()], None, ALONE).z is None

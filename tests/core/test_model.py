"""The one model: its forward pass against the equation, for every pairing, and clear errors for what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.base import selection
from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError, RefusedError, ShapeError
from monosem.base.selection import Every
from monosem.core.activations import Context, JumpReLU, ReLU, TopK
from monosem.core.blockmap import BlockMap
from monosem.core.constraints import Tied, UnitNorm
from monosem.core.model import SDL, PreBias
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, TensorSource, Transcoder
from monosem.losses.fidelity import Reconstruction
from monosem.methods import method
from tests.losses.trials import batch, trial
from tests.refused import PAIRS


def sources(widths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.full((width,), number) for number, width in enumerate(widths)])


def test_private_latents_meet_one_source() -> None:
    layout = Crosscoder(private=0.2).layout(16, (4, 3), (4, 3))  # 3 private latents each
    model = trial(ReLU(), (Reconstruction(),), "crosscoder, private latents").model
    owner = torch.tensor([-1] * 10 + [0] * 3 + [1] * 3)
    live = (owner[:, None] == -1) | (owner[:, None] == sources((4, 3))[None, :])
    assert model.layout == layout
    assert torch.equal(model.W_E != 0, live)
    assert torch.equal(model.W_D.T != 0, live)


def test_a_cross_layer_transcoder_is_triangular() -> None:
    """Latents that read layer l write to the targets of layers l and above, and to no earlier one."""
    layout = CrossLayer().layout(7, (2, 3, 1), (3, 2, 2))
    model = SDL(layout, ReLU())
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
    layer = torch.tensor([0, 0, 1, 1, 2, 2, 2])  # 7 latents split at 7/3 and 14/3, rounded down
    assert torch.equal(model.W_E != 0, layer[:, None] == sources((2, 3, 1))[None, :])
    assert torch.equal(model.W_D.T != 0, sources((3, 2, 2))[None, :] >= layer[:, None])


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("pair", PAIRS)
def test_forward_is_the_equation(pair: str, path: str) -> None:
    """x_r_hat = W_D sigma(W_E (x_p - b_in) + b_E) + b_D + W_skip x_p with whole, masked matrices."""
    run = trial(TopK(3), (Reconstruction(),), pair)
    model, (x_p, _) = run.model.eval(), batch(pair, run.generator)
    model.path = path
    out = model(x_p, requests=(Every(), selection.TopK(2)))
    z = (x_p - model.b_in) @ model.W_E.T + model.b_E
    keep = torch.zeros_like(z).scatter(1, z.topk(3, dim=1).indices, 1.0)
    code = z.relu() * keep
    skip = 0 if model.W_skip is None else x_p @ model.W_skip.T
    torch.testing.assert_close(out.code.to_dense(), code)
    torch.testing.assert_close(out.x_r_hat, code @ model.W_D.T + model.b_D + skip)
    torch.testing.assert_close(model.encode(x_p).to_dense(), code)
    torch.testing.assert_close(model.decode(model.encode(x_p), x_p), out.x_r_hat)
    torch.testing.assert_close(out.extra[Every()].to_dense(), z)
    two = torch.zeros_like(z).scatter(1, z.topk(2, dim=1).indices, 1.0)
    torch.testing.assert_close(out.extra[selection.TopK(2)].to_dense(), z * two)


def test_pre_biases() -> None:
    layout = SAE().layout(8, (5,), (5,))
    none, free, tied = (SDL(layout, ReLU(), kind) for kind in ("none", "free", "tied"))  # type: ignore[arg-type]
    assert tied.b_in is tied.b_D
    assert free.b_in is not free.b_D
    assert none.b_in.abs().sum() == 0
    assert {len(list(model.parameters())) for model in (none, tied)} == {4}
    assert len(list(free.parameters())) == 5
    with pytest.raises(ArgumentError, match="pre_bias='tied' needs x_p and x_r in one space"):
        SDL(Transcoder().layout(8, (5,), (6,)), ReLU(), "tied")
    with pytest.raises(ArgumentError, match="pre_bias='tied'"):  # equal widths do not make one space
        SDL(Transcoder().layout(8, (5,), (5,)), ReLU(), "tied")


def test_norms_per_source_add_up() -> None:
    model = trial(ReLU(), (Reconstruction(),), "cross_layer", constraints=()).model
    W_D = model.W_D
    torch.testing.assert_close(model.decoder_norm(), W_D.norm(dim=0))
    wanted = torch.stack([W_D[:3].norm(dim=0), W_D[3:].norm(dim=0)])
    torch.testing.assert_close(model.source_norms(), wanted)


def test_block_maps_know_their_rows() -> None:
    weight = BlockMap([Block(0, 2, 0, 3), Block(1, 4, 2, 5)], 4, 5)
    rows = torch.arange(1.0, 11.0).view(2, 5)
    weight.set_rows(torch.tensor([3, 0]), rows)
    wanted = torch.zeros(4, 5)
    wanted[3, 2:5], wanted[0, 0:3] = rows[0, 2:5], rows[1, 0:3]
    torch.testing.assert_close(weight.dense(), wanted)
    torch.testing.assert_close(weight.squared_norms(), wanted.pow(2).sum(1))
    torch.testing.assert_close(weight.squared_norms(slice(1, 3)), wanted[:, 1:3].pow(2).sum(1))
    weight.scale_rows(torch.tensor([2.0, 1.0, 1.0, 0.5]))
    torch.testing.assert_close(weight.dense(), wanted * torch.tensor([2.0, 1.0, 1.0, 0.5])[:, None])
    assert not weight.is_whole


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SDL(SAE().layout(4, (3,), (3,)), TopK(5)), ArgumentError, "k=5 is larger than n_q=4"),
        (lambda: SDL(SAE().layout(0, (3,), (3,)), ReLU()), ArgumentError, "n_q=0"),
        (lambda: SDL(SAE().layout(4, (3,), (3,)), ReLU())(torch.randn(2, 5)), ShapeError, r"\(2, 5\).*n_p=3"),
        (lambda: SDL(SAE().layout(4, (3,), (3,)), ReLU())(torch.randn(5)), ShapeError, r"\(5,\).*n_p=3"),
        (lambda: SAE().layout(4, (3, 3), (3, 3)), ArgumentError, "reads one source, the data have 2"),
        (lambda: SAE().layout(4, (3,), (4,)), ShapeError, r"n_p=\(3,\) and n_r=\(4,\); use transcoder"),
        (lambda: Crosscoder().layout(4, (3, 2), (3, 3)), ShapeError, "writes the sources that it reads"),
        (lambda: Crosscoder(0.5).layout(4, (3, 3), (3, 3)), ArgumentError, "private=0.5 for 2 sources"),
        (lambda: CrossLayer().layout(4, (3, 3), (3,)), ShapeError, "2 inputs and 1 targets"),
        (lambda: CrossLayer().layout(1, (3, 3), (3, 3)), ArgumentError, "n_q=1 latents cannot be split over 2"),
    ],
)
@pytest.mark.usefixtures("as_in_production")
def test_what_does_not_fit_is_one_clear_error(make: object, error: type[Exception], message: str) -> None:
    assert callable(make)
    with pytest.raises(error, match=message):
        make()


def test_a_skip_needs_its_input() -> None:
    model = SDL(Transcoder(skip=True).layout(4, (3,), (2,)), ReLU())
    with pytest.raises(ArgumentError, match="needs x_p"):
        model.decode(model.encode(torch.randn(2, 3)))


def test_tensor_source_gives_rows_and_says_what_is_wrong() -> None:
    x, y = torch.randn(5, 3), torch.randn(5, 4, dtype=torch.float64)
    one, two = TensorSource(x), TensorSource(x, y, r_widths=(1, 3))
    index = torch.tensor([4, 0, 4])
    x_p, x_r = one.take(index)
    assert x_p is x_r
    torch.testing.assert_close(x_p, x[index])
    torch.testing.assert_close(two.take(index)[1], y[index].float())
    assert (two.rows, two.p_widths, two.r_widths) == (5, (3,), (1, 3))
    for bad, message in (
        (lambda: TensorSource(torch.randn(3)), r"shape \(3,\)"),
        (lambda: TensorSource(torch.zeros(0, 3)), "x_p is empty"),
        (lambda: TensorSource(torch.zeros(2, 3, dtype=torch.int64)), "torch.int64"),
        (lambda: TensorSource(x, y[:4]), "x_p has 5 rows, x_r has 4"),
        (lambda: TensorSource(x, p_widths=(1, 1)), r"p_widths=\(1, 1\) sum to 2, the data have 3"),
    ):
        with pytest.raises(ArgumentError, match=message):
            bad()


def test_a_threshold_below_zero_does_not_survive_a_projection() -> None:
    model = trial(JumpReLU(), (Reconstruction(),), "sae").model
    with torch.no_grad():
        model.act["theta"].fill_(-1.0)
        model.activation.project(dict(model.act.items()))
    assert float(model.act["theta"].detach().min()) == 0.0


@pytest.mark.parametrize("pair", ["transcoder", "cross_layer"])
def test_tied_weights_need_one_space(pair: str) -> None:
    with pytest.raises(RefusedError, match="tied weights need W_E and W_D over the same columns"):
        trial(ReLU(), (Reconstruction(),), pair, constraints=(UnitNorm(), Tied()))


@pytest.mark.parametrize("text", ["topk(k=3)", "relu_l1", "topk_skip_transcoder(k=3)"])
@pytest.mark.parametrize("leading", [(2, 5), (), (2, 1, 3)])
def test_leading_axes_are_those_of_the_rows(text: str, leading: tuple[int, ...]) -> None:
    model, _ = method(text).build(12, (6,), (6,), seed=1)
    x = torch.randn(*leading, 6)
    rows, out = model(x.reshape(-1, 6)), model(x)
    assert torch.equal(out.code.to_dense(), rows.code.to_dense().reshape(*leading, 12))
    assert torch.equal(out.x_r_hat, rows.x_r_hat.reshape(*leading, 6))
    assert torch.equal(model.decode(model.encode(x), x), out.x_r_hat)
    dense = model.decode(out.code.to_dense(), x)
    torch.testing.assert_close(dense, out.x_r_hat)


def test_a_gradient_reaches_rows_with_leading_axes() -> None:
    model, _ = method("topk(k=3)").build(12, (6,), (6,), seed=1)
    x = torch.randn(2, 5, 6, requires_grad=True)
    model(x).x_r_hat.square().sum().backward()
    flat = x.detach().reshape(-1, 6).requires_grad_()
    model(flat).x_r_hat.square().sum().backward()
    assert x.grad is not None
    assert flat.grad is not None
    assert torch.equal(x.grad, flat.grad.reshape(2, 5, 6))


@pytest.mark.usefixtures("as_in_production")
def test_what_is_no_row_is_refused_in_one_line() -> None:
    model, _ = method("topk(k=3)").build(12, (6,), (6,))
    for wrong, words in (
        (np.zeros((2, 6)), "x_p is ndarray; give a tensor, as torch.as_tensor"),
        (torch.zeros(2, 6, dtype=torch.int64), "x_p holds torch.int64; give real numbers"),
        (torch.zeros(2, 5), r"shape \(2, 5\); this model reads \[..., n_p=6\]"),
        (torch.tensor(1.0), r"shape \(\); this model reads"),
    ):
        with pytest.raises(ArgumentError, match=words):
            model.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"latents has shape .*n_q=12"):
        model.decode(torch.zeros(2, 5))


def test_a_code_says_its_sizes_in_a_line() -> None:
    model, _ = method("topk(k=3)").build(12, (6,), (6,))
    assert repr(model.encode(torch.randn(2, 5, 6))).startswith("SparseCode([2, 5, 12], ")


@pytest.mark.parametrize("bias", ["none", "free", "tied"])
@pytest.mark.parametrize("name", ["topk(k=3)", "batch_topk(k=3)", "jumprelu(theta=2.0)"])
def test_rows_that_ask_for_a_gradient_have_the_same_code(name: str, bias: PreBias) -> None:
    """And gradients, of the weights too, are those of the path through all cells."""
    model, _ = replace(method(name), pre_bias=bias).build(512, (8,), (8,))
    with torch.no_grad():
        for parameter in (model.b_E, model.b_D, model.b_in):
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) / 3)
    x, wanted, training = torch.randn(6, 8), torch.randn(6, 8), Context(training=True)
    code, gradients = model(x, context=training).code.to_dense(), []
    for path in ("auto", "reference"):
        model.path, rows = path, x.clone().requires_grad_()
        out = model(rows, context=training)
        torch.testing.assert_close(out.code.to_dense(), code)
        asked = [rows, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
        gradients.append(torch.autograd.grad((out.x_r_hat - wanted).square().sum(), asked, allow_unused=True))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)

"""Splicing: x_r_hat in the place of x_r, and with its error nothing at all but the gradient of every latent."""

import pytest
import torch
from torch import nn

from monosem.base.errors import RefusedError, ShapeError
from monosem.networks.rewrite import rewriting
from monosem.networks.sites import find_sites
from monosem.networks.splice import splice
from tests.networks.llamas import MLP, WIDTH, ids, llama, trained

LAYER = "model.layers.1:out"


def test_the_reconstruction_stands_in_the_place_of_the_site() -> None:
    model, x = llama(), ids()
    sae = trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    taken = []
    hook = model.model.layers[1].register_forward_hook(lambda _m, _a, out: taken.append(out))
    model(x)
    hook.remove()
    wanted = sae(taken[0].reshape(-1, WIDTH)).x_r_hat.reshape(taken[0].shape)
    put = model.model.layers[1].register_forward_hook(lambda _m, _a, _out: wanted)
    direct = model(x).logits
    put.remove()
    with splice(model, sae, LAYER) as left:
        assert torch.equal(model(x).logits, direct)
    assert left.code is not None
    assert left.code.batch == x.numel()
    half = torch.zeros(x.shape, dtype=torch.bool)
    half[:, ::2] = True
    mixed = torch.where(half[..., None], wanted, taken[0])
    put = model.model.layers[1].register_forward_hook(lambda _m, _a, _out: mixed)
    direct = model(x).logits
    put.remove()
    with splice(model, sae, LAYER, mask=half):
        assert torch.equal(model(x).logits, direct)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_its_error_the_network_is_as_it_was(dtype: torch.dtype) -> None:
    model, x = llama().to(dtype), ids()
    coder = trained("topk_transcoder(k=6)", 24, (WIDTH,), (WIDTH,))
    at = MLP.format(1) + ":in,out"
    clean = model(x).logits
    with splice(model, coder, at, error=True):
        assert torch.equal(model(x).logits, clean)
        with torch.no_grad():
            assert torch.equal(model(x).logits, clean)
    layer, same = nn.Sequential(nn.Identity()), torch.randn(3, WIDTH, dtype=dtype)
    sae = trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    with torch.no_grad(), splice(layer, sae, "0:out", error=True):
        assert layer(same) is same


def test_attribution_through_the_spliced_code() -> None:
    """The gradient by a latent's value is the gradient at the site times its column, errors held constant."""
    model, x = llama(), ids()
    sae = trained("relu_l1", 24, (WIDTH,), (WIDTH,))
    seen = []

    def keep(t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return t

    (site,) = find_sites({"": model}, LAYER)
    with rewriting(model, [(site, keep)]):
        loss = model(x).logits.log_softmax(-1)[..., 5].sum()
    (at_site,) = torch.autograd.grad(loss, seen)
    with splice(model, sae, LAYER, error=True) as left:
        model(x).logits.log_softmax(-1)[..., 5].sum().backward()
    assert left.code is not None
    values = left.code.values
    assert values.grad is not None
    wanted = at_site.reshape(-1, WIDTH) @ sae.W_D
    found = left.code.with_values(values.grad).to_dense()
    fired = left.code.to_dense() != 0
    torch.testing.assert_close(found[fired], wanted[fired], rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    model = llama()
    two = trained("topk_crosscoder(k=6)", 24, (WIDTH, WIDTH), (WIDTH, WIDTH))
    with (
        pytest.raises(RefusedError, match=r"reads 2 sites, .* network_scores splices it by two passes"),
        splice(model, two, "model.layers.[01]:out"),
    ):
        pass
    sae = trained("topk(k=6)", 24, (WIDTH,), (WIDTH,))
    mask = torch.ones(3, 4, dtype=torch.bool)
    with splice(model, sae, LAYER, mask=mask), pytest.raises(ShapeError, match=r"mask has shape \(3, 4\)"):
        model(ids())
    with (
        splice(model, sae, LAYER, to="lm_head:out"),
        pytest.raises(ShapeError, match=r"lm_head:out has shape \(3, 9, 40\), the reconstruction \(27, 16\)"),
    ):
        model(ids())

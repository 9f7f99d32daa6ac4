"""Steering against the equation written out; an unedited pass against the network's own tensor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, RefusedError, ShapeError
from monosem.core.model import SDL
from monosem.core.rownorm import RowNorm, RowNormSDL
from monosem.methods import method
from monosem.networks.edits import Edit, add, clamp, scale, zero
from monosem.networks.rewrite import rewriting
from monosem.networks.sites import find_sites
from monosem.networks.steer import steer
from tests.networks.llamas import LENGTH, MLP, VOCABULARY, WIDTH, ids, llama, trained

LAYER = "model.layers.1:out"
N_Q = 24


@contextmanager
def _tapped(model: nn.Module, at: str) -> Iterator[list[Tensor]]:
    """What passes a site at this point of the order of hooks."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with rewriting(model, [(site, keep) for site in find_sites({"": model}, at)]):
        yield seen


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _sae(text: str = "topk(k=6)") -> SDL:
    return trained(text, N_Q, (WIDTH,), (WIDTH,))


def _firing(sae: SDL, x: Tensor) -> tuple[int, int]:
    """A latent that fires somewhere, and one that fires nowhere."""
    fired = (sae.encode(x.reshape(-1, WIDTH)).to_dense() != 0).any(0)
    assert fired.any()
    assert not fired.all()
    return int(fired.nonzero()[0]), int((~fired).nonzero()[0])


def _quiet(sae: SDL) -> SDL:
    """The last latents never fire."""
    with torch.no_grad():
        sae.b_E[-4:] = -1e3
    return sae


@pytest.mark.parametrize("text", ["topk(k=6)", "relu_l1", "batch_topk(k=6)"])
@pytest.mark.parametrize("grad", [False, True])
def test_every_kind_of_edit_is_the_equation(text: str, grad: bool) -> None:
    model, sae, x = llama(), _sae(text), ids()
    edits = (add(2, 1.5), clamp([3, 5], 2.0), scale(7, -0.5), zero(11), add(3, 0.25, at=slice(2, 5)))
    with torch.set_grad_enabled(grad):
        with _tapped(model, LAYER) as before, steer(model, sae, LAYER, *edits), _tapped(model, LAYER) as after:
            model(x)
        rows = before[0].reshape(-1, WIDTH)
        code = sae.encode(rows).to_dense()
        new = code.clone().reshape(*x.shape, N_Q)
        new[..., 2] += 1.5
        new[..., [3, 5]] = 2.0
        new[..., 7] *= -0.5
        new[..., 11] = 0
        new[:, 2:5, 3] += 0.25
        wanted = before[0] + ((new.reshape(-1, N_Q) - code) @ sae.W_D.T).reshape(before[0].shape)
    torch.testing.assert_close(after[0], wanted, rtol=1e-5, atol=1e-5)
    assert (after[0] - before[0]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("grad", [False, True])
def test_an_unedited_pass_returns_the_tensor_itself(dtype: torch.dtype, grad: bool) -> None:
    model, sae, x = llama().to(dtype), _quiet(_sae()), ids()
    with torch.no_grad():
        clean = model(x).logits
    for edits in ((), (zero([-1 % N_Q, N_Q - 2]),), (scale([0, 1, 2], 1.0),), (add(0, 0.0), add(3, 1.0, at=[]))):
        with (
            torch.set_grad_enabled(grad),
            _tapped(model, LAYER) as before,
            steer(model, sae, LAYER, *edits),
            _tapped(model, LAYER) as after,
        ):
            logits = model(x).logits
        assert after[0] is before[0]
        assert after[0].data_ptr() == before[0].data_ptr()
        assert torch.equal(logits, clean)  # every bit of what follows
    assert logits.dtype == dtype


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


def test_rows_whose_latents_do_not_change_keep_every_bit() -> None:
    """Also the sign of a zero, which adding 0 would lose."""
    layer, sae = nn.Sequential(nn.Identity()), _sae()
    x = torch.randn(2, 5, WIDTH)
    x[0, 1, 3] = -0.0
    with steer(layer, sae, "0:out", add(4, 1.0, at=[2])):
        steered = layer(x)
    same = torch.tensor([True, True, False, True, True])
    assert torch.equal(_bits(steered[:, same]), _bits(x[:, same]))
    torch.testing.assert_close(steered[:, 2], x[:, 2] + sae.W_D[:, 4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    layer, sae, x = nn.Sequential(nn.Identity()), _sae(), torch.randn(7, WIDTH).to(dtype)
    with steer(layer, sae, "0:out", clamp(0, 3.0)):
        steered = layer(x)
    code = sae.encode(x.float()).to_dense()[:, 0]
    wanted = x.double() + ((3.0 - code)[:, None] * sae.W_D[:, 0]).double()
    assert steered.dtype == dtype
    torch.testing.assert_close(steered.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-5)


@given(start=st.integers(-6, 6), stop=st.integers(-6, 6), step=st.integers(1, 3))
@settings(max_examples=25)
def test_positions_are_those_of_a_list(start: int, stop: int, step: int) -> None:
    """A slice or numbers choose what they choose in a list of all tokens, also when they come in two passes."""
    tokens, split = list(range(6)), 4
    for where in (slice(start, stop, step), [p for p in {start, stop} if -6 <= p < 6]):
        chosen = tokens[where] if isinstance(where, slice) else [tokens[p] for p in where]
        whole = add(0, 1.0, at=where).mask((2, 6))
        assert whole is not None
        assert whole[0].nonzero()[:, 0].tolist() == sorted(set(chosen))
        if min(start, stop) >= 0:  # negative numbers count from the end of each pass
            first, second = add(0, 1.0, at=where).mask((2, split)), add(0, 1.0, at=where).mask((2, 2), past=split)
            assert first is not None
            assert second is not None
            both = torch.cat([first, second], 1)[1].nonzero()[:, 0].tolist()
            assert both == sorted(set(chosen))


def test_a_mask_chooses_tokens_and_must_fit() -> None:
    model, sae, x = llama(), _sae(), ids()
    mask = torch.rand(x.shape) < 0.4
    with (
        _tapped(model, LAYER) as before,
        steer(model, sae, LAYER, add(1, 2.0, at=mask)),
        _tapped(model, LAYER) as after,
    ):
        model(x)
    moved = (after[0] != before[0]).any(-1)
    assert torch.equal(moved, mask)
    with (
        steer(model, sae, LAYER, add(1, 2.0, at=mask[:, :4])),
        pytest.raises(ShapeError, match=r"mask of shape \(3, 4\), the tokens of this pass have shape \(3, 9\)"),
    ):
        model(x)


def test_generate_with_a_cache_equals_generate_without() -> None:
    """Positions count over the whole sequence, although each pass of a cached generation sees one token."""
    model, sae, x = llama(), _sae(), ids(1)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "min_new_tokens": 8}
    plain = model.generate(x, **options)
    for where in (None, slice(LENGTH + 2, LENGTH + 5), [4, LENGTH + 1], slice(2, None)):
        with steer(model, sae, LAYER, add(5, 30.0, at=where), scale(6, 3.0, at=where)):
            cached, fresh = (model.generate(x, use_cache=use, **options) for use in (True, False))
        assert torch.equal(cached, fresh)
        assert not torch.equal(cached, plain)
    assert torch.equal(model.generate(x, **options), plain)


def test_managers_nest_and_leave_nothing_behind() -> None:
    model, one, other, x = llama(), _sae(), _sae("relu_l1"), ids()
    hooks, clean = _hooks(model), model(x).logits
    with _tapped(model, LAYER) as before, steer(model, one, LAYER, add(1, 2.0)), _tapped(model, LAYER) as middle:
        with steer(model, other, LAYER, zero(range(N_Q))), _tapped(model, LAYER) as after:
            model(x)
        again = model(x)
    assert again.logits.shape == (*x.shape, VOCABULARY)
    torch.testing.assert_close(middle[0], before[0] + 2.0 * one.W_D[:, 1])
    rest = middle[0].reshape(-1, WIDTH)
    wanted = rest - other.encode(rest).to_dense() @ other.W_D.T  # the second reads what the first wrote
    torch.testing.assert_close(after[0].reshape(-1, WIDTH), wanted, rtol=1e-4, atol=1e-5)
    assert _hooks(model) == hooks
    assert torch.equal(model(x).logits, clean)


def test_an_exception_restores_the_network() -> None:
    model, sae, x = llama(), _sae(), ids()
    hooks, clean = _hooks(model), model(x).logits
    with pytest.raises(RuntimeError, match="on purpose"), steer(model, sae, LAYER, add(1, 2.0)):
        raise RuntimeError("on purpose")

    def burst(_: Tensor) -> Tensor:
        raise RuntimeError("in the pass")

    last = find_sites({"": model}, "model.norm:in")[0]
    with (
        pytest.raises(RuntimeError, match="in the pass"),
        steer(model, sae, LAYER, add(1, 2.0)),
        rewriting(model, [(last, burst)]),
    ):
        model(x)
    assert _hooks(model) == hooks
    assert torch.equal(model(x).logits, clean)


def test_attribution_is_the_gradient_at_the_site_times_the_column() -> None:
    """The derivative of the loss by what is added to a latent, at every token, without moving anything."""
    model, sae, x, latents = llama(), _sae(), ids(), [0, 3, 9]

    def loss() -> Tensor:
        found: Tensor = model(x).logits.log_softmax(-1)[..., 7].sum()
        return found

    with _tapped(model, LAYER) as clean:
        before = loss()
    (at_site,) = torch.autograd.grad(before, clean)
    amount = torch.zeros(*x.shape, len(latents), requires_grad=True)
    with steer(model, sae, LAYER, add(latents, amount)):
        loss().backward()
    assert amount.grad is not None
    torch.testing.assert_close(amount.grad, at_site @ sae.W_D[:, latents], rtol=1e-4, atol=1e-5)
    with torch.no_grad(), steer(model, sae, LAYER, add(latents, amount)):
        assert torch.equal(loss(), before)


def test_gradients_go_through_the_code() -> None:
    layer, sae = nn.Sequential(nn.Identity()), _sae("relu_l1").double()
    x = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)

    def steered(x: Tensor) -> Tensor:
        with steer(layer, sae, "0:out", scale([1, 2, 3], 4.0), clamp(5, 1.0)):
            found: Tensor = layer(x)
        return found

    assert torch.autograd.gradcheck(steered, (x,), eps=1e-7, atol=1e-5)


def test_a_transcoder_edits_the_output_by_what_enters() -> None:
    model, x = llama(), ids()
    for text in ("topk_transcoder(k=6)", "topk_skip_transcoder(k=6)"):
        coder, at = trained(text, N_Q, (WIDTH,), (WIDTH,)), MLP.format(1) + ":in,out"
        with _tapped(model, at) as before, steer(model, coder, at, clamp([2, 8], 3.0)), _tapped(model, at) as after:
            model(x)
        entered, left = before
        rows = coder.encode(entered.reshape(-1, WIDTH)).to_dense()
        push = (3.0 - rows[:, [2, 8]]) @ coder.W_D[:, [2, 8]].T
        assert torch.equal(after[0], entered)
        torch.testing.assert_close(after[1], left + push.reshape(left.shape), rtol=1e-4, atol=1e-5)


def test_a_model_in_the_units_of_each_row() -> None:
    plain = _sae()
    normed = RowNormSDL(plain.layout, plain.activation, "none", RowNorm("layer_norm"))
    normed.load_state_dict(plain.state_dict())
    layer, x = nn.Sequential(nn.Identity()), torch.randn(6, WIDTH) * 3 + 1
    with steer(layer, normed, "0:out", zero([0, 1, 2, 3]), add(9, 1.0)):
        steered = layer(x)
    dense = normed.encode(x).to_dense()
    edited = dense.clone()
    edited[:, :4] = 0
    edited[:, 9] += 1
    wanted = x + (edited - dense) @ normed.W_D.T * normed.norm.units(x)[0]
    torch.testing.assert_close(steered, wanted, rtol=1e-4, atol=1e-5)


ACROSS = ";".join(MLP.format(layer) + ":in,out" for layer in range(3))


def test_a_cross_layer_transcoder_settles_its_latents_on_the_way() -> None:
    model, x = llama(), ids()
    coder = trained("relu_l1_cross_layer", 18, (WIDTH,) * 3, (WIDTH,) * 3)
    edits = (zero([1, 2]), scale(8, 2.0))  # two of layer 0 and one of layer 1
    order = ";".join(f"{MLP.format(layer)}:in" for layer in range(3))
    outs = ";".join(f"{MLP.format(layer)}:out" for layer in range(3))
    with (
        _tapped(model, order) as entered,
        _tapped(model, outs) as before,
        steer(model, coder, ACROSS, *edits),
        _tapped(model, outs) as after,
    ):
        model(x)
    rows = torch.cat([e.reshape(-1, WIDTH) for e in entered], 1)
    code = coder.encode(rows).to_dense()  # of the edited pass itself
    new = code.clone()
    new[:, [1, 2]] = 0
    new[:, 8] *= 2
    push = (new - code) @ coder.W_D.T
    for layer in range(3):
        part = push[:, layer * WIDTH : (layer + 1) * WIDTH].reshape(before[layer].shape)
        torch.testing.assert_close(after[layer], before[layer] + part, rtol=1e-4, atol=1e-5)
    ranked = trained("topk_cross_layer(k=6)", 18, (WIDTH,) * 3, (WIDTH,) * 3)
    with steer(model, ranked, ACROSS, zero(1)), pytest.raises(RefusedError, match="ranks latents of all sites"):
        model(x)


def test_a_crosscoder_adds_at_once_and_edits_values_of_given_rows() -> None:
    model, x = llama(), ids()
    at = "model.layers.0:out; model.layers.2:out"
    coder = trained("relu_l1_crosscoder", N_Q, (WIDTH,) * 2, (WIDTH,) * 2)
    with _tapped(model, at) as before, steer(model, coder, at, add(4, 0.5)), _tapped(model, at) as after:
        model(x)
    for number in range(2):
        column = coder.W_D[number * WIDTH : (number + 1) * WIDTH, 4]
        torch.testing.assert_close(after[number], before[number] + 0.5 * column)
    with steer(model, coder, at, zero(4)), pytest.raises(RefusedError, match="which latent 4 reads too"):
        model(x)
    with _tapped(model, at) as clean:
        model(x)
    rows = torch.cat([c.reshape(-1, WIDTH) for c in clean], 1).detach()
    everything = steer(model, coder, at, zero(range(N_Q)), rows=rows)
    with _tapped(model, at) as before, everything, _tapped(model, at) as after:
        model(x)
    push = (coder.encode(rows).to_dense() @ coder.W_D.T).reshape(*x.shape, 2 * WIDTH)
    torch.testing.assert_close(after[1], before[1] - push[..., WIDTH:], rtol=1e-4, atol=1e-5)
    with steer(model, coder, at, zero(4), rows=rows[:5]), pytest.raises(ShapeError, match="come from 5 rows"):
        model(x)


def test_wrong_input() -> None:
    model, sae = llama(), _sae()
    with (
        pytest.raises(ArgumentError, match=r"an edit names latents \[24\], the model has n_q=24"),
        _open(sae, add(24, 1.0)),
    ):
        pass
    with pytest.raises(ArgumentError, match="each once"):
        add([1, 1], 1.0)
    two = steer(model, sae, "model.layers.[01]:out")
    with pytest.raises(ShapeError, match="means 2 sites to read and 2 to write; this model reads 1 and writes 1"), two:
        pass
    with (
        steer(model, sae, "lm_head:out", add(1, 1.0)),
        pytest.raises(ShapeError, match="width 40, the model reads 16"),
    ):
        model(ids())
    with (
        steer(model, sae, LAYER, add(1, torch.zeros(5))),
        pytest.raises(ShapeError, match=r"amount of add has shape \(5,\); it must broadcast to \(3, 9, 1\)"),
    ):
        model(ids())
    small, _ = method("topk(k=2)").build(6, (4,), (4,))
    with steer(model, small, LAYER, add(1, 1.0)), pytest.raises(ShapeError, match="width 16, the model reads 4"):
        model(ids())


def _open(sae: SDL, edit: Edit) -> Any:
    return steer(llama(), sae, LAYER, edit)

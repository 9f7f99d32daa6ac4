"""Encoders and dictionaries of other kinds: forward pass and gradients against float64 oracles, and files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import ArgumentError, CheckpointError, RefusedError
from monosem.base.files import read_json, write_json
from monosem.core.activations import Activation, BatchTopK, JumpReLU, ReLU, TopK
from monosem.core.dictionaries import Dictionary, Free, Tied
from monosem.core.encoders import Affine, Encoder, Refined
from monosem.core.io import load_model, save_model
from monosem.core.model import SDL
from monosem.core.pairs import SAE, Crosscoder, Transcoder
from monosem.core.units import Units

N_Q, N = 12, 7
KINDS: list[tuple[Encoder, Dictionary]] = [(Affine(), Tied()), (Refined(2, 0.3), Free()), (Refined(3), Tied())]


def model_of(encoder: Encoder, dictionary: Dictionary, activation: Activation, private: float = 0.0) -> SDL:
    """Float64, every parameter drawn."""
    layout = Crosscoder(private).layout(N_Q, (4, 3), (4, 3)) if private else SAE().layout(N_Q, (N,), (N,))
    model = SDL(layout, activation, "free", encoder, dictionary).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("enc.", "act.")):
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.train()


def rows(count: int = 9) -> Tensor:
    return torch.randn(count, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def oracle(model: SDL, x: Tensor) -> tuple[Tensor, Tensor]:
    """(code, x_r_hat) written out: whole matrices, row by row sorting, nothing of the library but its parameters."""
    W_E = model.W_E
    W_D = W_E.T if isinstance(model.dictionary, Tied) else model.W_D

    def sigma(z: Tensor) -> Tensor:
        activation = model.activation
        if isinstance(activation, BatchTopK):
            keep = torch.zeros(z.numel(), dtype=torch.bool)
            keep[z.flatten().argsort(descending=True)[: int(activation.k * len(z))]] = True
            keep = keep.view_as(z) & (z > 0)
        elif isinstance(activation, TopK):
            order = z.argsort(1, descending=True)[:, : activation.k]
            keep = torch.zeros_like(z, dtype=torch.bool).scatter(1, order, True) & (z > 0)
        else:
            keep = z > 0
        return z * keep

    z = (x - model.b_in) @ W_E.T + model.b_E
    if isinstance(model.encoder_kind, Refined):
        for rate in model.enc["rate"]:
            z = z + rate * (x - model.b_D - sigma(z) @ W_D.T) @ W_D
    return sigma(z), sigma(z) @ W_D.T + model.b_D


@pytest.mark.parametrize("private", [0.0, 0.25])
@pytest.mark.parametrize("activation", [ReLU(), TopK(3), BatchTopK(2.0)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize(("encoder", "dictionary"), KINDS, ids=str)
def test_forward_and_every_gradient_are_the_equation(
    encoder: Encoder, dictionary: Dictionary, activation: Activation, private: float
) -> None:
    model, x, pull = model_of(encoder, dictionary, activation, private), rows(), rows(1)
    out = model(x, (selection.TopK(2), selection.Every()))
    code, x_r_hat = oracle(model, x)
    torch.testing.assert_close(out.code.to_dense(), code)
    torch.testing.assert_close(out.x_r_hat, x_r_hat)
    assert int((out.extra[selection.TopK(2)].to_dense() != 0).sum()) == 2 * len(x)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(
        (out.x_r_hat * pull).pow(2).sum() + out.code.to_dense().sum(), [*parameters.values()]
    )
    wanted = torch.autograd.grad((x_r_hat * pull).pow(2).sum() + code.sum(), [*parameters.values()])
    for name, a, b in zip(parameters, gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")
    assert ("enc.rate" in parameters) == isinstance(encoder, Refined)


def test_a_refined_code_leaves_less_over() -> None:
    model, x = model_of(Refined(4, 0.1), Tied(), ReLU()), rows(50)
    with torch.no_grad():
        model.encoder.scale_rows(1 / model.decoder_norm())
        refined = (x - model(x).x_r_hat).pow(2).sum()
        model.encoder_kind = Affine()
        assert refined < (x - model(x).x_r_hat).pow(2).sum()


def test_a_tied_dictionary_has_no_parameters_of_its_own() -> None:
    model = model_of(Affine(), Tied(), ReLU())
    assert {name for name, _ in model.named_parameters()} == {"encoder.weights.0", "b_E", "b_D", "_b_in"}
    assert torch.equal(model.W_D, model.W_E.T)
    model.decoder.set_rows(torch.tensor([3]), torch.ones(1, N, dtype=torch.float64))
    assert bool((model.W_E[3] == 1).all())
    assert not model_of(Affine(), Free(), ReLU()).plain


@pytest.mark.parametrize(("encoder", "dictionary"), [*KINDS, (Affine(), Free())], ids=str)
def test_kinds_come_back_from_a_file(encoder: Encoder, dictionary: Dictionary, tmp_path: Path) -> None:
    model = model_of(encoder, dictionary, TopK(3)).eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert (again.encoder_kind, again.dictionary) == (encoder, dictionary)
    assert {n: p.tolist() for n, p in again.named_parameters()} == {n: p.tolist() for n, p in model.named_parameters()}
    assert torch.equal(again(rows()).x_r_hat, model(rows()).x_r_hat)
    config = read_json(tmp_path / "config.json")
    assert ("encoder" in config, "dictionary" in config) == (encoder != Affine(), dictionary != Free())


@pytest.mark.parametrize("text", ["refined(steps=0)", "refind()", "refined(step=1)", "__import__('os')", "affine("])
def test_a_damaged_kind_is_one_clear_error(text: str, tmp_path: Path) -> None:
    save_model(model_of(Refined(), Free(), ReLU()), tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | {"encoder": text})
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)


def test_what_does_not_go_together_is_refused() -> None:
    layout = Transcoder().layout(N_Q, (N,), (5,))
    with pytest.raises(RefusedError, match="does not reconstruct; use affine"):
        SDL(layout, ReLU(), encoder=Refined())
    with pytest.raises(
        RefusedError, match="tied dictionary needs W_E and W_D over the same columns, here n_p=7, n_r=5"
    ):
        SDL(layout, JumpReLU(), dictionary=Tied())
    with pytest.raises(ArgumentError, match="steps=0"):
        Refined(0)
    units = Units.of(rows(), rows(), (N,), (N,))
    with pytest.raises(RefusedError, match="units fold into an affine encoder"):
        units.fold(model_of(Affine(), Tied(), ReLU()))

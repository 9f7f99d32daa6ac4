"""Per-row normalisation against its formula, and the refusal to train."""

import pytest
import torch

from monosem.base.errors import ArgumentError, RefusedError
from monosem.core.activations import ReLU, TopK
from monosem.core.pairs import SAE, Transcoder
from monosem.core.rownorm import RowNorm, RowNormSDL


def _fill(model: RowNormSDL) -> RowNormSDL:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model.double()


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("norm", [RowNorm(), RowNorm("rms", 0.0), RowNorm(restore=False), RowNorm("layer_norm", 0.1)])
def test_formula(norm: RowNorm, path: str) -> None:
    model = _fill(RowNormSDL(SAE().layout(12, (8,), (8,)), TopK(2), "tied", norm))
    model.path = path
    x = torch.randn(50, 8).double() * 3 + 1
    if norm.kind == "layer_norm":
        mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    else:
        mean, scale = torch.zeros(50, 1).double(), x.pow(2).mean(1, keepdim=True).sqrt()
    z = ((x - mean) / (scale + norm.eps) - model.b_D) @ model.W_E.T + model.b_E
    top = z.topk(2, dim=1)
    code = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    y = code @ model.W_D.T + model.b_D
    expected = y * scale + mean if norm.restore else y
    forward = model(x)
    torch.testing.assert_close(forward.code.to_dense(), code)
    torch.testing.assert_close(forward.x_r_hat, expected)
    torch.testing.assert_close(model.decode(model.encode(x), x), expected)


def test_skip_reads_the_row_itself() -> None:
    model = _fill(RowNormSDL(Transcoder(skip=True).layout(12, (8,), (5,)), ReLU(), "none", RowNorm(restore=False)))
    x = torch.randn(50, 8).double() * 3 + 1
    inward = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    code = (inward @ model.W_E.T + model.b_E).relu()
    assert model.W_skip is not None
    torch.testing.assert_close(model(x).x_r_hat, code @ model.W_D.T + model.b_D + x @ model.W_skip.T)


def test_it_does_not_train_and_needs_its_rows() -> None:
    model = _fill(RowNormSDL(SAE().layout(12, (8,), (8,)), ReLU()))
    assert not model.training
    with pytest.raises(RefusedError, match="normalise the data"):
        model.train()
    with pytest.raises(ArgumentError, match="units of x_p"):
        model.decode(model.encode(torch.randn(3, 8).double()))
    with pytest.raises(ArgumentError, match=r"eps=-1\.0"):
        RowNorm(eps=-1.0)

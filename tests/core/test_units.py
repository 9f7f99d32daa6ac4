"""A model with its units folded in answers raw rows as the trained one answers rows in those units."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.base.errors import DataError, RefusedError
from monosem.core.activations import BatchTopK
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL
from monosem.core.units import Units
from monosem.methods import Method, method

P, R = (5, 7), (4, 6)


def _rows(widths: tuple[int, ...], rows: int = 50) -> Tensor:
    """Sources of very different means and scales."""
    parts = [torch.randn(rows, w, dtype=torch.float64) * 3**i + 10 * torch.randn(w) for i, w in enumerate(widths)]
    return torch.cat(parts, 1).float()


def _model(text: str | Method, p: tuple[int, ...], r: tuple[int, ...]) -> SDL:
    """A model whose every tensor is away from its start."""
    made = method(text) if isinstance(text, str) else text
    model, _ = made.build(16, p, r, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) / 4)
        for buffer in model.activation_state().values():
            buffer.fill_(0.3)
    return model.double().eval()


CASES = [
    ("topk(k=4)", "none", (5,), None),
    ("topk(k=4)", "free", (5,), None),
    ("topk(k=4)", "tied", (5,), None),
    ("jumprelu", "none", (5,), None),
    ("gated", "tied", (5,), None),
    ("topk_transcoder(k=4)", "none", (5,), (4,)),
    ("topk_skip_transcoder(k=4)", "none", (5,), (4,)),
    ("topk_skip_transcoder(k=4)", "free", P, R),
    ("relu_l1_crosscoder", "tied", P, None),
    ("batch_topk_crosscoder(k=4)", "none", P, None),
    ("topk_cross_layer(k=4)", "none", P, R),
]


@pytest.mark.parametrize(("text", "bias", "p", "r"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("centre", [True, False])
def test_raw_rows_give_what_rows_in_units_gave(
    text: str, bias: str, p: tuple[int, ...], r: tuple[int, ...] | None, centre: bool
) -> None:
    x_p = _rows(p)
    x_r = x_p if r is None else _rows(r)
    units = Units.of(x_p, x_r, p, r or p, centre)
    trained = _model(replace(method(text), pre_bias=bias), p, r or p)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    raw = units.fold(trained)
    inside, outside = trained(units.read(x_p.double())), raw(x_p.double())
    torch.testing.assert_close(outside.code.to_dense(), inside.code.to_dense(), rtol=1e-5, atol=1e-5)
    answer = inside.x_r_hat / units.r_scale.double() + units.r_mean.double()
    torch.testing.assert_close(outside.x_r_hat, answer, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert (inside.code.to_dense() != 0).any()


def test_what_is_measured() -> None:
    x = _rows(P)
    units = Units.of(x, x, P, P)
    for part in units.read(x).split(list(P), 1):  # type: ignore[no-untyped-call]
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), rtol=0, atol=1e-5)
        assert float(part.norm(dim=1).mean()) == pytest.approx(math.sqrt(part.shape[1]), rel=1e-5)
    only = Units.of(x, x, P, P, centre=False)
    assert not only.p_mean.any()
    assert float(only.read(x)[:, :5].norm(dim=1).mean()) == pytest.approx(math.sqrt(5), rel=1e-5)
    assert torch.equal(Units.of(x, x, P, P, scale=False).p_scale, torch.ones(12))
    assert units.digest != only.digest


def test_ranking_by_norm_keeps_its_order_or_is_refused() -> None:
    x = _rows(P)
    ranked = replace(method("batch_topk(k=4)"), activation=BatchTopK(4, rank_by_norm=True))
    single = Units.of(x[:, :5], x[:, :5], (5,), (5,))
    trained = _model(ranked, (5,), (5,))
    codes = [
        m(rows.double()).code.to_dense()
        for m, rows in ((trained, single.read(x[:, :5])), (single.fold(trained), x[:, :5]))
    ]
    torch.testing.assert_close(codes[1], codes[0], rtol=1e-5, atol=1e-5)
    assert 0 < int((codes[0] != 0).sum()) < codes[0].numel()
    crossed = replace(method("batch_topk_crosscoder(k=4)"), activation=BatchTopK(4, rank_by_norm=True))
    with pytest.raises(RefusedError, match="which 2 scales of the targets would change unevenly"):
        Units.of(x, x, P, P).fold(_model(crossed, P, P))


def test_refusals() -> None:
    x, y = _rows((5,)), _rows((5,))
    tied = _model(replace(method("topk(k=4)"), pre_bias="tied"), (5,), (5,))
    with pytest.raises(RefusedError, match="tied to b_D, but x_p and x_r have different units"):
        Units.of(x, y, (5,), (5,)).fold(tied)
    with pytest.raises(DataError, match="source 0 has no rows that differ"):
        Units.of(torch.ones(3, 5), torch.ones(3, 5), (5,), (5,))
    plain = _model("topk(k=4)", (5,), (5,))
    with pytest.raises(RefusedError, match="per-row normalisation"):
        Units.of(x, x, (5,), (5,)).fold(RowNormSDL(plain.layout, plain.activation))


def test_each_side_of_a_pairing_has_its_own_units() -> None:
    """And where x_r is x_p, one object comes back."""
    x_p, x_r = _rows((5,)), 3 * _rows((4,)) + 1
    units = Units.of(x_p, x_r, (5,), (4,))
    p, r = units.both(x_p, x_r)
    torch.testing.assert_close(p, (x_p - x_p.mean(0)) * units.p_scale)
    torch.testing.assert_close(r, (x_r - x_r.mean(0)) * units.r_scale)
    alone = Units.of(x_p, x_p, (5,), (5,))
    p, r = alone.both(x_p, x_p)
    assert p is r

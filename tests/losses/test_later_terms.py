"""Terms that go with some activations or pairings only, against their formulas written out: loops, float64 autograd."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.seeds import torch_generator
from monosem.core.activations import AbsTopK, Activation, AdaptiveK, Context, JumpReLU, TopK
from monosem.core.pairs import Rows
from monosem.losses.contrast import Contrast, neighbours
from monosem.losses.decoder import Meta, Ortho
from monosem.losses.every_k import EveryK
from monosem.losses.fidelity import Delta, Reconstruction
from monosem.losses.frequency import Frequency
from monosem.losses.objective import Step, Term
from tests.losses.plain import Plain, ranked
from tests.losses.trials import batch, gradients, loss_of, trial

CONTEXT = Context(True, 3, 10)


def ortho(chunk: int) -> Callable[[Plain], Tensor]:
    """Latent by latent, over the partition of step 3."""

    def value(p: Plain) -> Tensor:
        n_q = p.W_D.shape[1]
        order = torch.randperm(n_q, generator=torch_generator(0, "ortho", 3)).tolist()
        size, more = divmod(n_q, -(-n_q // chunk))[0], n_q % -(-n_q // chunk)
        chunks, first = [], 0
        for number in range(-(-n_q // chunk)):
            last = first + size + (number < more)
            chunks.append(order[first:last])
            first = last
        total = torch.zeros(())
        for members in chunks:
            for j in members:
                near = torch.stack([_cosine(p.W_D[:, j], p.W_D[:, k]) for k in members if k != j]).max()
                total = total + near.clamp(min=0) ** 2
        return total / n_q

    return value


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a**2).sum() * (b**2).sum()).sqrt()


def every_k(signed: bool) -> Callable[[Plain], Tensor]:
    def value(p: Plain) -> Tensor:
        total = torch.zeros(())
        for j in range(1, 4):
            keep = ranked(p.f.abs() if signed else p.f, j).detach() != 0
            total = total + ((p.x_r - p.offset - (p.f * keep) @ p.W_D.T) ** 2).sum() / len(p.f)
        return total / 3

    return value


def delta(p: Plain) -> Tensor:
    a, b = torch.split(p.x_r, p.model.layout.r_widths, dim=1)
    a_hat, b_hat = torch.split(p.x_r_hat, p.model.layout.r_widths, dim=1)
    return (((b - a) - (b_hat - a_hat)) ** 2).sum() / len(a)


def meta(p: Plain) -> Tensor:
    """Column by column, from the atoms that a run starts with."""
    atoms = torch.nn.functional.normalize(torch.randn(16, p.W_D.shape[0], generator=torch_generator(0, "meta", 16)))
    atoms = torch.stack([row for row, used in zip(atoms.double(), p.prefixes((0.25,))[0], strict=True) if used])
    total = torch.zeros(())
    for w in p.W_D.T:
        cosines = [float(w.detach() @ a / w.detach().norm()) for a in atoms]
        best = sorted(range(len(atoms)), key=lambda i: -cosines[i])[:2]
        made = sum(max(cosines[i], 0.0) * atoms[i] for i in best)
        total = total + (_cosine(w, made) ** 2 if float(made.norm()) > 0 else 0.0) / 16
    return total


def top(k: int) -> Callable[[Tensor], Tensor]:
    return lambda z: ranked(z, k).clamp(min=0)


def top_abs(z: Tensor) -> Tensor:
    return z * (ranked(z.abs(), 3).detach() != 0)


CASES: dict[str, tuple[Term, Activation, Callable[[Tensor], Tensor], str, Callable[[Plain], Tensor]]] = {
    "ortho": (Ortho(), TopK(3), top(3), "sae", ortho(8192)),
    "ortho in chunks": (Ortho(chunk=5), TopK(3), top(3), "cross_layer", ortho(5)),
    "every k": (EveryK(), TopK(3), top(3), "skip_transcoder", every_k(False)),
    "every k over layers": (EveryK(), TopK(3), top(3), "weakly_causal", every_k(False)),
    "every k, signed": (EveryK(), AbsTopK(3), top_abs, "sae", every_k(True)),
    "delta": (Delta(), TopK(3), top(3), "crosscoder", delta),
    "meta": (Meta(active=2), TopK(3), top(3), "sae", meta),
    "meta over layers": (Meta(active=2), TopK(3), top(3), "cross_layer", meta),
}


@pytest.mark.parametrize("above", [0.0, 2.0])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_the_formula(name: str, above: float) -> None:
    term, activation, code_of, pair, formula = CASES[name]
    run = trial(activation, (term,), pair)
    x = batch(run.pair, run.generator)
    rows = (x[0].double(), x[1].double())
    value, found = gradients(run, rows, None, CONTEXT, "auto", above)
    model = copy.deepcopy(run.model).double()
    wanted = formula(Plain(model, *rows, torch.zeros(16, dtype=torch.bool), code_of))
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-9, atol=1e-12)
    wanted.backward()
    for parameter, tensor in model.named_parameters():
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        near = {"rtol": 1e-7, "atol": 1e-10}
        torch.testing.assert_close(found[parameter], grad, **near, msg=lambda m, p=parameter: f"{p}: {m}")


@pytest.mark.parametrize("to_input", [False, True])
def test_frequency_pulls_on_latents_above_the_limit_alone(to_input: bool) -> None:
    run = trial(JumpReLU(0.2, 0.8), (Frequency(limit=0.3, to_input=to_input),), "sae")
    x = batch("sae", run.generator)[0].double()
    value, found = gradients(run, (x, x), None, CONTEXT, "auto", 2.0)
    model = copy.deepcopy(run.model).double()
    z = (x - model.b_in) @ model.W_E.T + model.b_E
    theta = model.act["theta"]
    rate = (z > theta).double().mean(0)
    often = rate > 0.3
    assert 0 < int(often.sum()) < len(often)
    torch.testing.assert_close(value, (rate - 0.3).clamp(min=0).sum().detach(), rtol=1e-9, atol=1e-12)
    near = ((z - theta).abs() < 0.4).double() / 0.8
    torch.testing.assert_close(found["act.theta"], -(near.mean(0) * often).detach(), rtol=1e-9, atol=1e-12)
    pull = (near * often).detach() / len(x) * to_input
    torch.testing.assert_close(found["b_E"], pull.sum(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["encoder.weights.0"], pull.T @ (x - model.b_in).detach(), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ortho(chunk=1), "chunk=1"),
        (lambda: Frequency(limit=0.0), "limit=0.0"),
        (lambda: Frequency(limit=1.0), "limit"),
        (lambda: Contrast(share=0.0), "share=0.0"),
        (lambda: Meta(share=1.0), "share=1.0"),
        (lambda: Meta(active=0), "active=0"),
        (lambda: Meta(rate=0.0), "rate=0.0"),
        (lambda: AdaptiveK(4, 4), "least=4, most=4"),
    ],
)
def test_a_value_out_of_range_is_one_clear_error(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_the_second_dictionary_learns_to_make_the_columns() -> None:
    """Columns that are sums of two of four directions are made of two atoms each."""
    run = trial(TopK(3), (Meta(active=2, rate=0.5, share=0.5),), "sae")
    parts = torch.linalg.qr(torch.randn(6, 4, generator=run.generator))[0]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] * 3
    with torch.no_grad():
        run.model.decoder.weights[0].copy_(torch.stack([parts[:, a] + parts[:, b] for a, b in pairs[:16]]))
    x = batch("sae", run.generator)
    values = [float(loss_of(run, x, None, Context(True, step, 30)).total.detach()) for step in range(30)]
    assert values[0] < 0.6
    assert values[-1] > 0.99
    before = {name: value.clone() for name, value in run.state["meta"].items()}
    loss_of(run, x, None, Context(False))
    assert all(torch.equal(before[name], value) for name, value in run.state["meta"].items())


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (Rows(torch.tensor([4, 5, 7, 8, 9, 0, 1, 2])), [0, 3, 5]),
        (Rows(torch.arange(6), None, torch.tensor([1, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 0, 1, 2])), [0, 4]),
        (Rows(torch.arange(4), None, torch.full((4,), 3), torch.tensor([0, 1, 5, 7])), [0]),
        (Rows(torch.arange(4), None, torch.full((4,), -1), torch.full((4,), -1)), []),
    ],
)
def test_neighbours_are_tokens_of_one_document_side_by_side(rows: Rows, pairs: list[int]) -> None:
    run = trial(TopK(3), (Reconstruction(),), "sae")
    x = batch("sae", run.generator, len(rows.index))
    step = Step(run.model, *x, run.model(x[0]), None, CONTEXT, rows)
    assert neighbours(step).tolist() == pairs
    if not pairs:
        assert float(Contrast().apply(step, Contrast().init_state(run.model))) == 0.0

"""What every activation claims (eq 10, homogeneity), and straight-through gradients against published formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.core.activations import Activation, BatchTopK, Binary, Context, Gated, GroupMax, JumpReLU, ReLU, TopK
from monosem.kernels import reference
from monosem.losses.fidelity import Reconstruction
from tests.core.sigma import parameters, selected, sigma
from tests.losses.trials import batch, trial
from tests.refused import PAIRS, all_activations

TRAIN, INFER = Context(True, 3, 10), Context(False)
EXAMPLES = all_activations()


def pre_activations(seed: int, rows: int = 9, n_q: int = 16) -> Tensor:
    return torch.randn(rows, n_q, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_eq_10_holds_exactly(name: str, training: bool, pair: str) -> None:
    """A latent is 0 or its own value: z, or the magnitude path of Gated. Bit for bit, sparse or dense."""
    activation = EXAMPLES[name]
    run = trial(activation, (Reconstruction(),), pair)
    model = run.model
    x_p, _ = batch(pair, run.generator)
    z = reference.read(x_p - model.b_in, model.b_E, model.layout.encoder, list(model.encoder.weights))
    code = model(x_p, context=Context(training, 3, 10)).code.to_dense()
    value = z
    if activation.eq10 == "value path":
        value = ((z - model.b_E) * model.act["r_mag"].exp() + model.act["b_mag"]).relu()
        assert bool((z[code != 0] > 0).all())
    if activation.eq10 == "exempt":
        value = torch.ones_like(z)
    assert bool(((code == 0) | (code == value)).all())
    assert bool((code != 0).any())


@pytest.mark.parametrize("name", [name for name, a in EXAMPLES.items() if a.homogeneous])
@given(power=st.integers(-4, 6), seed=st.integers(0, 1000))
def test_homogeneous_activations_are(name: str, power: int, seed: int) -> None:
    """sigma(c z) = c sigma(z) for c > 0; powers of two, so that no rounding hides a difference."""
    activation, scale = EXAMPLES[name], 2.0**power
    z, table = pre_activations(seed), parameters(activation, 16)
    for context in (TRAIN, INFER):
        torch.testing.assert_close(
            sigma(activation, scale * z, table, context), scale * sigma(activation, z, table, context), rtol=0, atol=0
        )


@pytest.mark.parametrize("name", [name for name, a in EXAMPLES.items() if not a.homogeneous])
def test_the_others_have_a_counterexample(name: str) -> None:
    activation = EXAMPLES[name]
    z, table = pre_activations(0), parameters(activation, 16)
    if "threshold" in table:
        table["threshold"] += 1.5  # as after training; an untrained threshold of 0 is homogeneous
    if "probe" in table:
        table["probe"] += 1.0  # untrained, it gives every row the same k
    one, two = sigma(activation, z, table, INFER), sigma(activation, 2 * z, table, INFER)
    assert not torch.allclose(two, 2 * one)


GRID = torch.linspace(-1.5, 1.5, 241, dtype=torch.float64) + 1e-4  # off the kernel's edges


@pytest.mark.parametrize("bandwidth", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("theta", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("log", [False, True])
def test_jumprelu_has_the_published_pseudo_derivatives(bandwidth: float, theta: float, log: bool) -> None:
    """Rajamanoharan et al. 2024b, eq 11 and 12, on a grid; the log form times theta (the chain rule kept).

    Two known defects elsewhere: a kernel that holds 1 / bandwidth already and is divided again (gradients a
    thousandfold too large), and a log threshold whose gradient lost its factor theta.
    """
    activation = JumpReLU(theta, bandwidth, log)
    (name, start), *_ = activation.parameters(GRID.numel()).items()
    parameter, z = start.double().requires_grad_(), GRID.clone().requires_grad_()
    level = parameter.detach().exp() if log else parameter.detach()
    kernel = ((GRID - level).abs() < bandwidth / 2).double()
    chain = level if log else torch.ones_like(level)
    above = (level < GRID).double()

    value = activation.value(z, {name: parameter}.__getitem__)
    torch.testing.assert_close(value, GRID * above, rtol=0, atol=0)
    by_z, by_parameter = torch.autograd.grad(value.sum(), (z, parameter))
    torch.testing.assert_close(by_z, above)
    torch.testing.assert_close(by_parameter, -level / bandwidth * kernel * chain)

    step = activation.hard(z, {name: parameter}.__getitem__)
    torch.testing.assert_close(step, above, rtol=0, atol=0)
    by_z, by_parameter = torch.autograd.grad(step.sum(), (z, parameter))
    torch.testing.assert_close(by_z, kernel / bandwidth)
    torch.testing.assert_close(by_parameter, -kernel / bandwidth * chain)


def test_the_step_learns_from_both_halves_of_the_window() -> None:
    """A known defect elsewhere: the step applied to post-activations sees nothing below theta, so half the gradient."""
    activation, z = JumpReLU(0.5, 0.4), torch.tensor([0.35, 0.45, 0.55, 0.65], dtype=torch.float64)
    theta = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation.hard(z, {"theta": theta}.__getitem__).sum(), theta)
    assert gradient.tolist() == [-2.5] * 4
    assert bool(selected(activation, z[None], {"theta": theta.detach()}, TRAIN).all())
    assert selected(activation, z[None], {"theta": theta.detach()}, INFER).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("bandwidth", [0.1, 1.0])
def test_binary_is_a_step_with_a_rectangle_for_its_derivative(bandwidth: float) -> None:
    z = GRID.clone().requires_grad_()
    value = Binary(bandwidth).value(z, {}.__getitem__)
    torch.testing.assert_close(value, (GRID > 0).double(), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(gradient, (GRID.abs() < bandwidth / 2).double() / bandwidth)
    torch.testing.assert_close(Binary(bandwidth).hard(z, {}.__getitem__), value)


@pytest.mark.parametrize("name", [name for name, a in EXAMPLES.items() if a.pattern_kind == "independent"])
def test_training_carries_every_cell_that_has_a_value_or_a_gradient(name: str) -> None:
    """Outside the selection neither value nor step may pull on z (a ranking leaves such cells out on purpose)."""
    activation = EXAMPLES[name]
    z, table = pre_activations(5).requires_grad_(), parameters(activation, 16)
    left_out = ~selected(activation, z.detach(), table, TRAIN)
    hard = activation.hard(z, table.__getitem__)
    total = activation.value(z, table.__getitem__).abs() + (0.0 if hard is None else hard)
    (gradient,) = torch.autograd.grad(total.sum(), z)
    assert bool(left_out.any())
    assert float(gradient[left_out].abs().max()) == 0.0
    assert float(total.detach()[left_out].abs().max()) == 0.0


def test_gated_matches_its_published_form() -> None:
    """Both paths from their own weights: W_mag = exp(r_mag) W_E, b_mag its own bias; gradients by autograd."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    W, b_E, r_mag, b_mag = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((6, 5), (6,), (6,), (6,))
    )
    z = x @ W.T + b_E
    table = {"b_E": b_E, "r_mag": r_mag, "b_mag": b_mag}
    found = Gated().value(z, table.__getitem__)
    wanted = (z > 0).double() * (x @ (r_mag.exp()[:, None] * W).T + b_mag).relu()
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    parts = (W, r_mag, b_mag)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (*parts, b_E)),
        (*torch.autograd.grad((wanted * weights).sum(), parts), torch.zeros(6, dtype=torch.float64)),
        strict=True,
    ):  # the value path holds no b_E: it cancels
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JumpReLU(bandwidth=0.0), "bandwidth=0.0"),
        (lambda: JumpReLU(theta=-0.1), "theta=-0.1"),
        (lambda: JumpReLU(theta=0.0, log_threshold=True), "no logarithm"),
        (lambda: Binary(bandwidth=-1.0), "bandwidth=-1.0"),
        (lambda: TopK(0), "k=0"),
        (lambda: TopK(2, anneal=1.5), "anneal=1.5"),
        (lambda: TopK(4, k_start=2), "k_start=2 is below k=4"),
        (lambda: BatchTopK(0.0), "k=0.0"),
        (lambda: BatchTopK(2.0, rate=0.0), "rate=0.0"),
        (lambda: BatchTopK(2.0, anneal=-1.0), "anneal=-1.0"),
        (lambda: BatchTopK(4.0, k_start=2), "k_start=2 is below k=4.0"),
        (lambda: GroupMax(0), "k=0"),
    ],
)
def test_a_value_out_of_range_is_one_clear_error(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ArgumentError, match=message):
        make()


def test_projection_keeps_thresholds_at_least_zero() -> None:
    theta = {"theta": torch.tensor([-0.2, 0.0, 0.3])}
    JumpReLU().project(theta)
    assert theta["theta"].tolist() == pytest.approx([0.0, 0.0, 0.3])
    log_theta = {"log_theta": torch.tensor([-3.0])}
    JumpReLU(log_threshold=True).project(log_theta)
    assert log_theta["log_theta"].tolist() == [-3.0]


def test_only_some_have_a_step() -> None:
    z = pre_activations(0)
    having = {name for name, a in EXAMPLES.items() if a.hard(z, parameters(a, 16).__getitem__) is not None}
    assert having == {"jumprelu", "jumprelu: log threshold", "jumprelu: felt by the input", "binary"}
    assert ReLU().hard is not Activation.hard

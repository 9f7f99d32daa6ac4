"""Nothing that enters changes a result without a word: rows, other data, positions, latents drawn anew."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError, CheckpointError, DataError, RefusedError, ShapeError
from monosem.base.seeds import torch_generator
from monosem.base.sparse import Positions, SparseCode
from monosem.bench.tasks import TaskSource, task
from monosem.core.activations import Context, JumpReLU
from monosem.core.constraints import Fixed, UnitNorm
from monosem.core.model import SDL
from monosem.core.pairs import TensorSource
from monosem.kernels.native.build import library
from monosem.kernels.ops import takes_rows
from monosem.losses.fidelity import Reconstruction
from monosem.losses.resample import Resample
from monosem.losses.revival import GhostGrads
from monosem.losses.sparsity import L1, Lp, Tanh
from monosem.methods import Method, method, with_resampling
from monosem.train.config import FitConfig
from monosem.train.loop import fit, start_run
from monosem.train.state import Run
from monosem.train.update import Update
from tests.losses.trials import make_step
from tests.train.scenes import rows

CONFIG = FitConfig(12, 16, 1e-2, log_every=4)
NAMES = ["relu_l1", "p_anneal", "gated", "jumprelu", "binary"]
NAMES += [f"{name}(k=2)" for name in ("topk", "batch_topk", "matryoshka", "multi_topk", "abs_topk", "group_max")]


def spoiled(x: Tensor, row: int, number: float) -> Tensor:
    x = x.clone()
    x[row, 3] = number
    return x


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["x_p", "x_r"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_end_a_run(name: str, side: str, number: float) -> None:
    """One NaN killed every latent of a binary model for good; infinity made BatchTopK halve infinity for ever."""
    x_p, x_r = rows(64, 8), rows(64, 8, seed=1)
    x_p, x_r = (spoiled(x_p, 41, number), x_r) if side == "x_p" else (x_p, spoiled(x_r, 41, number))
    config = replace(CONFIG, sample_rows=1)
    with pytest.raises(
        DataError, match=f"{side} holds NaN or infinity in 1 of .* rows, the first of them row 41; remove"
    ):
        fit(
            name.replace("(", "_transcoder(") if "(" in name else f"{name}_transcoder",
            TensorSource(x_p, x_r),
            16,
            config,
        )


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("n_q", [16, 512])
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_are_not_encoded(name: str, n_q: int, path: str) -> None:
    """One rule on both paths, for sparse and dense codes."""
    model, _ = method(name).build(n_q, (8,), (8,))
    model.path = path
    with torch.no_grad():
        model.b_E.fill_(-2.5 if n_q == 512 else 0.0)
    model.eval()
    for number in (float("nan"), float("inf")):
        with pytest.raises(
            DataError, match="x_p holds NaN or infinity in 1 of 20 rows, the first of them row 7; remove"
        ):
            model(spoiled(rows(20, 8), 7, number))
    large = 1e38 * torch.ones(20, 8)  # their sum is infinite, they are not
    assert model(large).code.batch == 20


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_a_selection_among_infinite_scores_ends(path: str) -> None:
    """Finite rows, weights so large that every z overflows: the floor of a batch cannot be guessed from infinity."""
    model, _ = method("batch_topk(k=2, aux=0)").build(4096, (8,), (8,))
    model.path = path
    with torch.no_grad():
        model.encoder.weights[0].fill_(3e38)
    code = model.train()(torch.full((64, 8), 10.0)).code
    assert code.count() == 128


def test_other_rows_are_another_run(tmp_path: Path) -> None:
    """The model of the first rows came back for the second, without a word."""
    first, second = rows(64, 8), rows(64, 8, seed=1)
    model = fit("topk(k=2)", TensorSource(first), 16, CONFIG, out=tmp_path).model
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit("topk(k=2)", TensorSource(second), 16, CONFIG, out=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit("topk_transcoder(k=2)", TensorSource(first, second), 16, CONFIG, out=tmp_path)
    again = fit("topk(k=2)", TensorSource(first.T.contiguous().T), 16, CONFIG, out=tmp_path).model
    assert torch.equal(again.W_D, model.W_D)
    half = [TensorSource(first.bfloat16()).digest, TensorSource(first.half()).digest, TensorSource(first).digest]
    assert len(set(half)) == 3
    assert TensorSource(first, digest="mine").digest == "mine"


def test_a_finished_run_goes_on_for_longer(tmp_path: Path) -> None:
    """Its length and how often it is logged say nothing of which run it is; fewer steps than it has are refused."""
    source = TensorSource(rows(64, 8))
    fit("topk(k=2)", source, 16, CONFIG, out=tmp_path)
    longer = fit("topk(k=2)", source, 16, replace(CONFIG, steps=20, log_every=5), out=tmp_path)
    assert [entry["step"] for entry in longer.log] == [1, 4, 8, 12, 15, 20]
    with pytest.raises(
        CheckpointError, match="holds 20 steps of this run, more than steps=12; ask for at least as many"
    ):
        fit("topk(k=2)", source, 16, CONFIG, out=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit("topk(k=2)", source, 16, replace(CONFIG, steps=20, lr=0.1), out=tmp_path)


def test_rows_that_ask_for_a_gradient_get_none() -> None:
    x = rows(64, 8).requires_grad_()
    fit("topk(k=2)", TensorSource(x * 2), 16, CONFIG)
    fit("topk(k=2)", TensorSource(x), 16, CONFIG)
    assert x.grad is None


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("name", ["jumprelu(l0=3)", "gated(l1=2)"])
def test_latents_that_are_drawn_anew_fire(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """theta, r_mag and b_mag kept what had killed a latent: of those drawn anew, 60 per cent fired, then none."""
    drawn: list[Tensor] = []
    revived: list[Tensor] = []
    apply = Resample.apply

    def spy(self: Resample, model: SDL, x_p: Tensor, x_r: Tensor, dead: Tensor, generator: torch.Generator) -> None:
        drawn.append(dead.clone())
        apply(self, model, x_p, x_r, dead, generator)

    def look(run: Run, entry: dict[str, float]) -> None:
        if drawn and run.step % 100 == 90:
            revived.append(run.tracker.since[drawn[-1]] < 90 * 512)

    monkeypatch.setattr(Resample, "apply", spy)
    config = FitConfig(390, 512, 1e-2, log_every=10, dead_window=5120)
    made = with_resampling(method(name), Resample(every=100, begin=0.0, end=1.0, rows=2048))
    fit(made, TaskSource(task("lrb/nano")), 192, config, callbacks=[look])
    fired = torch.cat(revived)
    assert fired.numel() >= 10
    assert float(fired.float().mean()) >= 0.95


def test_latents_drawn_at_rows_without_a_direction_stay_finite() -> None:
    """Half of the targets are b_D itself: a column of zeros, brought to norm one, was NaN, and the run ended well."""
    x, y = rows(512, 8), rows(512, 8, seed=1)
    y[::2] = 0
    made = replace(method("topk_transcoder(k=2, aux=0.0)"), constraints=(UnitNorm(), Fixed(("b_D",))))
    made = with_resampling(made, Resample(every=10, begin=0.0, end=1.0))
    model = fit(made, TensorSource(x, y), 256, FitConfig(60, 64, dead_window=128)).model
    assert model.W_D.isfinite().all()
    assert not model.b_D.any()


@pytest.mark.parametrize("log", [False, True])
def test_resampling_resets_what_a_latent_owns(log: bool) -> None:
    model = SDL(method("topk").pairing.layout(16, (6,), (6,)), JumpReLU(0.5, log_threshold=log))
    name = "log_theta" if log else "theta"
    with torch.no_grad():
        model.act[name].fill_(1.5)
        model.encoder.weights[0].normal_()
    dead, x = torch.arange(16) < 6, rows(40, 6)
    Resample().apply(model, x, x, dead, torch_generator(0, "draw"))
    theta = model.act[name].detach().exp() if log else model.act[name].detach()
    z = (x @ model.W_E[:6].T).amax(0)  # of the row that it was drawn at, or a nearer one
    assert bool((theta[:6] <= 0.5).all())
    assert bool((theta[:6] < z).all())
    assert bool((model.act[name][6:] == 1.5).all())
    gated, _ = method("gated").build(16, (6,), (6,))
    with torch.no_grad():
        gated.act["r_mag"].fill_(1.0)
        gated.act["b_mag"].fill_(-1.0)
    Resample().apply(gated, x, x, dead, torch_generator(0, "draw"))
    assert all(torch.equal(gated.act[part] == 0, dead) for part in ("r_mag", "b_mag"))


@pytest.mark.parametrize("z", [0.8, 1.2])
@pytest.mark.parametrize("term", ["tanh", "lp", "l1"])
def test_penalties_pull_on_theta_below_it_too(term: str, z: float) -> None:
    """Equation 11 of the JumpReLU paper: dL/dtheta = -theta/eps dL/dx_q K((z - theta)/eps), here at theta = eps = 1."""
    made = {"tanh": Tanh(norm="none"), "lp": Lp(norm="none"), "l1": L1(norm="none")}[term]
    model, objective = Method(JumpReLU(1.0, 1.0), (Reconstruction(0.0), made)).build(1, (1,), (1,))
    with torch.no_grad():
        model.encoder.weights[0].fill_(1.0)
    x = torch.full((1, 1), z)
    x_q = 0.0 if z < 1 else z
    slope = {"tanh": 4 / float(torch.tensor(4 * x_q).cosh()) ** 2, "lp": 1.0, "l1": 1.0}[term]
    step = make_step(model.train(), objective, (x, x), None, Context(True))
    objective(step, objective.init_state(model)).total.backward()
    assert model.act["theta"].grad is not None
    assert float(model.act["theta"].grad) == pytest.approx(-slope, rel=1e-2)


@pytest.mark.parametrize("name", ["topk(k=3)", "relu_l1", "jumprelu"])
def test_a_second_derivative_is_right_or_refused(name: str) -> None:
    """Through sparse codes it was half of what it should be."""
    model, _ = method(name).build(32, (8,), (8,))
    x = rows(16, 8).requires_grad_()
    (g,) = torch.autograd.grad((model(x).x_r_hat - x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.pow(2).sum().backward()


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("crow", "col", "message"),
    [
        (torch.tensor([0, 1, 2], dtype=torch.int32), [1, 2], r"crow is torch.int32 of shape \(3,\)"),
        ([0, 1, 2], torch.tensor([1, 2], dtype=torch.int32), r"col is torch.int32 of shape \(2,\)"),
        ([0, 1, 2], [[1, 2]], r"col is torch.int64 of shape \(1, 2\)"),
        ([0, 1, 2], [1, 32], "latents 1 to 32 in positions of n_q=32"),
        ([0, 1, 2], [-5, 1], "latents -5 to 1 in positions of n_q=32"),
        ([0, 1, 2], [10**9, 1], "latents 1 to 1000000000 in positions of n_q=32"),
        ([0, 1, 9], [1, 2], "crow runs from 0 to 9 over 2 cells"),
        ([1, 1, 2], [1, 2], "crow runs from 1 to 2 over 2 cells"),
        ([0, 5, 2], [1, 2], "crow runs from 0 to 2 over 2 cells; it must rise"),
    ],
)
def test_positions_are_checked_before_their_address_is(
    crow: Tensor | list[int], col: Tensor | list[int], message: str
) -> None:
    """A latent too large wrote into foreign memory, int32 read two numbers as one."""
    model, _ = method("topk(k=1)").build(32, (8,), (8,))
    with pytest.raises(ShapeError, match=message):
        model.decode(SparseCode(Positions(torch.as_tensor(crow), torch.as_tensor(col), 32), torch.ones(2)))


@pytest.mark.usefixtures("as_in_production")
def test_a_code_of_another_model_is_not_decoded() -> None:
    model, _ = method("topk(k=1)").build(32, (8,), (8,))
    at = Positions(torch.tensor([0, 1, 2]), torch.tensor([1, 2]), 32)
    with pytest.raises(ShapeError, match="the code has 3 values for 2 cells"):
        model.decode(SparseCode(at, torch.ones(3)))
    with pytest.raises(ShapeError, match="the code has n_q=16 latents, the model 32"):
        model.decode(SparseCode(Positions(at.crow, at.col, 16), torch.ones(2)))


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_a_decoder_that_is_a_slice_is_refused(path: str) -> None:
    """The fused step, and torch's fused Adam, take its rows for neighbours: they overwrote what lay beside them."""
    made, source = method("topk(k=2)"), TensorSource(rows(64, 8))
    run = start_run(made, source, 16, CONFIG)
    run.model.path = path
    weight = run.model.decoder.weights[0]
    weight.data = torch.cat([weight.detach(), rows(16, 12)], 1)[:, :8]
    with pytest.raises(ArgumentError, match=r"decoder.weights.0 lie among others, strides \(20, 1\); copy them"):
        Update(run, made.constraints_of(run.model.layout, None), CONFIG)
    assert not takes_rows(weight)


@pytest.mark.parametrize("path", ["auto", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_rows_is_a_code_without_rows(name: str, path: str) -> None:
    model, _ = method(name).build(32, (8,), (8,))
    model.path = path
    out = model.eval()(torch.empty(0, 8))
    assert (out.code.batch, out.code.count(), tuple(out.x_r_hat.shape)) == (0, 0, (0, 8))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_models_count_and_keep_their_threshold(name: str) -> None:
    model, _ = method(name).build(32, (8,), (8,))
    x = rows(20, 8)
    model.eval().calibrate([x])
    state = {part: value.clone() for part, value in model.activation_state().items()}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model.to(dtype)
        assert model(x.to(dtype)).code.count() > 0
        assert all(torch.equal(value, state[part]) for part, value in model.activation_state().items())


def test_what_a_model_cannot_take_is_named() -> None:
    model, _ = method("batch_topk(k=2)").build(32, (8,), (8,))
    x = rows(20, 8)
    with pytest.raises(ArgumentError, match=r"x_p is torch\.float64, the model torch\.float32; give it x_p\.to"):
        model(x.double())
    with pytest.raises(RefusedError, match=r"torch\.func transforms do not reach into a selection"):
        torch.func.vmap(lambda row: model(row[None]).x_r_hat)(x)
    with pytest.raises(RefusedError, match=r"torch\.func transforms do not reach into a selection"):
        torch.func.grad(lambda y: model(y).x_r_hat.sum())(x)
    with pytest.raises(ArgumentError, match="x_p is on cpu, the model on meta; move one to the other"):
        model.to("meta")(x)
    with pytest.raises(ArgumentError, match="the meta device has no numbers to select by"):
        model(x.to("meta"))


def test_ghost_gradients_of_large_pre_activations_are_finite() -> None:
    made = Method(method("topk(k=1)").activation, (Reconstruction(), GhostGrads()))
    log = fit(made, TensorSource(100 * rows(64, 8)), 64, replace(CONFIG, dead_window=16)).log
    assert log[-1]["dead"] > 0
    assert log[-1]["loss/ghost_grads"] > 0


@pytest.mark.skipif(library() is None, reason="no compiled kernels")
def test_whole_cells_are_counted_as_such() -> None:
    """int(.29 * 100) is 28."""
    model, _ = method("batch_topk(k=0.29, aux=0)").build(32, (8,), (8,))
    assert model.train()(rows(100, 8)).code.count() == 29

"""From a model of the library to the oracle's arrays and back to comparisons: the only file here that knows both."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from monosem.core.activations import Context
from monosem.core.model import SDL
from monosem.losses.objective import Objective, Step
from monosem.methods import method
from monosem.train.state import Run
from tests.oracle.model import Arrays, Batch, Oracle, Spec

Sizes = tuple[int, tuple[int, ...], tuple[int, ...]]
"""n_q, widths of x_p, widths of x_r."""


def widths_for(pairing: str, width: int, other: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sources and targets that a pairing can have."""
    return {
        "sae": ((width,), (width,)),
        "transcoder": ((width,), (other,)),
        "skip_transcoder": ((width,), (other,)),
        "crosscoder": ((width, other), (width, other)),
        "cross_layer": ((width, other), (other, width)),
        "weakly_causal": ((width, other), (width, other)),
    }[pairing]


def arrays_of(model: SDL, dtype: torch.dtype = torch.float64) -> tuple[Arrays, Arrays, list[tuple[int, int]]]:
    """(arrays, where W_E and W_D have entries, runs of latents that share a decoder block)."""
    arrays = {"W_E": model.W_E, "W_D": model.W_D, "b_E": model.b_E, "b_D": model.b_D, **_own(model)}
    if model.pre_bias == "free":
        arrays["b_in"] = model.b_in
    if model.W_skip is not None:
        arrays["W_skip"] = model.W_skip
    plain = {name: value.detach().to(dtype).clone() for name, value in arrays.items()}
    if model.pre_bias == "tied":
        plain["tied"] = torch.ones(())
    for name, value in model.activation_state().items():
        plain[name] = value.detach().clone()
    support = {"W_E": torch.zeros_like(plain["W_E"]), "W_D": torch.zeros_like(plain["W_D"])}
    for block in model.layout.encoder:
        support["W_E"][block.first : block.last, block.left : block.right] = 1
    for block in model.layout.decoder:
        support["W_D"][block.left : block.right, block.first : block.last] = 1
    runs = list(dict.fromkeys((block.first, block.last) for block in model.layout.decoder))
    return plain, support, runs


def _own(model: SDL) -> Arrays:
    """What the activation and the encoder learn."""
    return dict(model.act.items()) | dict(model.enc.items())


def build(text: str, sizes: Sizes, pre_bias: str, generator: torch.Generator) -> tuple[SDL, Objective]:
    """A model as users build it, every parameter off its special value."""
    n_q, p_widths, r_widths = sizes
    chosen = replace(method(text), pre_bias=pre_bias)  # type: ignore[arg-type]
    model, objective = chosen.build(n_q, p_widths, r_widths, seed=int(torch.randint(99, (), generator=generator)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter += draw.abs() if name.endswith("theta") else draw
    return model.train(), objective


def library_gradients(
    model: SDL, objective: Objective, batch: Batch, path: str, dtype: torch.dtype
) -> tuple[Tensor, Arrays]:
    """(loss, gradients by the paper's names) of a copy of the model along a path, in a precision."""
    twin = copy.deepcopy(model).to(dtype)
    twin.path = path
    x_p, x_r = batch.x_p.to(dtype), batch.x_r.to(dtype)
    x_r = x_p if twin.layout.shared and torch.equal(x_p, x_r) else x_r
    context = Context(True, batch.step, batch.steps)
    out = twin(x_p, objective.requests(twin.layout, context), batch.dead, context)
    loss = objective(Step(twin, x_p, x_r, out, batch.dead, context), objective.init_state(twin)).total
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {"W_E": _whole(twin, "encoder"), "W_D": _whole(twin, "decoder").T}
    named = {"b_E": twin.b_E, "b_D": twin.b_D, "b_in": twin._b_in, "W_skip": twin.W_skip, **_own(twin)}
    for name, parameter in named.items():
        if parameter is not None:
            gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return loss.detach().double(), {name: g.double() for name, g in gradients.items()}


def moments_of(run: Run, name: str) -> Arrays:
    """One of Adam's moments by the paper's names; zero where a parameter never had a gradient."""
    model = run.model
    state = {id(p): s.get(name) for p, s in run.optimiser.state.items()}

    def of(parameter: Tensor) -> Tensor:
        moment = state.get(id(parameter))
        return torch.zeros_like(parameter).detach() if moment is None else moment

    whole = {
        side: _matrix(model, side, [of(w) for w in getattr(model, side).weights]) for side in ("encoder", "decoder")
    }
    moments = {"W_E": whole["encoder"], "W_D": whole["decoder"].T}
    named = {"b_E": model.b_E, "b_D": model.b_D, "b_in": model._b_in, "W_skip": model.W_skip, **_own(model)}
    moments |= {n: of(p) for n, p in named.items() if p is not None}
    return {n: value.double().clone() for n, value in moments.items()}


def _matrix(model: SDL, side: str, parts: list[Tensor]) -> Tensor:
    """A block matrix as one, latents by columns; zero outside the blocks."""
    whole = torch.zeros(model.n_q, model.layout.n_p if side == "encoder" else model.layout.n_r, dtype=parts[0].dtype)
    for block, part in zip(getattr(model.layout, side), parts, strict=True):
        whole[block.first : block.last, block.left : block.right] += part
    return whole


def _whole(model: SDL, side: str) -> Tensor:
    """The gradient of a block matrix as one."""
    weights = getattr(model, side).weights
    return _matrix(model, side, [torch.zeros_like(w) if w.grad is None else w.grad for w in weights])


def oracle_gradients(text: str, model: SDL, batch: Batch) -> tuple[Tensor, Arrays, Oracle]:
    """(loss, gradients, the pass) by the oracle, for the same weights."""
    arrays, support, runs = arrays_of(model)
    learned = {name: value.requires_grad_() for name, value in arrays.items() if name not in ("tied", "threshold")}
    oracle = Oracle(Spec.of(text), arrays, batch, runs)
    loss = oracle.loss()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in learned.items()}
    return loss.detach(), {n: g * support[n] if n in support else g for n, g in gradients.items()}, oracle

"""Small models, batches and one training step, and its gradients along any path, for the tests of losses."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from monosem.core.activations import Activation, Context
from monosem.core.model import SDL, PreBias
from monosem.losses.objective import Loss, Objective, State, Step, Term
from monosem.methods import Method
from tests.refused import PAIRS

ROWS, N_Q = 24, 16


@dataclass
class Trial:
    """A model with its objective and term states, and the generator that its batches come from."""

    model: SDL
    objective: Objective
    state: dict[str, State]
    pair: str
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))


def batch(pair: str, generator: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Random rows for a pairing, not centred; x_r is x_p where the pairing says so."""
    _, p_widths, r_widths = PAIRS[pair]
    x_p = torch.randn(rows, sum(p_widths), generator=generator) + 0.2
    return x_p, x_p if p_widths == r_widths else torch.randn(rows, sum(r_widths), generator=generator) - 0.1


def pre_bias_of(pair: str) -> PreBias:
    """Every kind of pre-bias meets some pairing, the tied one where the spaces agree."""
    kinds: dict[str, PreBias] = {"sae": "tied", "crosscoder": "tied", "skip_transcoder": "none"}
    return kinds.get(pair, "free")


def trial(activation: Activation, terms: tuple[Term, ...], pair: str, n_q: int = N_Q, **options: object) -> Trial:
    """Build by Method, as a user does."""
    generator = torch.Generator().manual_seed(7)
    pairing, p_widths, r_widths = PAIRS[pair]
    method = Method(activation, terms, pairing, pre_bias=pre_bias_of(pair), **options)  # type: ignore[arg-type]
    model, objective = method.build(n_q, p_widths, r_widths, sample=batch(pair, generator), seed=1)
    with torch.no_grad():  # biases off their special values, so that a wrong one shows
        for bias in (model.b_E, model.b_D, *model.act.values()):
            bias += 0.1 * torch.randn(bias.shape, generator=generator)
        if model.W_skip is not None:
            model.W_skip += 0.1 * torch.randn(model.W_skip.shape, generator=generator)
    model.train()
    return Trial(model, objective, objective.init_state(model), pair)


def make_step(
    model: SDL, objective: Objective, x: tuple[Tensor, Tensor], dead: Tensor | None, context: Context
) -> Step:
    """What one training step offers to the terms."""
    x_p, x_r = x
    out = model(x_p, objective.requests(model.layout, context), dead, context)
    return Step(model, x_p, x_r, out, dead, context)


def loss_of(run: Trial, x: tuple[Tensor, Tensor], dead: Tensor | None, context: Context) -> Loss:
    """The loss of one step; changes the activation's and the terms' states as training does."""
    return run.objective(make_step(run.model, run.objective, x, dead, context), run.state)


def gradients(
    run: Trial,
    x: tuple[Tensor, Tensor],
    dead: Tensor | None,
    context: Context,
    path: str,
    dense_above: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and every gradient of a copy of the run along a path; the run itself is left as it was."""
    model, state = copy.deepcopy(run.model).to(dtype), copy.deepcopy(run.state)
    model.zero_grad()
    model.path = path
    twin = Trial(model, run.objective, state, run.pair)
    with pytest.MonkeyPatch.context() as patch:
        if dense_above is not None:
            patch.setattr("monosem.kernels.density.DENSE_ABOVE", {"cpu": dense_above})
        loss = loss_of(twin, (x[0].to(dtype), x[1].to(dtype)), dead, context)
    loss.total.backward()
    return loss.total.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
    }

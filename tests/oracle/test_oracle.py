"""The library against the oracle: loss, code and every gradient of every method, and forty steps of training."""

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from monosem.core.activations import Context
from monosem.core.pairs import TensorSource
from monosem.methods import method
from monosem.train.config import FitConfig
from monosem.train.loop import Order, start_run, train_step
from monosem.train.state import Run
from monosem.train.update import Update
from tests.oracle.bridge import arrays_of, build, library_gradients, moments_of, oracle_gradients, widths_for
from tests.oracle.model import DEFAULTS, OWN, PAIRINGS, Batch, Oracle, Spec
from tests.oracle.trainer import Trainer

EXAMPLES = int(os.environ.get("MONOSEM_FUZZ", "8"))
"""Random models a method and pairing; `make fuzz` asks for more, and for new ones each time."""

TEXTS = {
    "relu_l1": "l1=0.3",
    "p_anneal": "lp=0.5, updates=4",
    "gated": "l1=0.4",
    "jumprelu": "l0=0.3, theta=0.2, bandwidth=0.7",
    "topk": "k={k}",
    "batch_topk": "k={fraction}",
    "matryoshka": "k={fraction}, fractions=(0.3, 0.6, 1.0)",
    "multi_topk": "k={k}, factor=2",
    "binary": "l0=0.2",
    "abs_topk": "k={k}",
    "group_max": "k={groups}",
    "ortsae": "k={fraction}, ortho=0.7",
    "hier_topk": "k={k}",
    "aligned": "k={k}",
    "gemma_scope_2": "l0={fraction}, frequency=0.4, limit=0.2, fractions=(0.3, 0.6, 1.0), theta=0.2, bandwidth=0.7",
    "delta_crosscoder": "k={fraction}, delta=0.6",
    "dfc": "k={fraction}, private=0.2",
    "lista": "l1=0.3",
    "ordered_matryoshka": "k={fraction}, fractions=(0.3, 0.6, 1.0)",
    "anthropic_jan25": "sparsity=0.4, scale=1.5, lift=0.02, theta=0.2, bandwidth=0.7",
    "subspace": "k={k}",
    "min_fire": "k={fraction}, share=0.5",
    "feature_choice": "k={fraction}",
    "dense_branch": "k={fraction}, rank=2",
    "aen": "weight=0.5, ridge=0.3, power=0.7",
    "t_sae": "k={fraction}, contrast=0.6, share=0.4",
    "adaptive_k": "least=1, most={more}, complexity=0.7",
}
_OTHER_SPACE = ("transcoder", "skip_transcoder", "cross_layer")
REFUSED = {(row, pairing) for row in ("aligned", "lista") for pairing in _OTHER_SPACE} | {("aligned", "weakly_causal")}
SHARED = ("sae", "crosscoder", "weakly_causal")
"""Pairings that write what they read."""


def text_of(row: str, pairing: str, n_q: int, share: float) -> str:
    """A method whose k is a share of n_q, at least one latent of a row."""
    k = max(1, round(share * n_q))
    groups = max(g for g in range(1, k + 1) if n_q % g == 0)
    name = row if pairing == "sae" or row in OWN else f"{row}_{pairing}"
    return f"{name}({TEXTS[row].format(k=k, more=k + 1, groups=groups, fraction=round(max(share * n_q, 0.3), 2))})"


def sizes_of(row: str, pairing: str, width: int, other: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths that a row can have with a pairing: a difference needs sources of one width."""
    return widths_for(pairing, width, width if row == "delta_crosscoder" else other)


def numbers(kind: str, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Rows: plain, with ties, rows or columns of zeros, signed zeros, denormal entries, of 16 bits, or constant."""
    x = torch.randn(shape, generator=generator)
    if kind == "ties":
        return (2 * x).round()
    if kind == "zero rows":
        x[torch.rand(shape[0], generator=generator) < 0.5] = 0
    if kind == "zero columns":
        x[:, torch.rand(shape[1], generator=generator) < 0.5] = 0
    if kind == "signed zeros":
        x[x.abs() < 0.5] = -0.0
    if kind == "denormal":
        x[x.abs() < 0.5] *= 1e-42
    if kind in ("float16", "bfloat16"):  # as stores and networks of half precision give them
        x = x.to(getattr(torch, kind)).float()
    if kind == "constant":
        x = x[:1].expand(shape).contiguous()
    return x


KINDS = ("plain", "ties", "zero rows", "zero columns", "signed zeros", "denormal", "constant", "float16", "bfloat16")
CASES = [
    (row, pairing)
    for row in DEFAULTS
    for pairing in ("sae", *PAIRINGS)
    if (row, pairing) not in REFUSED and pairing == OWN.get(row, pairing)
]


@pytest.fixture(autouse=True)
def _unchecked_shapes() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def agree(value: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    gap, size = float((value - wanted).abs().amax()) if wanted.numel() else 0.0, float(wanted.abs().sum())
    assert gap <= tolerance * (1 + size), f"{what}: off by {gap:.3g} where the sum is {size:.3g}"


@pytest.mark.parametrize(("row", "pairing"), CASES, ids=lambda value: value)
def test_loss_and_gradients(row: str, pairing: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 100)
    @given(
        seed=st.integers(0, 2**31),
        n_q=st.sampled_from((2, 3, 5, 17, 64, 65, 130)),
        widths=st.sampled_from(((1, 1), (3, 2), (17, 5), (63, 9))),
        rows=st.sampled_from((1, 2, 5, 7, 33)),
        share=st.sampled_from((0.02, 0.1, 0.5, 1.0)),
        kind=st.sampled_from(KINDS),
        bias=st.sampled_from(("none", "free", "tied")),
        dead=st.sampled_from((0.0, 0.4, 1.0)),
    )
    def check(
        seed: int, n_q: int, widths: tuple[int, int], rows: int, share: float, kind: str, bias: str, dead: float
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        p_widths, r_widths = sizes_of(row, pairing, *widths)
        if bias == "tied" and pairing not in SHARED:
            bias = "free"
        text = text_of(row, pairing, n_q, share)
        model, objective = build(text, (n_q, p_widths, r_widths), bias, generator)
        x_p = numbers(kind, (rows, sum(p_widths)), generator)
        x_r = x_p if pairing in SHARED else torch.randn(rows, sum(r_widths), generator=generator)
        mask = torch.rand(n_q, generator=generator) < dead
        batch = Batch(x_p.double(), x_r.double(), mask, widths=r_widths)
        wanted_loss, wanted, oracle = oracle_gradients(text, model, batch)
        assume(float(wanted_loss) < 1e9)  # a residual without variance: AuxK divides rounding by rounding
        for path in ("auto", "reference"):
            for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-4)):
                if dtype == torch.float32 and oracle.margin < 1e-4:
                    continue
                loss, gradients = library_gradients(model, objective, batch, path, dtype)
                agree(loss, wanted_loss, tolerance, f"{text} {path} {dtype} loss")
                assert set(gradients) == set(wanted)
                for name, g in gradients.items():
                    agree(g, wanted[name], tolerance, f"{text} {path} {dtype} gradient of {name}")

    check()


@pytest.mark.parametrize(
    ("row", "pairing", "clip"),
    [(*case, 0.5) for case in CASES] + [(row, "sae", None) for row in DEFAULTS if row not in OWN],
    ids=str,
)
def test_forty_steps(row: str, pairing: str, clip: float | None) -> None:
    """The fused step in float32 against the oracle's own loop in float64.

    The weights of each step are the library's, moments, thresholds and dead counters the oracle's own: differences do
    not grow, so that a step counts wherever rounding cannot choose otherwise. Where it can, the oracle takes all over.
    """
    text, n_q, steps = text_of(row, pairing, 60, 0.1), 60, 40
    p_widths, r_widths = sizes_of(row, pairing, 12, 7)
    generator = torch.Generator().manual_seed(5)
    x_p = torch.randn(400, sum(p_widths), generator=generator)
    x_r = x_p if pairing in SHARED else torch.randn(400, sum(r_widths), generator=generator)
    source = TensorSource(x_p, None if x_r is x_p else x_r, p_widths, r_widths, digest="oracle")
    config = FitConfig(steps=steps, batch_size=32, lr=3e-3, clip=clip, dead_window=96)
    chosen = method(text)
    run = start_run(chosen, source, n_q, config)
    arrays, support, runs = arrays_of(run.model)
    mine = Trainer(Spec.of(text), arrays, support, runs, r_widths, config.lr, steps, config.window, clip)
    order, update, compared = (
        Order(source.rows, config.batch_size, config.seed),
        Update(run, chosen.constraints, config),
        0,
    )
    run.model.train()
    for number in range(steps):
        rows = source.take(order.index(number))
        before, _, _ = arrays_of(run.model)
        mine.arrays |= {name: value for name, value in before.items() if name != "threshold"}
        _, loss = train_step(run, update, *rows)
        wanted, margin = mine.step((rows[0].double(), rows[1].double()), number)
        after, _, _ = arrays_of(run.model)
        if margin < 2e-6:
            take_over(mine, run)
            continue
        compared += 1
        assert float(loss.total.detach()) == pytest.approx(wanted, rel=2e-5), f"step {number}"
        assert torch.equal(run.tracker.since, mine.since), f"dead counters after step {number}"
        for name, value in after.items():
            if name != "tied":
                gap = float((value.double() - mine.arrays[name].detach().double()).abs().max())
                assert gap <= 2e-2 * config.lr, f"{name} after step {number} is off by {gap:.3g}"
    assert compared >= steps // 2


def take_over(mine: Trainer, run: Run) -> None:
    """The library's moments, thresholds and dead counters, after a step that rounding may have decided."""
    mine.since = run.tracker.since.clone()
    mine.state = {
        name: value.clone() if value.dim() else float(value)
        for state in run.terms.values()
        for name, value in state.items()
    }
    arrays, support, _ = arrays_of(run.model)
    if "threshold" in arrays:
        mine.arrays["threshold"] = arrays["threshold"]
    for place, name in enumerate(("exp_avg", "exp_avg_sq")):
        for array, value in moments_of(run, name).items():
            both = list(mine.moments[array])
            both[place] = value * support[array] if array in support else value
            mine.moments[array] = (both[0], both[1])


def test_inference_uses_the_threshold() -> None:
    model, _ = build("batch_topk(k=2)", (30, (8,), (8,)), "none", torch.Generator().manual_seed(0))
    x, other = (torch.randn(20, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    model.observe(model(x, context=Context(training=True)))
    arrays, _, runs = arrays_of(model)
    assert float(arrays["threshold"]) > 0
    code = model.eval().encode(other).to_dense()
    batch = Batch(other.double(), other.double(), torch.zeros(30, dtype=torch.bool), widths=(8,))
    wanted = Oracle(Spec.of("batch_topk(k=2)"), arrays, batch, runs, training=False).code
    torch.testing.assert_close(code.double(), wanted, rtol=1e-5, atol=1e-5)

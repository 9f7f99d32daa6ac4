"""SynthSAEBench by its own protocol: `python -m studies synthsae [SCALE [METHOD ...]]`; it resumes where it stopped.

SCALE is tiny (a small world, seconds), thirtysecond, sixteenth or full: the share of the protocol's 195,313 steps.
Each METHOD of CONTENDERS is trained in as many sibling worlds as the scale has; every run writes its record at its end
and a checkpoint on the way.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from monosem import SDL, FitConfig
from monosem.activations import BatchTopK, Context, TopK
from monosem.base import ArgumentError, check
from monosem.bench import BLOCK, Scored, SynthSource, SynthSpec, environment, synth_scores
from monosem.methods import Method, method
from monosem.report import fill, table
from monosem.terms import AUXK_PUBLISHED, AuxK, Init, Matryoshka, Reconstruction
from monosem.train import WarmupDecay, fit
from studies.stored import store, stored, stored_below

L0, N_Q = 25, 4096
FULL = 195_313
_AUX = replace(AUXK_PUBLISHED["saelens"], k_aux=384)


@dataclass(frozen=True)
class Size:
    """A scale: steps, worlds, rows that are scored, latents, and a world smaller than the benchmark's."""

    steps: int
    worlds: int
    scored: int
    n_q: int = N_Q
    small: bool = False

    def spec(self, world: int) -> SynthSpec:
        """The sibling world of a number; each has a seed of its own."""
        seed = 42 + 100 * world
        if self.small:
            return SynthSpec(n=1024, width=96, seed=seed, roots=16, branch=4, depth=2, directions="random")
        return SynthSpec(seed=seed)


SIZES: Mapping[str, Size] = {
    "tiny": Size(200, 2, 20_480, 256, True),
    "thirtysecond": Size(FULL // 32, 1, 204_800),
    "sixteenth": Size(FULL // 16, 3, 204_800),
    "full": Size(FULL, 3, 1_024_000),
}


@dataclass(frozen=True)
class Contender:
    """A method as the protocol has it, or as we would choose it; `config` changes the protocol's training."""

    method: Method
    about: str
    decay: float = 0.0
    lr: float = 3e-4


def _stock(method: Method, about: str, norm: float = 0.1) -> Contender:
    """The protocol's start and constraints: decoder columns of norm .1 (JumpReLU: .5), free to grow; a tied bias."""
    init = Init(decoder_norm=norm, encoder_scale=norm)
    return Contender(replace(method, constraints=(), pre_bias="tied", init=init), about)


_NESTED = Matryoshka(fractions=(1 / 32, 1 / 8, 1 / 2, 1.0))
CONTENDERS: Mapping[str, Contender] = {
    "batch_topk": _stock(
        Method(BatchTopK(L0, rank_by_norm=True), (Reconstruction(), _AUX), spec=f"batch_topk(k={L0})"),
        "BatchTopK as the protocol trains it",
    ),
    "matryoshka": _stock(
        Method(BatchTopK(L0, rank_by_norm=True), (_NESTED, _AUX), spec=f"matryoshka(k={L0})"),
        "Matryoshka, prefixes of 128, 512, 2048 and 4096; AuxK on the whole residual, not on each prefix's",
    ),
    "topk": _stock(
        Method(TopK(L0, rank_by_norm=True), (Reconstruction(), _AUX), spec=f"topk(k={L0})"),
        "TopK with everything else as for BatchTopK",
    ),
    "jumprelu": _stock(
        replace(method(f"jumprelu(l0=to_l0({L0}, start=1.0), theta=1.0, bandwidth=1.0)"), spec=f"jumprelu(l0={L0})"),
        "JumpReLU with our target-L0 controller in place of the protocol's",
        norm=0.5,
    ),
    "l1": _stock(
        replace(method(f"relu_l1(l1=to_l0({L0}, start=2.0))"), spec=f"relu_l1(l0={L0})"),
        "ReLU and L1 by decoder norm, with our target-L0 controller in place of the protocol's",
    ),
    "ours": Contender(
        Method(
            TopK(L0, k_start=60, anneal=0.7),
            (Matryoshka(fractions=(1 / 16, 1 / 4, 1.0), detach_inner=True, order="rate"), AuxK()),
            pre_bias="tied",
            init=Init(b_D="mean"),
            spec=f"ordered_matryoshka(k={L0})",
        ),
        "unit columns; TopK, k from 60 down to 25; three prefixes of the most frequent latents that learn from their "
        "own error alone; rate 3e-3 that ends at 0. Chosen among 23 in a world of 2,048 features",
        decay=0.3,
        lr=3e-3,
    ),
}
"""Each is trained in the same rows of the same worlds, 1024 a step, its gradient clipped at norm 1."""

PRINTED: Mapping[str, tuple[float, float]] = {
    "batch_topk": (0.7316, 0.7574),
    "matryoshka": (0.8793, 0.7927),
}
"""F1 and MCC that the benchmark's pages print after 195,313 steps in the published world (v2), L0 25."""


def _config(contender: Contender, size: Size, seed: int) -> FitConfig:
    return FitConfig(
        steps=size.steps,
        batch_size=BLOCK,
        lr=contender.lr,
        clip=1.0,
        schedule=WarmupDecay(0.0, contender.decay),
        seed=seed,
        dead_window=1000 * BLOCK,
        log_every=max(1, size.steps // 50),
        checkpoint_every=500,
        sample_rows=BLOCK,
        threads=1,
    )


def train(name: str, scale: str, world: int, folder: Path = Path("runs/synthsae")) -> dict[str, Any]:
    """One contender in one world: its scores by the training rule and by the threshold, and how it was trained."""
    contender, size = CONTENDERS[name], SIZES[scale]
    source, config = SynthSource(size.spec(world)), _config(contender, size, world)
    out = folder / f"{scale}-{name}-{world}"
    result = fit(contender.method, source, size.n_q, config, out=out, progress=True)
    return {
        "method": name,
        "about": contender.about,
        "world": {"variant": source.spec.name, "origin": source.origin, **asdict(source.spec)},
        "config": asdict(config),
        "scores": {rule: score(result.model, source, size.scored, rule) for rule in ("batch", "threshold")},
        "log": result.log[-1],
        "seconds": result.seconds,
        "env": environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def score(model: SDL, source: SynthSource, rows: int, rule: str) -> dict[str, Any]:
    """The benchmark's scores on held-out rows; `rule`: "batch" selects as training does, over 1024 rows at once."""
    context = Context(training=rule == "batch", step=1, steps=1)

    @torch.no_grad()
    def batches() -> Iterator[Scored]:
        for start in range(0, rows, BLOCK):
            truth = source.held_out(BLOCK, start=start)
            (x,) = truth.sources
            state = {key: value.clone() for key, value in model.activation_state().items()}
            out = model(x, context=context)
            for key, value in model.activation_state().items():
                value.copy_(state[key])
            yield Scored(out.code, out.x_r_hat, x, truth.features)

    return synth_scores(model.W_D, source.tensors.directions, batches())


def main(names: Sequence[str] = ()) -> None:
    """Run what has no record yet, world by world."""
    scale = names[0] if names else "tiny"
    check(scale in SIZES, f"scale {scale!r}; one of {', '.join(SIZES)}", ArgumentError)
    wanted = names[1:] or tuple(CONTENDERS)
    for name in wanted:
        check(name in CONTENDERS, f"method {name!r}; one of {', '.join(CONTENDERS)}", ArgumentError)
    for world in range(SIZES[scale].worlds):
        for name in wanted:
            place = f"synthsae/{scale}-{name}-{world}"
            record = stored(place)
            if record is None:
                record = train(name, scale, world)
                store(place, record)
            best = record["scores"]["batch"]
            print(f"{place}: F1 {best['f1']:.4f}, MCC {best['mcc']:.4f}", file=sys.stderr, flush=True)


def page() -> None:
    """The board, from records."""
    fill(Path("docs/synthsae.md"), {"board": _board()})


def _board() -> str:
    rows = [record for record in stored_below("synthsae") if record["world"]["n"] == SynthSpec().n]
    head = ("method", "steps", "world", "rule", "F1", "MCC", "truth F1", "signed MCC", "unique", "EV", "L0", "dead")
    lines = []
    for record in sorted(rows, key=lambda one: (-one["config"]["steps"], one["method"], one["world"]["seed"])):
        for rule, scores in record["scores"].items():
            keys = ("f1", "mcc", "truth_f1", "signed_mcc", "uniqueness", "ev")
            numbers = [f"{scores[key]:.4f}" for key in keys]
            place = f"{record['world']['variant']}, {record['world']['origin']} {record['world']['seed']}"
            lines.append(
                (
                    record["method"],
                    f"{record['config']['steps']:,}",
                    place,
                    rule,
                    *numbers,
                    f"{scores['l0']:.1f}",
                    f"{scores['dead']:.3f}",
                )
            )
    return table([head, *lines]) if lines else "not run"

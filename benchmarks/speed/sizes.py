"""The sizes at which steps are timed, and the cases: a method, its state, and who else trains it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from monosem.bench.tasks import Task
from monosem.bench.world import Independent, WorldSpec

State = Literal["trained", "dead", "half_dead"]


@dataclass(frozen=True)
class Size:
    """Shapes of a step, and how a turn is measured: `turn` steps (of a peer: `peer_turn`), products on either side."""

    name: str
    n_p: int
    n_q: int
    k: int
    batch: int = 1024
    features: int = 1000
    turn: int = 3
    peer_turn: int = 1
    products: int = 1

    @property
    def k_aux(self) -> int:
        """Extra latents of the auxiliary loss: half the width."""
        return self.n_p // 2

    @property
    def floor_mb(self) -> float:
        """Parameters, gradients and two moments of both weights in fp32, in MB."""
        return 4 * 2 * 4 * self.n_p * self.n_q / 1e6


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "small": Size("small", n_p=256, n_q=4096, k=16, turn=10, peer_turn=4, products=4),
        "paper": Size("paper", n_p=768, n_q=16_000, k=32),
        "large": Size("large", n_p=4096, n_q=131_072, k=64, batch=256, turn=1),
    }
)


@dataclass(frozen=True)
class Case:
    """One line of the benchmark: what is trained, and in what states its steps are timed.

    `method` is a text with {k}; `l0` calibrates thresholds to that many active latents before every turn;
    `warm` steps are trained first; `peers` is what the peers call it. `row` names a line of the table of goals.
    `config` changes fields of fit's FitConfig.
    """

    name: str
    method: str
    row: str = ""
    l0: bool = False
    warm: int = 200
    states: tuple[State, ...] = ("trained", "dead")
    peers: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, size: Size) -> str:
        """The method's text at a size."""
        return self.method.replace("{k}", str(size.k))


_BRIEF: dict[str, Any] = {"warm": 50, "states": ("trained",)}
_CERTIFIED = {"selection": "bf16"}
_LOW = "the same at initial density, all products in bf16"
_JUMP = "jumprelu(theta=0.05, bandwidth=0.05)"
CASES: Mapping[str, Case] = MappingProxyType(
    {
        case.name: case
        for case in (
            Case("topk", "topk(k={k}, aux=0.0)", "TopK", peers="topk"),
            Case("batch_topk", "batch_topk(k={k}, aux=0.0)", "BatchTopK", peers="batch_topk"),
            Case("matryoshka", "matryoshka(k={k}, aux=0.0)", "Matryoshka, 5 prefixes", peers="matryoshka"),
            Case("jumprelu", _JUMP, "JumpReLU, ReLU at L0 near 32", l0=True),
            Case("relu_l1", "relu_l1", "JumpReLU, ReLU at L0 near 32", l0=True),
            Case("jumprelu_dense", _JUMP, "the same at initial density", warm=5, states=("trained",), peers="jumprelu"),
            Case("relu_l1_dense", "relu_l1", "the same at initial density", warm=5, states=("trained",), peers="relu"),
            Case(
                "topk_auxk",
                "topk(k={k}, aux=0.03125)",
                "TopK, half of the latents dead, AuxK with k_aux = 384",
                states=("half_dead",),
                peers="topk_auxk",
            ),
            Case("topk_bf16", "topk(k={k}, aux=0.0)", "TopK, certified", config=_CERTIFIED),
            Case("batch_topk_bf16", "batch_topk(k={k}, aux=0.0)", "BatchTopK, certified", config=_CERTIFIED),
            Case(
                "matryoshka_bf16", "matryoshka(k={k}, aux=0.0)", "Matryoshka, 5 prefixes, certified", config=_CERTIFIED
            ),
            Case("jumprelu_bf16", _JUMP, "JumpReLU, ReLU at L0 near 32, certified", l0=True, config=_CERTIFIED),
            Case("relu_l1_bf16", "relu_l1", "JumpReLU, ReLU at L0 near 32, certified", l0=True, config=_CERTIFIED),
            Case("jumprelu_dense_bf16", _JUMP, _LOW, warm=5, states=("trained",), config={"dense": "bf16"}),
            Case("relu_l1_dense_bf16", "relu_l1", _LOW, warm=5, states=("trained",), config={"dense": "bf16"}),
            Case(
                "topk_auxk_bf16",
                "topk(k={k}, aux=0.03125)",
                "TopK, half of the latents dead, AuxK with k_aux = 384, certified",
                states=("half_dead",),
                config=_CERTIFIED,
            ),
            Case("multi_topk", "multi_topk(k={k}, aux=0.0)", **_BRIEF),
            Case("gated", "gated", l0=True, **_BRIEF),
            Case("p_anneal", "p_anneal", l0=True, **_BRIEF),
            Case("binary", "binary", l0=True, **_BRIEF),
            Case("abs_topk", "abs_topk(k={k})", **_BRIEF),
            Case("topk_transcoder", "topk_transcoder(k={k}, aux=0.0)", **_BRIEF),
            Case("topk_crosscoder", "topk_crosscoder(k={k}, aux=0.0)", **_BRIEF),
        )
    }
)

QUICK = ("topk", "batch_topk", "matryoshka", "jumprelu", "relu_l1", "topk_auxk")
"""The cases of a quick look."""

MAIN = tuple(case.name for case in CASES.values() if case.row)
"""The cases that have goals."""


def speed_task(size: Size, pairing: str = "sae") -> Task:
    """An endless Linear Representation Bench of a size: unit directions at random, each feature in 1 % of the rows."""
    world = WorldSpec(size.features, (size.n_p, size.n_p), 0.9, Independent(0.99))
    return Task(f"speed/{size.name}", 1, world, size.n_q, anchors=0, pairing=pairing)

"""The sizes at which steps are timed, and the cases: a method, its state, and who else trains it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from monosem import WorldSpec
from monosem.bench import Independent, Task

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
_DENSE: dict[str, Any] = {"warm": 5, "states": ("trained",)}
_NEAR, _INITIAL = "JumpReLU, ReLU at L0 near 32", "the same at initial density"
_DEAD = "TopK, half of the latents dead, AuxK with k_aux = 384"
_JUMP = "jumprelu(theta=0.05, bandwidth=0.05)"
_SPARSE = (
    Case("topk", "topk(k={k}, aux=0.0)", "TopK", peers="topk"),
    Case("batch_topk", "batch_topk(k={k}, aux=0.0)", "BatchTopK", peers="batch_topk"),
    Case("matryoshka", "matryoshka(k={k}, aux=0.0)", "Matryoshka, 5 prefixes", peers="matryoshka"),
    Case("jumprelu", _JUMP, _NEAR, l0=True),
    Case("relu_l1", "relu_l1", _NEAR, l0=True),
)
_INITIALLY = (
    Case("jumprelu_dense", _JUMP, _INITIAL, peers="jumprelu", **_DENSE),
    Case("relu_l1_dense", "relu_l1", _INITIAL, peers="relu", **_DENSE),
)
_AUXK = Case("topk_auxk", "topk(k={k}, aux=0.03125)", _DEAD, states=("half_dead",), peers="topk_auxk")
_OTHERS = (
    Case("multi_topk", "multi_topk(k={k}, aux=0.0)", **_BRIEF),
    Case("gated", "gated", l0=True, **_BRIEF),
    Case("p_anneal", "p_anneal", l0=True, **_BRIEF),
    Case("binary", "binary", l0=True, **_BRIEF),
    Case("abs_topk", "abs_topk(k={k})", **_BRIEF),
    Case("topk_transcoder", "topk_transcoder(k={k}, aux=0.0)", **_BRIEF),
    Case("topk_crosscoder", "topk_crosscoder(k={k}, aux=0.0)", **_BRIEF),
)


def _bf16(case: Case, what: str, **config: str) -> Case:
    """The same case with products in bfloat16; peers have no such step."""
    return replace(case, name=f"{case.name}_bf16", row=f"{case.row}, {what}", peers="", config=config)


_CASES = (
    *_SPARSE,
    *_INITIALLY,
    _AUXK,
    *(_bf16(case, "certified", selection="bf16") for case in _SPARSE),
    *(_bf16(case, "all products in bf16", dense="bf16") for case in _INITIALLY),
    _bf16(_AUXK, "certified", selection="bf16"),
    *_OTHERS,
)
CASES: Mapping[str, Case] = MappingProxyType({case.name: case for case in _CASES})
"""Every case by name."""

QUICK = ("topk", "batch_topk", "matryoshka", "jumprelu", "relu_l1", "topk_auxk")
"""The cases of a quick look."""

MAIN = tuple(case.name for case in CASES.values() if case.row)
"""The cases that have goals."""


def speed_task(size: Size, pairing: str = "sae") -> Task:
    """An endless Linear Representation Bench of a size: unit directions at random, each feature in 1 % of the rows."""
    world = WorldSpec(size.features, (size.n_p, size.n_p), 0.9, Independent(0.99))
    return Task(f"speed/{size.name}", 1, world, size.n_q, anchors=0, pairing=pairing)

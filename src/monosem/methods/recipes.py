"""The literature's table: a recipe per method, with its arguments, what it is and whom to cite."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monosem.base.errors import check
from monosem.base.literature import (
    ANTHROPIC_2025,
    AYONRINDE_2024,
    BALAGANSKY_2025,
    BHALLA_2025,
    BRICKEN_2023,
    BRZOZOWSKI_2026,
    BUSSMANN_2024,
    BUSSMANN_2025,
    CHANIN_2026,
    CHAUDHRY_2026,
    COSTA_2025,
    DENG_2026,
    FEL_2025,
    GAO_2024,
    GREGOR_2010,
    JIRALERSPONG_2026,
    KARVONEN_2024,
    KASSEM_2026,
    KORZNIKOV_2025,
    KUROCHKIN_2025,
    LEVINSON_2026,
    MCDOUGALL_2025,
    MUDIDE_2024,
    RAJAMANOHARAN_2024A,
    RAJAMANOHARAN_2024B,
    SAELENS_2024,
    SHI_2025,
    SPARSIFY_2024,
    TANG_2025,
    WANG_2025,
    XU_2025,
    YAO_2025,
    Citation,
)
from monosem.base.registry import Registry
from monosem.base.schedule import Ramp
from monosem.core.activations import (
    AbsTopK,
    AdaptiveK,
    BatchTopK,
    Binary,
    FeatureChoice,
    Gated,
    GroupMax,
    JumpReLU,
    MinFire,
    ReLU,
    TopK,
)
from monosem.core.aligned import Aligned
from monosem.core.computed import Archetypal
from monosem.core.constraints import SkipRank, UnitNorm
from monosem.core.dictionaries import Tied
from monosem.core.init import Init
from monosem.core.learned_encoders import Kronecker, Route, Routed
from monosem.core.pairs import SAE, Crosscoder
from monosem.core.pursuit import Lista, MatchingPursuit
from monosem.losses.contrast import Contrast
from monosem.losses.control import Weight
from monosem.losses.decoder import Meta, Ortho
from monosem.losses.every_k import EveryK
from monosem.losses.fidelity import Delta, GatedAux, Matryoshka, MultiK, Reconstruction
from monosem.losses.frequency import Frequency
from monosem.losses.objective import Term
from monosem.losses.revival import AuxK, PreActivation
from monosem.losses.sparsity import L0, L1, Complexity, ElasticNet, Lp, Tanh
from monosem.methods.method import Method


@dataclass(frozen=True)
class Recipe:
    """A row of the literature's table: how to build the method, what it is, whom to cite."""

    make: Callable[..., Method]
    summary: str
    citation: Citation

    @property
    def defaults(self) -> dict[str, Any]:
        """Arguments and their defaults."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


METHODS: Registry[Recipe] = Registry("method")


def _row(summary: str, citation: Citation) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    def add(make: Callable[..., Method]) -> Callable[..., Method]:
        METHODS.add(make.__name__.strip("_"), Recipe(make, summary, citation))
        return make

    return add


def _rising(weight: Weight, warmup: float) -> Weight:
    """A penalty that reaches its weight after the first `warmup` of the run."""
    if not warmup:
        return weight
    check(
        isinstance(weight, int | float), f"warmup={warmup}, but the weight {weight} has a course of its own; drop one"
    )
    return Ramp(0.0, float(weight), 0.0, warmup)  # type: ignore[arg-type]


def _revived(aux: float) -> tuple[Term, ...]:
    """AuxK with its weight; a weight of 0 leaves the term, and its cost, out."""
    return (AuxK(aux),) if aux else ()


@_row("ReLU with an L1 penalty weighted by decoder norms", BRICKEN_2023)
def _relu_l1(l1: Weight = 0.8, warmup: float = 0.0) -> Method:
    return Method(ReLU(), (Reconstruction(), L1(_rising(l1, warmup))))


@_row("ReLU with an Lp penalty whose p falls from 1 over the run", KARVONEN_2024)
def _p_anneal(lp: Weight = 0.8, p: float = 0.5, updates: int = 10) -> Method:
    return Method(ReLU(), (Reconstruction(), Lp(lp, p=Ramp(1.0, p, 0.2, 1.0), updates=updates)))


@_row("a Heaviside gate and a ReLU magnitude path that share directions", RAJAMANOHARAN_2024A)
def _gated(l1: Weight = 0.8, warmup: float = 0.0) -> Method:
    return Method(Gated(), (Reconstruction(), L1(_rising(l1, warmup), on="gate"), GatedAux()))


@_row("a learned threshold per latent, L0 penalty by straight-through estimation", RAJAMANOHARAN_2024B)
def _jumprelu(
    l0: Weight = 0.5, theta: float = 0.5, bandwidth: float = 1.0, log_threshold: bool = False, warmup: float = 0.0
) -> Method:
    return Method(JumpReLU(theta, bandwidth, log_threshold), (Reconstruction(), L0(_rising(l0, warmup))))


@_row("the k largest latents of each row, with AuxK for dead latents", GAO_2024)
def _topk(k: int = 32, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)))


@_row("the k * rows largest latents of each batch, a threshold at inference", BUSSMANN_2024)
def _batch_topk(k: float = 32, aux: float = 1 / 32) -> Method:
    return Method(BatchTopK(k), (Reconstruction(), *_revived(aux)))


@_row("BatchTopK with reconstructions from nested prefixes of the dictionary", BUSSMANN_2025)
def _matryoshka(
    k: float = 32, fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), aux: float = 1 / 32
) -> Method:
    return Method(BatchTopK(k), (Matryoshka(fractions=fractions), *_revived(aux)))


@_row("TopK with a second reconstruction from 4k latents", GAO_2024)
def _multi_topk(k: int = 32, factor: int = 4, weight: float = 1 / 8, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), MultiK(ks=(k * factor,), weights=(weight,)), *_revived(aux)))


@_row("latents that are on or off, trained through a straight-through step", TANG_2025)
def _binary(l0: Weight = 0.1, bandwidth: float = 1.0) -> Method:
    start = Init(decoder_norm=1.0, b_E=-0.5)
    return Method(Binary(bandwidth), (Reconstruction(), L0(l0, to_input=True)), init=start, constraints=())


# Since 2025 ---------------------------------------------------------------------------------------------------


@_row("the k latents of largest |z|, signs kept", SAELENS_2024)
def _abs_topk(k: int = 32, aux: float = 0.0) -> Method:
    return Method(AbsTopK(k), (Reconstruction(), *_revived(aux)))


@_row("the largest latent of each of k groups", SPARSIFY_2024)
def _group_max(k: int = 32, aux: float = 0.0) -> Method:
    return Method(GroupMax(k), (Reconstruction(), *_revived(aux)))


@_row("BatchTopK whose decoder columns are pushed off their nearest neighbours", KORZNIKOV_2025)
def _ortsae(k: float = 32, ortho: Weight = 0.25, chunk: int = 8192, aux: float = 1 / 32) -> Method:
    return Method(BatchTopK(k), (Reconstruction(), Ortho(ortho, chunk), *_revived(aux)))


@_row("TopK that reconstructs from the j largest latents for every j up to k", BALAGANSKY_2025)
def _hier_topk(k: int = 32, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (EveryK(), *_revived(aux)))


@_row("TopK with <w_E, w_D> = 1 for every latent", BRZOZOWSKI_2026)
def _aligned(k: int = 32, aux: float = 0.0) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), constraints=(UnitNorm(), Aligned()))


@_row("Matryoshka JumpReLU with a quadratic penalty to a target L0 and one on latents that fire often", MCDOUGALL_2025)
def _gemma_scope_2(
    l0: float = 32,
    weight: Weight = 1.0,
    frequency: Weight = 1.0,
    limit: float = 0.1,
    fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    theta: float = 0.5,
    bandwidth: float = 1.0,
) -> Method:
    nested = Matryoshka(fractions=fractions, weights=(1 / len(fractions),) * len(fractions))
    terms = (nested, L0(weight, target=l0), Frequency(frequency, limit))
    return Method(JumpReLU(theta, bandwidth), terms)


@_row("BatchTopK crosscoder that also reconstructs the difference of its models", KASSEM_2026)
def _delta_crosscoder(k: float = 32, delta: Weight = 1.0, aux: float = 1 / 32) -> Method:
    return Method(BatchTopK(k), (Reconstruction(), Delta(delta), *_revived(aux)), Crosscoder())


@_row("BatchTopK crosscoder with latents that belong to one model alone", JIRALERSPONG_2026)
def _dfc(k: float = 32, private: float = 0.05, aux: float = 1 / 32) -> Method:
    return Method(BatchTopK(k), (Reconstruction(), *_revived(aux)), Crosscoder(private))


@_row("the code by matching pursuit over the dictionary, k latents of each row", COSTA_2025)
def _mp(k: int = 32) -> Method:
    return Method(ReLU(), encoder=MatchingPursuit(k), dictionary=Tied())


@_row("ReLU after unrolled steps of iterative thresholding, with an L1 penalty", GREGOR_2010)
def _lista(l1: Weight = 0.8, steps: int = 2) -> Method:
    return Method(ReLU(), (Reconstruction(), L1(l1)), encoder=Lista(steps))


@_row("TopK whose decoder columns lie in the convex hull of centroids of the data", FEL_2025)
def _archetypal(k: int = 32, centroids: int = 256, drift: float = 1.0, aux: float = 1 / 32) -> Method:
    terms = (Reconstruction(), *_revived(aux))
    return Method(TopK(k), terms, constraints=(), dictionary=Archetypal(centroids, drift))


@_row("BatchTopK with prefixes of the most frequent latents, each learning from its own error", BUSSMANN_2025)
def _ordered_matryoshka(
    k: float = 32, fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), aux: float = 1 / 32
) -> Method:
    nested = Matryoshka(fractions=fractions, detach_inner=True, order="rate")
    return Method(BatchTopK(k), (nested, *_revived(aux)))


@_row("JumpReLU whose step is felt by every weight, with a tanh penalty and a lift of silent latents", ANTHROPIC_2025)
def _anthropic_jan25(
    sparsity: Weight = 0.8,
    scale: float = 4.0,
    lift: float = 3e-6,
    theta: float = 0.1,
    bandwidth: float = 2.0,
    active: float = 0.05,
) -> Method:
    terms = (Reconstruction(), Tanh(sparsity, scale), PreActivation(lift, among="all"))
    sigma = JumpReLU(theta, bandwidth, log_threshold=True, to_input=True)
    return Method(sigma, terms, init=Init(active=active), constraints=())


@_row("TopK whose directions start within the leading principal components of the data", WANG_2025)
def _subspace(k: int = 32, rank: int = 64, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), init=Init(subspace=rank))


@_row("BatchTopK in which every latent first keeps its strongest row of the batch", CHANIN_2026)
def _min_fire(k: float = 32, share: float = 0.9, aux: float = 0.0) -> Method:
    return Method(MinFire(k, share=share), (Reconstruction(), *_revived(aux)))


@_row("every latent chooses as many rows of the batch as every other; a threshold each at inference", AYONRINDE_2024)
def _feature_choice(k: float = 32, aux: float = 0.0) -> Method:
    return Method(FeatureChoice(k), (Reconstruction(), *_revived(aux)))


@_row("BatchTopK with a dense branch of low rank", DENG_2026)
def _dense_branch(k: float = 32, rank: int = 24, aux: float = 1 / 32) -> Method:
    terms = (Reconstruction(), *_revived(aux))
    return Method(BatchTopK(k), terms, SAE(skip=True), constraints=(UnitNorm(), SkipRank(rank)))


@_row("TopK over pairs of factors within heads, active where both are", KUROCHKIN_2025)
def _kron(k: int = 32, heads: int = 4, left: int = 2, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), encoder=Kronecker(heads, left))


@_row("TopK over the latents of experts that a router opens", MUDIDE_2024)
def _switch(k: int = 32, experts: int = 4, active: int = 1, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), encoder=Routed(experts, active))


@_row("TopK over the latents of the experts that a router opens, their rows pushed apart", XU_2025)
def _scale(k: int = 32, experts: int = 8, active: int = 2, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), encoder=Routed(experts, active, scaled=True))


@_row("ReLU with an adaptive elastic net: absolute values weighed by how small a latent is, and squares", CHAUDHRY_2026)
def _aen(weight: Weight = 0.8, ridge: float = 0.1, power: float = 0.5) -> Method:
    return Method(ReLU(), (Reconstruction(), ElasticNet(weight, ridge, power)))


@_row("Matryoshka BatchTopK whose first latents are alike on neighbouring rows, such as tokens of a text", BHALLA_2025)
def _t_sae(k: float = 32, contrast: Weight = 0.1, share: float = 0.2, aux: float = 1 / 32) -> Method:
    nested = Matryoshka(fractions=(share, 1.0), weights=(0.5, 0.5))
    return Method(BatchTopK(k), (nested, Contrast(contrast, share), *_revived(aux)))


@_row("BatchTopK whose decoder columns are pushed off what a second, smaller dictionary makes of them", LEVINSON_2026)
def _meta_sae(k: float = 32, meta: Weight = 0.25, share: float = 0.25, active: int = 4, aux: float = 1 / 32) -> Method:
    return Method(BatchTopK(k), (Reconstruction(), Meta(meta, share, active), *_revived(aux)))


@_row("the k largest latents of each row, k between two numbers by a linear probe of the row", YAO_2025)
def _adaptive_k(least: int = 16, most: int = 64, complexity: Weight = 1.0, aux: float = 1 / 32) -> Method:
    return Method(AdaptiveK(least, most), (Reconstruction(), Complexity(complexity), *_revived(aux)))


@_row("TopK crosscoder that reads one source of each row, which a router chooses", SHI_2025)
def _route(k: int = 32, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)), Crosscoder(), encoder=Route())

"""Method: one value for every SDL method, the literature's table, and transforms Method -> Method."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty, AnchorSlots, anchor_slots
from monosem.base.errors import ArgumentError, RefusedError
from monosem.base.literature import (
    AMEISEN_2025,
    BRICKEN_2023,
    BUSSMANN_2024,
    BUSSMANN_2025,
    DUNEFSKY_2024,
    GAO_2024,
    KARVONEN_2024,
    LINDSEY_2024,
    PAULO_2025,
    RAJAMANOHARAN_2024A,
    RAJAMANOHARAN_2024B,
    TANG_2025,
    Citation,
)
from monosem.base.registry import Registry
from monosem.base.schedule import Ramp, Schedule
from monosem.base.spec import TACIT, format_call, parse_call
from monosem.core.activations import Activation, BatchTopK, Binary, Gated, JumpReLU, ReLU, Threshold, TopK
from monosem.core.constraints import Constraint, UnitNorm
from monosem.core.dictionaries import DICTIONARIES, Dictionary
from monosem.core.encoders import ENCODERS, Encoder
from monosem.core.init import Init
from monosem.core.io import part_from_text, part_to_text
from monosem.core.model import AFFINE, FREE, SDL, PreBias
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Pairing, Transcoder
from monosem.losses.fidelity import GatedAux, Matryoshka, MultiK, Reconstruction
from monosem.losses.objective import Objective, Term
from monosem.losses.resample import Resample
from monosem.losses.revival import AuxK
from monosem.losses.sparsity import L0, L1, Lp


@dataclass(frozen=True)
class Method:
    """(activation, terms, pairing, init, constraints): one point of the product that is all of SDL.

    `encoder`: how x becomes z, one affine map by default. `dictionary`: what W_D is made of, parameters of its own by
    default.

    Example:
        >>> m = method("topk(k=4)")
        >>> model, objective = m.build(16, (8,), (8,))
        >>> model.W_E.shape, model.W_D.shape
        (torch.Size([16, 8]), torch.Size([8, 16]))
    """

    activation: Activation
    terms: tuple[Term, ...] = (Reconstruction(),)
    pairing: Pairing = SAE()  # noqa: RUF009 (frozen, as the two below)
    init: Init = Init()  # noqa: RUF009
    constraints: tuple[Constraint, ...] = (UnitNorm(),)
    pre_bias: PreBias = "none"
    resample: Resample | None = None
    anchoring: Anchoring = Anchoring()  # noqa: RUF009
    spec: str = ""
    encoder: Encoder = field(default=AFFINE, metadata=TACIT)
    dictionary: Dictionary = field(default=FREE, metadata=TACIT)

    def build(
        self,
        n_q: int,
        p_widths: tuple[int, ...],
        r_widths: tuple[int, ...],
        sample: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
        anchors: Anchors | None = None,
    ) -> tuple[SDL, Objective]:
        """A fresh model and its objective.

        `sample` (x_p, x_r) serves data-dependent initialisation; without it those biases are zero.
        Raises: RefusedError, with the reason, when the mathematics forbids the combination.
        """
        layout = self.pairing.layout(n_q, p_widths, r_widths)
        model = SDL(layout, self.activation, self.pre_bias, self.encoder, self.dictionary)
        terms = self.terms
        init = self.init if sample is not None else replace(self.init, b_D="zero")
        x_p, x_r = sample if sample is not None else (model.b_D, model.b_D)
        init(model, x_p, x_r, seed)
        if anchors is not None:
            slots = anchor_slots(model, anchors.k)
            penalty = AnchorPenalty(self.anchoring.weight, anchors=anchors, slots=slots, plan=self.anchoring)
            penalty.start(model)
            terms = (*terms, penalty)
        for constraint in self.constraints_of(model, anchors):
            constraint.start(model)
        objective = Objective(terms)
        objective.check(self.activation, layout)
        return model, objective

    def constraints_of(self, model: SDL, anchors: Anchors | None) -> tuple[Constraint, ...]:
        """What holds the weights of a run: the method's constraints and, last, the slots of its anchors."""
        if anchors is None:
            return self.constraints
        return (*self.constraints, AnchorSlots(anchors, anchor_slots(model, anchors.k), self.anchoring))


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

    def said(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a text names of its arguments: all but keyword-only ones at their default, as one added later is."""
        parameters = inspect.signature(self.make).parameters
        tacit = {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and arguments[name] == p.default}
        return {name: value for name, value in arguments.items() if name not in tacit}


METHODS: Registry[Recipe] = Registry("method")


def _row(summary: str, citation: Citation) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    def add(make: Callable[..., Method]) -> Callable[..., Method]:
        METHODS.add(make.__name__.strip("_"), Recipe(make, summary, citation))
        return make

    return add


def _rising(weight: float, warmup: float) -> Schedule:
    """A penalty that reaches its weight after the first `warmup` of the run."""
    return Ramp(0.0, weight, 0.0, warmup) if warmup else weight


def _revived(aux: float) -> tuple[Term, ...]:
    """AuxK with its weight; a weight of 0 leaves the term, and its cost, out."""
    return (AuxK(aux),) if aux else ()


@_row("ReLU with an L1 penalty weighted by decoder norms", BRICKEN_2023)
def _relu_l1(l1: float = 0.8, warmup: float = 0.0) -> Method:
    return Method(ReLU(), (Reconstruction(), L1(_rising(l1, warmup))))


@_row("ReLU with an Lp penalty whose p falls from 1 over the run", KARVONEN_2024)
def _p_anneal(lp: float = 0.8, p: float = 0.5, updates: int = 10) -> Method:
    return Method(ReLU(), (Reconstruction(), Lp(lp, p=Ramp(1.0, p, 0.2, 1.0), updates=updates)))


@_row("a Heaviside gate and a ReLU magnitude path that share directions", RAJAMANOHARAN_2024A)
def _gated(l1: float = 0.8, warmup: float = 0.0) -> Method:
    return Method(Gated(), (Reconstruction(), L1(_rising(l1, warmup), on="gate"), GatedAux()))


@_row("a learned threshold per latent, L0 penalty by straight-through estimation", RAJAMANOHARAN_2024B)
def _jumprelu(
    l0: float = 0.5, theta: float = 0.5, bandwidth: float = 1.0, log_threshold: bool = False, warmup: float = 0.0
) -> Method:
    return Method(JumpReLU(theta, bandwidth, log_threshold), (Reconstruction(), L0(_rising(l0, warmup))))


@_row("the k largest latents of each row, with AuxK for dead latents", GAO_2024)
def _topk(k: int = 32, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), *_revived(aux)))


@_row("the k * rows largest latents of each batch, a threshold at inference", BUSSMANN_2024)
def _batch_topk(k: float = 32, aux: float = 1 / 32, *, threshold: Threshold = "quantile") -> Method:
    return Method(BatchTopK(k, threshold=threshold), (Reconstruction(), *_revived(aux)))


@_row("BatchTopK with reconstructions from nested prefixes of the dictionary", BUSSMANN_2025)
def _matryoshka(
    k: float = 32,
    fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    aux: float = 1 / 32,
    *,
    threshold: Threshold = "quantile",
) -> Method:
    return Method(BatchTopK(k, threshold=threshold), (Matryoshka(fractions=fractions), *_revived(aux)))


@_row("TopK with a second reconstruction from 4k latents", GAO_2024)
def _multi_topk(k: int = 32, factor: int = 4, weight: float = 1 / 8, aux: float = 1 / 32) -> Method:
    return Method(TopK(k), (Reconstruction(), MultiK(ks=(k * factor,), weights=(weight,)), *_revived(aux)))


@_row("latents that are on or off, trained through a straight-through step", TANG_2025)
def _binary(l0: float = 0.1, bandwidth: float = 1.0) -> Method:
    start = Init(decoder_norm=1.0, b_E=-0.5)
    return Method(Binary(bandwidth), (Reconstruction(), L0(l0, to_input=True)), init=start, constraints=())


def transcoding(base: Method, skip: bool = False) -> Method:
    """The same method from an MLP's input to its output; a tied start makes no sense between two spaces."""
    return replace(base, pairing=Transcoder(skip), init=replace(base.init, encoder="random"))


def crosscoding(base: Method, private: float = 0.0) -> Method:
    """The same method over m sources; L1-like penalties weigh a latent by the sum of its norms in each source."""
    terms = tuple(
        replace(term, norm="sources") if isinstance(term, L1 | Lp) and term.norm == "decoder" else term
        for term in base.terms
    )
    return replace(base, pairing=Crosscoder(private), terms=terms)


def cross_layering(base: Method) -> Method:
    """The same method as a cross-layer transcoder."""
    return replace(base, pairing=CrossLayer(), init=replace(base.init, encoder="random"))


def with_anchoring(base: Method, plan: Anchoring) -> Method:
    """The same method with another way of using anchors."""
    return replace(base, anchoring=plan)


def with_resampling(base: Method, plan: Resample) -> Method:
    """The same method with dead latents drawn anew at badly explained inputs."""
    return replace(base, resample=plan)


def k_annealing(base: Method, k_start: int, over: float = 0.5) -> Method:
    """The same ranked method with k falling from k_start to its own k over the first `over` of the run."""
    if not isinstance(base.activation, TopK):
        raise RefusedError(f"{type(base.activation).__name__} has no k to anneal; use topk, batch_topk or abs_topk")
    return replace(base, activation=replace(base.activation, k_start=k_start, anneal=over))


_FORMS: dict[str, tuple[Callable[[Method], Method], Citation]] = {
    "skip_transcoder": (lambda base: transcoding(base, skip=True), PAULO_2025),
    "transcoder": (transcoding, DUNEFSKY_2024),
    "crosscoder": (crosscoding, LINDSEY_2024),
    "cross_layer": (cross_layering, AMEISEN_2025),
}


def _split(name: str) -> tuple[str, str]:
    """The row and the form: topk_transcoder is (topk, transcoder); an SAE has no suffix."""
    for form in _FORMS:
        if name.endswith(f"_{form}"):
            return name.removesuffix(f"_{form}"), form
    return name, ""


def recipe_of(text: str) -> tuple[Recipe, Citation | None]:
    """The table row behind a method's text, and its pairing's citation."""
    name, form = _split(parse_call(text)[0])
    return METHODS[name], _FORMS[form][1] if form else None


NUMERICS: dict[str, int] = {"batch_topk": 2, "matryoshka": 2}
"""The version of a method's numerics, by its row of METHODS; 1 where it is not named.

Raise it when a change of code gives other bits for the same run on the same machine: records carry the version that
made them, and what an older one made is printed as such.
"""


def numerics(text: str) -> int:
    """The version of the numerics behind a method's text.

    Example:
        >>> numerics("topk_transcoder(k=4)")
        1
    """
    return NUMERICS.get(_split(parse_call(text)[0])[0], 1)


PARTS: dict[str, Registry[Any]] = {"encoder": ENCODERS, "dictionary": DICTIONARIES}
"""Arguments that every row takes, and what they may name."""


def method(text: str, **overrides: Any) -> Method:
    """A method by its text: "topk(k=32)", "relu_l1_transcoder(l1=0.5)", "jumprelu_crosscoder".

    The name is a row of METHODS, optionally followed by _transcoder, _skip_transcoder, _crosscoder or
    _cross_layer; arguments are literals. Every method also takes `encoder` and `dictionary`, as calls in text:
    "topk(k=32, encoder='refined(steps=2)', dictionary='tied')". The method's `spec` is this text with every argument
    of its row (tacit ones where they differ from their default), and reads back.
    Raises: UnknownNameError with a suggestion; ArgumentError for an unknown or ill-typed argument.
    """
    name, arguments = parse_call(text)
    base, form = _split(name)
    recipe = METHODS[base]
    arguments |= overrides
    parts = {name: arguments.pop(name) for name in PARTS if name in arguments}
    unknown = sorted(set(arguments) - set(recipe.defaults))
    if unknown:
        known = ", ".join((*recipe.defaults, *PARTS))
        raise ArgumentError(f"{name} takes {known}; {', '.join(unknown)} is unknown")
    filled = recipe.defaults | arguments
    try:
        built = recipe.make(**filled)
    except TypeError as error:
        raise ArgumentError(f"cannot build {text!r}: {error}") from None
    if form:
        built = _FORMS[form][0](built)
    built = replace(built, **{part: part_from_text(str(value), PARTS[part]) for part, value in parts.items()})
    texts = {part: part_to_text(getattr(built, part), kinds) for part, kinds in PARTS.items()}
    return replace(built, spec=format_call(name, recipe.said(filled) | {part: texts[part] for part in parts}))

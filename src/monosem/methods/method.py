"""Method: one value for every SDL method, and transforms Method -> Method."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty, AnchorSlots, anchor_slots
from monosem.base.errors import RefusedError
from monosem.base.guard import guarded
from monosem.base.spec import TACIT
from monosem.core.activations import Activation, TopK
from monosem.core.constraints import Constraint, SkipRank, UnitNorm
from monosem.core.dictionaries import Dictionary
from monosem.core.encoders import Encoder
from monosem.core.init import Init
from monosem.core.model import AFFINE, FREE, SDL, PreBias
from monosem.core.pairs import SAE, Crosscoder, CrossLayer, Layout, Pairing, Transcoder, WeaklyCausal
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import Objective, Term
from monosem.losses.resample import Resample
from monosem.losses.sparsity import L1, Lp
from monosem.methods.optimisers import Adam, Optimiser

ADAM = Adam()


@dataclass(frozen=True)
class Method:
    """(activation, terms, pairing, init, constraints): one point of the product that is all of SDL.

    `encoder`: how x becomes z, one affine map by default. `dictionary`: what W_D is made of, parameters of its own by
    default. `optimiser`: how gradients become steps.

    Example:
        >>> m = Method(TopK(4))
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
    optimiser: Optimiser = field(default=ADAM, metadata=TACIT)

    @guarded
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
        if layout.skip and layout.shared and not any(isinstance(each, SkipRank) for each in self.constraints):
            raise RefusedError(
                "with x_r = x_p, W_skip = I leaves nothing to latents; bound its rank: '| skip_rank(24)'"
            )
        model = SDL(layout, self.activation, self.pre_bias, self.encoder, self.dictionary)
        terms = self.terms
        init = self.init if sample is not None else replace(self.init, b_D="zero")
        x_p, x_r = sample if sample is not None else (model.b_D, model.b_D)
        init(model, x_p, x_r, seed)
        if anchors is not None:
            slots = anchor_slots(model.layout, anchors.k)
            penalty = AnchorPenalty(self.anchoring.weight, anchors=anchors, slots=slots, plan=self.anchoring)
            penalty.start(model)
            terms = (*terms, penalty)
        for constraint in self.constraints_of(model.layout, anchors):
            constraint.start(model)
        objective = Objective(terms)
        objective.check(self.activation, layout)
        if self.encoder.counts and objective.asked_l0 is not None:
            why = "its steps say how many latents are active, whatever a penalty weighs; ask by steps"
            raise RefusedError(f"a target L0 cannot go with {type(self.encoder).__name__}: {why}")
        return model, objective

    def constraints_of(self, layout: Layout, anchors: Anchors | None) -> tuple[Constraint, ...]:
        """What holds the weights of a run: the method's constraints and, last, the slots of its anchors."""
        if anchors is None:
            return self.constraints
        return (*self.constraints, AnchorSlots(anchors, anchor_slots(layout, anchors.k), self.anchoring))


def paired(base: Method, pairing: Pairing) -> Method:
    """The same method for another pairing.

    A tied start makes no sense between two spaces; a crosscoder's L1-like penalties weigh a latent by the sum of its
    norms in each source.
    """
    if isinstance(pairing, Crosscoder | WeaklyCausal):
        terms = tuple(
            replace(term, norm="sources") if isinstance(term, L1 | Lp) and term.norm == "decoder" else term
            for term in base.terms
        )
        return replace(base, pairing=pairing, terms=terms)
    if isinstance(pairing, Transcoder | CrossLayer):
        return replace(base, pairing=pairing, init=replace(base.init, encoder="random"))
    return replace(base, pairing=pairing)


def transcoding(base: Method, skip: bool = False) -> Method:
    """The same method from an MLP's input to its output."""
    return paired(base, Transcoder(skip))


def crosscoding(base: Method, private: float = 0.0) -> Method:
    """The same method over m sources."""
    return paired(base, Crosscoder(private))


def cross_layering(base: Method) -> Method:
    """The same method as a cross-layer transcoder."""
    return paired(base, CrossLayer())


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

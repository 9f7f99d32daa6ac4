"""Examples of every registered activation, term and pairing, and docs/refused.md: which cannot go together.

Run `python -m tests.refused` to write the page; a test fails when it is stale.
"""

import sys
from collections import defaultdict
from pathlib import Path

from monosem.base.errors import RefusedError
from monosem.base.schedule import Ramp
from monosem.core.activations import (
    ACTIVATIONS,
    AbsTopK,
    Activation,
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
from monosem.core.constraints import Tied
from monosem.core.pairs import PAIRINGS, Crosscoder, Pairing
from monosem.losses.contrast import Contrast
from monosem.losses.control import ToL0
from monosem.losses.decoder import Meta, Ortho
from monosem.losses.every_k import EveryK
from monosem.losses.fidelity import Delta, GatedAux, Matryoshka, MultiK, Reconstruction
from monosem.losses.frequency import Frequency
from monosem.losses.objective import TERMS, Term
from monosem.losses.revival import AUXK_PUBLISHED, AuxK, GhostGrads, PreActivation
from monosem.losses.sparsity import L0, L1, Complexity, ElasticNet, Lp, Tanh
from monosem.methods import Method
from monosem.report.markdown import table

PAGE = Path(__file__).parents[1] / "docs" / "refused.md"

REGISTERED_ACTIVATIONS: dict[str, Activation] = {
    "relu": ReLU(),
    "jumprelu": JumpReLU(theta=0.3, bandwidth=0.5),
    "topk": TopK(3),
    "batch_topk": BatchTopK(2.5),
    "gated": Gated(),
    "abs_topk": AbsTopK(3),
    "group_max": GroupMax(4),
    "binary": Binary(),
    "min_fire": MinFire(2.5),
    "feature_choice": FeatureChoice(2.5),
    "adaptive_k": AdaptiveK(1, 6),
}
VARIANTS: dict[str, Activation | Term] = {
    "jumprelu: log threshold": JumpReLU(theta=0.3, bandwidth=0.5, log_threshold=True),
    "topk: ranked by norm": TopK(3, rank_by_norm=True),
    "topk: k annealed": TopK(2, k_start=6, anneal=0.5),
    "batch_topk: ranked by norm": BatchTopK(2.5, rank_by_norm=True),
    "abs_topk: ranked by norm": AbsTopK(3, rank_by_norm=True),
    "reconstruction: mean": Reconstruction(reduction="mean"),
    "reconstruction: fvu": Reconstruction(reduction="fvu"),
    "l1: no norm": L1(0.1, norm="none"),
    "l1: source norms": L1(0.1, norm="sources"),
    "l1: gate": L1(0.1, on="gate"),
    "l0: target": L0(0.1, target=3.0),
    "l0: to input": L0(0.1, to_input=True),
    "l0: target and to input": L0(0.1, target=3.0, to_input=True),
    "tanh: source norms": Tanh(0.1, norm="sources"),
    "lp: annealed": Lp(0.1, p=Ramp(1.0, 0.5)),
    "lp: no norm": Lp(0.1, p=0.7, norm="none"),
    "multi_k: two": MultiK(ks=(1, 8), weights=(0.5, 0.25), reduction="fvu"),
    "matryoshka: by rate": Matryoshka(fractions=(0.25, 0.5, 1.0), detach_inner=True, order="rate"),
    "jumprelu: felt by the input": JumpReLU(theta=0.3, bandwidth=0.5, to_input=True),
    "matryoshka: detached": Matryoshka(fractions=(0.25, 0.5, 1.0), detach_inner=True),
    "matryoshka: weighted": Matryoshka(fractions=(0.1, 0.15, 1.0), weights=(1.0, 0.5, 0.25), reduction="mean"),
    "gated_aux: free decoder": GatedAux(detach_decoder=False),
    "pre_activation: all": PreActivation(0.1, among="all"),
    "frequency: to input": Frequency(0.5, limit=0.2, to_input=True),
    "l1: to a number of latents": L1(ToL0(3.0)),
    **{f"auxk: {name}": term for name, term in AUXK_PUBLISHED.items()},
}
REGISTERED_TERMS: dict[str, Term] = {
    "reconstruction": Reconstruction(),
    "matryoshka": Matryoshka(),
    "multi_k": MultiK(ks=(6,)),
    "gated_aux": GatedAux(),
    "l1": L1(0.1),
    "l0": L0(0.1),
    "tanh": Tanh(0.1),
    "lp": Lp(0.1, p=0.7),
    "auxk": AuxK(k_aux=2),
    "ghost_grads": GhostGrads(),
    "pre_activation": PreActivation(0.1),
    "ortho": Ortho(0.5, chunk=5),
    "frequency": Frequency(0.5, limit=0.2),
    "every_k": EveryK(),
    "delta": Delta(0.5),
    "elastic_net": ElasticNet(0.3),
    "contrast": Contrast(0.5, share=0.4),
    "meta": Meta(0.5, active=2),
    "complexity": Complexity(0.5),
}
PAIRS: dict[str, tuple[Pairing, tuple[int, ...], tuple[int, ...]]] = {
    "sae": (PAIRINGS["sae"], (6,), (6,)),
    "transcoder": (PAIRINGS["transcoder"], (6,), (7,)),
    "skip_transcoder": (PAIRINGS["skip_transcoder"], (6,), (7,)),
    "crosscoder": (PAIRINGS["crosscoder"], (4, 4), (4, 4)),
    "crosscoder, private latents": (Crosscoder(private=0.2), (4, 3), (4, 3)),
    "cross_layer": (PAIRINGS["cross_layer"], (4, 3), (3, 5)),
    "weakly_causal": (PAIRINGS["weakly_causal"], (4, 3), (4, 3)),
}


def all_activations() -> dict[str, Activation]:
    """Registered activations and their variants."""
    return REGISTERED_ACTIVATIONS | {k: v for k, v in VARIANTS.items() if isinstance(v, Activation)}


def all_terms() -> dict[str, Term]:
    """Registered terms and their variants."""
    return REGISTERED_TERMS | {k: v for k, v in VARIANTS.items() if isinstance(v, Term)}


def reason(activation: Activation, term: Term, pair: str, n_q: int = 16) -> str | None:
    """Why a combination is refused; None where it is not."""
    pairing, p_widths, r_widths = PAIRS[pair]
    return term.refusal(activation, pairing.layout(n_q, p_widths, r_widths))


def _refusals() -> dict[str, dict[str, set[str]]]:
    """reason -> term -> activations, each with its pairings where it is not all of them."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for term_name, term in all_terms().items():
        for name, activation in all_activations().items():
            reasons = {pair: reason(activation, term, pair) for pair in PAIRS}
            for why in {why for why in reasons.values() if why is not None}:
                pairs = [pair for pair, other in reasons.items() if other == why]
                found[why][term_name].add(name if len(pairs) == len(PAIRS) else f"{name} ({', '.join(pairs)})")
    return found


def _listed(names: set[str]) -> str:
    """Names in order; a registered one stands for its variants where all of them are there."""
    known = list(all_activations())
    whole = {base for base in REGISTERED_ACTIVATIONS if {n for n in known if n.split(":")[0] == base} <= names}
    return ", ".join(f"`{n}`" for n in sorted(names) if n in whole or n.split(":")[0] not in whole)


def page() -> str:
    """The page, as Markdown: a line per reason and set of activations."""
    lines = [
        "# What cannot go together",
        "",
        "Every activation, term and pairing goes with every other, except for the combinations below, which raise",
        "`RefusedError` with the reason. The names are those of the registries; what follows a colon is a variant.",
        "`python -m tests.refused` writes this page from the code, and a test compares them.",
        "",
        f"Tried: {len(all_activations())} activations, {len(all_terms())} terms and {len(PAIRS)} pairings,",
        f"values of the {len(ACTIVATIONS)}, {len(TERMS)} and {len(PAIRINGS)} that are registered.",
        "",
    ]
    rows: list[tuple[str, str, str]] = [("reason", "terms", "activations")]
    for why, terms in sorted(_refusals().items()):
        for activations in sorted({_listed(names) for names in terms.values()}):
            same = ", ".join(f"`{term}`" for term, names in terms.items() if _listed(names) == activations)
            rows.append((f"{why[0].upper()}{why[1:]}".replace("|", "\\|"), same, activations))
    constraints = [("pairing", "why `tied` is refused")]
    for pair, (pairing, p_widths, r_widths) in PAIRS.items():
        try:
            Method(ReLU(), pairing=pairing, constraints=(Tied(),)).build(16, p_widths, r_widths)
        except RefusedError as error:
            constraints.append((f"`{pair}`", str(error)))
    return "\n".join([*lines, table(rows), "", "## Constraints", "", table(constraints)]) + "\n"


def main() -> None:
    """Write docs/refused.md."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()

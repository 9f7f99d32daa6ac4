"""What a method minimises: loss terms, their units, what they act on, and what a new one is made of.

A method's loss is the sum of its terms, and what is logged is what is trained; `TERMS` holds them by name. How to add
yours: docs/extending.md.
"""

from monosem.anchors.term import AnchorPenalty
from monosem.core.constraints import Fixed, Tied, UnitNorm
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.init import Init
from monosem.core.pairs import PAIRINGS, SAE, Crosscoder, CrossLayer, Transcoder
from monosem.losses.fidelity import GatedAux, Matryoshka, MultiK, Reconstruction
from monosem.losses.objective import TERMS, Loss, Objective, Step, Term
from monosem.losses.revival import AuxK, GhostGrads, PreActivation
from monosem.losses.sparsity import L0, L1, Lp, Tanh

__all__ = [
    "DICTIONARIES",
    "ENCODERS",
    "L0",
    "L1",
    "PAIRINGS",
    "SAE",
    "TERMS",
    "AnchorPenalty",
    "AuxK",
    "CrossLayer",
    "Crosscoder",
    "Fixed",
    "GatedAux",
    "GhostGrads",
    "Init",
    "Loss",
    "Lp",
    "Matryoshka",
    "MultiK",
    "Objective",
    "PreActivation",
    "Reconstruction",
    "Step",
    "Tanh",
    "Term",
    "Tied",
    "Transcoder",
    "UnitNorm",
]

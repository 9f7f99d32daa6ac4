"""What a method minimises: loss terms, their units, what they act on, and what a new one is made of.

A method's loss is the sum of its terms, and what is logged is what is trained; `TERMS` holds them by name. How to add
yours: docs/extending.md.
"""

from monosem.anchors.term import AnchorPenalty
from monosem.core.aligned import Aligned
from monosem.core.computed import Archetypal, LowRank, TiedTargets
from monosem.core.constraints import CONSTRAINTS, Fixed, SkipRank, Tied, UnitNorm
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.init import Init
from monosem.core.learned_encoders import Glu, Kronecker, Mlp, Route, Routed
from monosem.core.pairs import PAIRINGS, SAE, Crosscoder, CrossLayer, Transcoder, WeaklyCausal
from monosem.core.pursuit import Lista, MatchingPursuit
from monosem.losses.contrast import Contrast
from monosem.losses.control import ToL0
from monosem.losses.decoder import Meta, Ortho
from monosem.losses.every_k import EveryK
from monosem.losses.fidelity import Delta, GatedAux, Matryoshka, MultiK, Reconstruction
from monosem.losses.frequency import Frequency
from monosem.losses.objective import TERMS, Loss, Objective, Step, Term
from monosem.losses.revival import AUXK_PUBLISHED, AuxK, GhostGrads, PreActivation
from monosem.losses.sparsity import L0, L1, Complexity, ElasticNet, Lp, Tanh

__all__ = [
    "AUXK_PUBLISHED",
    "CONSTRAINTS",
    "DICTIONARIES",
    "ENCODERS",
    "L0",
    "L1",
    "PAIRINGS",
    "SAE",
    "TERMS",
    "Aligned",
    "AnchorPenalty",
    "Archetypal",
    "AuxK",
    "Complexity",
    "Contrast",
    "CrossLayer",
    "Crosscoder",
    "Delta",
    "ElasticNet",
    "EveryK",
    "Fixed",
    "Frequency",
    "GatedAux",
    "GhostGrads",
    "Glu",
    "Init",
    "Kronecker",
    "Lista",
    "Loss",
    "LowRank",
    "Lp",
    "MatchingPursuit",
    "Matryoshka",
    "Meta",
    "Mlp",
    "MultiK",
    "Objective",
    "Ortho",
    "PreActivation",
    "Reconstruction",
    "Route",
    "Routed",
    "SkipRank",
    "Step",
    "Tanh",
    "Term",
    "Tied",
    "TiedTargets",
    "ToL0",
    "Transcoder",
    "UnitNorm",
    "WeaklyCausal",
]

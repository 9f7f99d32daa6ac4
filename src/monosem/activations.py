"""How pre-activations become a sparse code: the registered activations, and what a new one is made of.

A method names one: `Method(TopK(32))`; `ACTIVATIONS` holds them by name. How to add yours: docs/extending.md.
"""

from monosem.core.activation import Activation, At, Context
from monosem.core.activations import ACTIVATIONS
from monosem.core.elementwise import Binary, Gated, JumpReLU, ReLU
from monosem.core.ranked import AbsTopK, BatchTopK, GroupMax, TopK

__all__ = [
    "ACTIVATIONS",
    "AbsTopK",
    "Activation",
    "At",
    "BatchTopK",
    "Binary",
    "Context",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "ReLU",
    "TopK",
]

"""Methods: the literature's table, one value for each, and one text form that reaches everything."""

from monosem.methods.method import (
    Method,
    cross_layering,
    crosscoding,
    k_annealing,
    paired,
    transcoding,
    with_anchoring,
    with_resampling,
)
from monosem.methods.recipes import METHODS, Recipe
from monosem.methods.spelling import name_of
from monosem.methods.text import NUMERICS, brief, method, numerics, recipe_of, text_of

__all__ = [
    "METHODS",
    "NUMERICS",
    "Method",
    "Recipe",
    "brief",
    "cross_layering",
    "crosscoding",
    "k_annealing",
    "method",
    "name_of",
    "numerics",
    "paired",
    "recipe_of",
    "text_of",
    "transcoding",
    "with_anchoring",
    "with_resampling",
]

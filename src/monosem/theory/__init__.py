"""What is true of the loss landscape: state a problem, get its patterns, minima, saddles and certificates.

A `Problem` holds true directions, weights, an activation and a number of latents; all is exact, in float64.
`landscape` judges every pattern, `realize` finds an encoder of an activation pattern or proves that there is none,
`trichotomy` says whether the pattern holds a trap or a saddle, `acs` ends in a certified partial minimum, `CHECKS`
holds each claim as a check that can fail.
"""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.theory.checks.base import draw_directions as draw_directions
    from monosem.theory.checks.base import draw_encoder as draw_encoder
    from monosem.theory.checks.base import draw_problem as draw_problem
    from monosem.theory.checks.base import draw_weights as draw_weights
    from monosem.theory.checks.base import examine as examine
    from monosem.theory.checks.base import plane as plane
    from monosem.theory.checks.optima import construction as construction
    from monosem.theory.checks.optima import construction_bounds as construction_bounds
    from monosem.theory.checks.registry import CHECKS as CHECKS
    from monosem.theory.checks.registry import SUITE as SUITE
    from monosem.theory.checks.stationary import example_35 as example_35
    from monosem.theory.descent import Descended as Descended
    from monosem.theory.descent import DescentConfig as DescentConfig
    from monosem.theory.descent import basins as basins
    from monosem.theory.descent import descend as descend
    from monosem.theory.descent import matched as matched
    from monosem.theory.descent import starts as starts
    from monosem.theory.hierarchy import absorb as absorb
    from monosem.theory.hierarchy import absorb_as_printed as absorb_as_printed
    from monosem.theory.hierarchy import hierarchical as hierarchical
    from monosem.theory.landscape import Landscape as Landscape
    from monosem.theory.landscape import landscape as landscape
    from monosem.theory.law import Magnitude as Magnitude
    from monosem.theory.law import exact_atoms as exact_atoms
    from monosem.theory.law import exact_loss as exact_loss
    from monosem.theory.law import independent as independent
    from monosem.theory.law import truncated as truncated
    from monosem.theory.minima import Stationary as Stationary
    from monosem.theory.minima import groups_of as groups_of
    from monosem.theory.minima import paper_point as paper_point
    from monosem.theory.minima import positive_pair as positive_pair
    from monosem.theory.minima import trichotomy as trichotomy
    from monosem.theory.minima import valley as valley
    from monosem.theory.patterns import ActivationPattern as ActivationPattern
    from monosem.theory.patterns import Realization as Realization
    from monosem.theory.patterns import pattern_of as pattern_of
    from monosem.theory.patterns import realize as realize
    from monosem.theory.patterns import region as region
    from monosem.theory.patterns import walk as walk
    from monosem.theory.problem import Atoms as Atoms
    from monosem.theory.problem import Problem as Problem
    from monosem.theory.problem import best_decoder as best_decoder
    from monosem.theory.problem import estimate_weights as estimate_weights
    from monosem.theory.problem import feature_losses as feature_losses
    from monosem.theory.problem import gradients as gradients
    from monosem.theory.problem import load_problem as load_problem
    from monosem.theory.problem import loss as loss
    from monosem.theory.problem import sigma as sigma
    from monosem.theory.search.acs import SearchResult as SearchResult
    from monosem.theory.search.acs import acs as acs
    from monosem.theory.search.acs import sampled_acs as sampled_acs
    from monosem.theory.search.atlas import AtlasEntry as AtlasEntry
    from monosem.theory.search.atlas import atlas as atlas
    from monosem.theory.search.atlas import partitions as partitions
    from monosem.theory.search.certified import certified_optimum as certified_optimum
    from monosem.theory.walls import ClosedMinimum as ClosedMinimum
    from monosem.theory.walls import Standing as Standing
    from monosem.theory.walls import closed_minimum as closed_minimum
    from monosem.theory.walls import nonnegative_maximum as nonnegative_maximum
    from monosem.theory.walls import standing as standing
    from monosem.theory.zeroset import mirrored_pair as mirrored_pair
    from monosem.theory.zeroset import recovery as recovery
    from monosem.theory.zeroset import unrecovering as unrecovering
    from monosem.theory.zeroset import zero_set as zero_set

show(__name__)

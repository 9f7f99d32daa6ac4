"""CHECKS: every check by its name."""

from monosem.base.registry import Registry
from monosem.theory.checks.approximation import LOSS_APPROXIMATION
from monosem.theory.checks.base import Check
from monosem.theory.checks.convexity import BICONVEXITY, CONVEX_REGIONS
from monosem.theory.checks.dead import DEAD_LATENTS, L1_SCALE
from monosem.theory.checks.hierarchy import ABSORPTION, ABSORPTION_PRINTED, PARENT_INVISIBLE
from monosem.theory.checks.optima import CONSTRUCTION
from monosem.theory.checks.stationary import EXAMPLE_35, PERRON, PRINTED_36, REPAIRED_36
from monosem.theory.checks.zero import ZERO_DIMENSION, ZERO_LOSS, ZERO_WITHOUT_RECOVERY

CHECKS: Registry[Check] = Registry("check")
for _check in (
    LOSS_APPROXIMATION,
    BICONVEXITY,
    CONVEX_REGIONS,
    CONSTRUCTION,
    ZERO_LOSS,
    ZERO_WITHOUT_RECOVERY,
    ZERO_DIMENSION,
    EXAMPLE_35,
    PRINTED_36,
    REPAIRED_36,
    PERRON,
    ABSORPTION,
    ABSORPTION_PRINTED,
    PARENT_INVISIBLE,
    DEAD_LATENTS,
    L1_SCALE,
):
    CHECKS.add(_check.name, _check)
